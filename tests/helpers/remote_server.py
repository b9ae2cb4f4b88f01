"""A real HTTP server that speaks the OpenAI streaming protocol over any engine of ours, and can be told to
fail.

`ModelServer(engine)` listens on a free port of this machine. `faults` holds one name per coming chat request,
taken in order; without one the request is answered. `RedFinder` is an engine that really sees, if only red,
for coordinates.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Iterable
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from qwen3vl_ros.engine.base import Limits, Prompt, Turn
from qwen3vl_ros.types import Generation

STATUS_FAULTS = {
    "400 context": (
        400,
        {},
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens.",
        },
    ),
    "400 odd": (400, {}, {"error": {"message": "no such thing", "type": "invalid_request_error"}}),
    "401": (401, {}, {"error": {"message": "Incorrect API key provided: KEY"}}),
    "403": (403, {}, {"detail": "Forbidden for KEY"}),
    "404": (404, {}, {"error": {"message": "The model `x` does not exist."}}),
    "429": (429, {"Retry-After": "0"}, {"error": {"message": "rate limit"}}),
    "500": (500, {}, {"error": "boom"}),
    "503": (503, {}, {"error": {"message": "loading"}}),
    "503 later": (503, {"Retry-After": "0.7"}, {"error": {"message": "loading"}}),
    "503 much later": (503, {"Retry-After": "3600"}, {"error": {"message": "loading"}}),
    "302": (302, {"Location": "http://127.0.0.1:9/v1"}, {}),
    "garbage status": (418, {}, "\ud800 teapot"),
}


RESET = b"reset"


class ModelServer(ThreadingHTTPServer):
    """engine: anything with generate(prompt, limits). Close with `with`.

    requests: bodies of the chat requests. cut: how many answers the client broke off. token_delay_s: between
    tokens. refuses: names of body fields answered by 400. logprobs: whether they are given when asked for. owner: whose
    software the list of models names. aliases: models that it answers for and does not list. raw: media type and pieces of the body of the coming answers, before any fault; a
    last piece of RESET breaks the connection there. statuses: of the coming answers, with their words. fails_at: the status
    and words for requests with a field. endless: paths whose body has no end, and the piece that it repeats. health: statuses of the coming looks at /health and /v1/models, then 404 and 200.
    """

    daemon_threads = True

    def __init__(
        self,
        engine,
        *,
        models=("embedded",),
        logprobs: bool = True,
        tokens_per_event: int = 1,
        certificate: tuple[str, str] | None = None,
        api_key: str = "",
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.logprobs, self.tokens_per_event = list(models), logprobs, tokens_per_event
        self.aliases: tuple[str, ...] = ()
        self.health: deque[int] = deque()
        self.endless: dict[str, bytes] = {}
        self.raw: deque[tuple[str, tuple[bytes, ...]]] = deque()
        self.statuses: deque[tuple[int, str]] = deque()
        self.fails_at: dict[str, tuple[int, str]] = {}
        self.reasoning, self.api_key, self.owner = "", api_key, "qwen3vl"
        self.faults: deque[str] = deque()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.refuses: tuple[str, ...] = ()
        self.token_delay_s = 0.0
        self.models_status = 200
        self.cut = threading.Event()
        self._engine, self._lock = engine, threading.Lock()
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}/v1"

    @lru_cache(64)
    def _answered(self, chat: tuple[tuple[str, str, tuple[bytes, ...]], ...], max_tokens: int) -> Generation:
        *history, asked = (Turn(role, text, [_decoded(png) for png in pngs]) for role, text, pngs in chat)
        with self._lock:
            prompt = Prompt(asked.text, asked.images, history=history)
            return self._engine.generate(prompt, Limits(max_tokens, 3600.0, 100))

    def answer(self, body: dict) -> Generation:
        return self._answered(tuple(map(_turn, body["messages"])), body["max_tokens"])

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()

    def handle_error(self, request, client_address) -> None:
        """Broken connections are what is tested here; they are counted, not printed."""


def _turn(message: dict) -> tuple[str, str, tuple[bytes, ...]]:
    """Role, text, images."""
    parts = message["content"]
    if isinstance(parts, str):
        return message["role"], parts, ()
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return message["role"], text, tuple(map(_bytes_at, urls))


def _decoded(png: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _bytes_at(url: str) -> bytes:
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).read_bytes()
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64", kind
    return base64.b64decode(data, validate=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path in self.server.endless:
            return self._raw("application/json", itertools.repeat(self.server.endless[self.path]))
        status = self.server.models_status if self.path == "/v1/models" else 404
        if self.server.health:
            status = self.server.health.popleft()
        if status != 200:
            return self._json(status, {}, {"detail": "Not Found"})
        key = self.headers.get("Authorization")
        if self.server.api_key and key != f"Bearer {self.server.api_key}":
            return self._json(401, {}, {"error": {"message": f"Incorrect API key: {key}"}})
        self._json(
            200,
            {},
            {"object": "list", "data": [{"id": name, "owned_by": self.server.owner} for name in self.server.models]},
        )

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append(body)
        server.headers.append(dict(self.headers))
        if server.models and body["model"] not in (*server.models, *server.aliases):
            return self._json(404, {}, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        if not body.get("stream"):
            if self.path in self.server.endless:
                return self._raw("application/json", itertools.repeat(self.server.endless[self.path]))
            return self._json(200, {}, {"choices": [{"message": {"content": "!"}, "finish_reason": "length"}]})
        refused = [name for name in server.refuses if name in body]
        if refused:
            return self._json(400, {}, {"detail": f"Unexpected field {refused[0]}"})
        failing = [answer for name, answer in server.fails_at.items() if name in body]
        if failing or server.statuses:
            status, words = failing[0] if failing else server.statuses.popleft()
            return self._json(status, {}, {"error": {"message": words}})
        if server.raw:
            return self._raw(*server.raw.popleft())
        fault = server.faults.popleft() if server.faults else ""
        if fault in STATUS_FAULTS:
            status, headers, said = STATUS_FAULTS[fault]
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            return self._json(status, headers, json.loads(json.dumps(said).replace("KEY", key)))
        if fault == "hang":
            return self._wait_for_end()
        if fault == "reset":
            return self._reset()
        if fault == "closed":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if fault == "json":
            return self._json(200, {}, {"choices": [{"message": {"content": "[]"}}]})
        self._stream(body, fault)

    def _raw(self, media_type: str, pieces: Iterable[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece is RESET:
                return self._reset()
            self._send(piece)
            time.sleep(0.002)  # so that it travels alone
        self._send(b"", last=True)

    def _stream(self, body: dict, fault: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        server = self.server
        if fault == "hang after headers":
            return self._wait_for_end()
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
        said = server.answer(body)
        ends = (0, *said.token_ends)
        tokens = [said.text[a:b] for a, b in zip(ends, ends[1:])]
        for word in server.reasoning.split():
            self._event({"choices": [{"index": 0, "delta": {"reasoning_content": word + " "}}]})
        count = server.tokens_per_event
        for index in range(0, len(tokens), count):
            if index >= 4 * count and fault and not fault.endswith("after end"):
                return self._fail(fault)
            part = slice(index, index + count)
            delta = {"index": 0, "delta": {"content": "".join(tokens[part])}, "finish_reason": None}
            if body.get("logprobs") and server.logprobs:
                delta["logprobs"] = {
                    "content": [
                        {"token": t, "logprob": float(p), "bytes": list(t.encode()), "top_logprobs": []}
                        for t, p in zip(tokens[part], said.logprobs[part])
                    ]
                }
            if not self._event({"choices": [delta]}):
                return
            time.sleep(server.token_delay_s)
        reason = {"stop": "stop", "length": "length"}[said.finish_reason]
        end = {"index": 0, "delta": {}, "finish_reason": reason}
        if body.get("logprobs") and server.logprobs and reason == "stop":
            end |= {"delta": {"content": ""}, "logprobs": {"content": [{"token": "<|im_end|>", "logprob": -0.01}]}}
        self._event({"choices": [end]})
        if body.get("stream_options", {}).get("include_usage"):
            self._event(
                {
                    "choices": [],
                    "usage": {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.generated_tokens},
                }
            )
        if fault == "hang after end":
            return self._wait_for_end()
        if fault == "reset after end":
            return self._reset()
        self._send(b"data: [DONE]\n\n")
        self._send(b"", last=True)

    def _fail(self, fault: str) -> None:
        """In the middle of an answer."""
        if fault == "hang mid-stream":
            return self._wait_for_end()
        if fault == "reset mid-stream":
            return self._reset()
        if fault == "abort":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]})
        said = {
            "malformed": b"bogus",
            "garbage JSON": b'data: {"choices": [',
            "not UTF-8": b'data: {"\xff\xfe"}',
            "error event": b'data: {"error": {"message": "out of memory"}}',
            "no object": b"data: 7",
            "odd choices": b'data: {"choices": 7}',
            "done early": b"data: [DONE]",
            "odd content": b'data: {"choices": [{"delta": {"content": 7}}]}',
        }
        if fault in said:
            self._send(said[fault] + b"\n\n")
        self._send(b"", last=True)

    def _event(self, value: dict) -> bool:
        return self._send(f"data: {json.dumps(value)}\n\n".encode())

    def _send(self, data: bytes, last: bool = False) -> bool:
        try:
            if data:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if last:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
            return True
        except OSError:
            self.server.cut.set()
            self.close_connection = True
            return False

    def _wait_for_end(self) -> None:
        """Say nothing until the client leaves."""
        self.connection.settimeout(600)
        try:
            if not self.connection.recv(1):
                self.server.cut.set()
        except OSError:
            pass
        self.close_connection = True

    def _reset(self) -> None:
        """A TCP reset instead of a proper end; it also destroys what the client has not read yet, hence the
        pause."""
        time.sleep(0.2)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile.close()
        self.close_connection = True

    def _json(self, status: int, headers: dict, value) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        for name, content in headers.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(data)


class RedFinder:
    """An engine that finds the red rectangle by its colour. `says(box_px, width, height) -> numbers` is its
    scale."""

    def __init__(self, says=None):
        self.info = SimpleNamespace(thinking=False)
        self._says = says or (lambda b, w, h: [1000 * v / (w, h)[i % 2] for i, v in enumerate(b)])

    def generate(self, prompt: Prompt, limits: Limits, control=None, on_text=None) -> Generation:
        rgb = prompt.images[0]
        height, width = rgb.shape[:2]
        red = (rgb[..., 0] > 150) & (rgb[..., 1:].max(axis=2) < 90)
        ys, xs = np.nonzero(red)
        text = "[]"
        if len(xs):
            numbers = self._says((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), width, height)
            numbers = ", ".join(f"{v:.6g}" for v in numbers)
            text = f'```json\n[{{"bbox_2d": [{numbers}], "label": "red rectangle"}}]\n```'
        return Generation(
            text,
            tuple(range(len(text))),
            np.full(len(text), -0.1, np.float32),
            tuple(range(1, len(text) + 1)),
            "stop",
            prompt_tokens=9,
            generated_tokens=len(text),
        )
