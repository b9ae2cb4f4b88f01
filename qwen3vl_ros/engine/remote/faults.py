"""What can go wrong between us and a server, and what to do about it: transport errors and HTTP statuses -> our errors.

Knows no answers and sends nothing. No message of it says the key.
"""

from __future__ import annotations

import email.utils
import json
import re
import ssl
from datetime import datetime, timezone

import httpx

from qwen3vl_ros.engine.remote.events import Told, error_message
from qwen3vl_ros.types import EngineError, EngineUnavailable, Generation, InvalidInput, ModelNotFound

_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|max_model_len|max_seq_len|max_position|maximum (?:input|prompt|sequence) length|"
    r"too (?:long|many tokens)|longer than|exceeds?\b.{0,80}(?:tokens|length|context)",
    re.I | re.S,
)
_LOADING = re.compile(
    r"\bloading\b|still (?:starting|loading)|not (?:yet )?ready|warming up|overloaded|server is busy", re.I
)
_ABOUT_SCHEMA = re.compile(r"response_format|json_schema|guided|grammar|structured", re.I)


_ABOUT_FILES = re.compile(r"allowed[-_]local[-_]media[-_]path|local (?:media )?files?\b|file://", re.I)
_ENDLESS_SPACE = 32  # characters at the end of an answer; layouts have three
_FENCE = re.compile(r"```(?:json)?\n(.*)\n```", re.S)


class Again(Exception):
    """Nothing of an answer came, so the request may be sent once more, after after_s seconds if the server
    says so. loading: the server is there and has said that it cannot answer yet."""

    def __init__(self, error: EngineError, after_s: float = 0.0, loading: bool = False):
        super().__init__(str(error))
        self.error, self.after_s, self.loading = error, after_s, loading


class Faults:
    """Names what one server does wrong. timeout_s: the longest silence that it is allowed."""

    def __init__(self, url: str, key: str, timeout_s: float):
        self._url, self._key, self._timeout_s = url, key, timeout_s

    def lost(self, error: httpx.HTTPError, tokens: int, safe: bool) -> Exception:
        """The error for a request that the transport failed. safe: nothing of an answer came."""
        what = self.clean(f"{type(error).__name__}: {error}".removesuffix(": "))
        if _certificate_fault(error):
            return EngineError(
                f"the certificate of {self._url} is not trusted ({what}); name its authority "
                "in remote.ca_file. There is no way to skip the check"
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Again(EngineUnavailable(f"cannot connect to {self._url} ({what}); is the server running?"))
        if isinstance(error, httpx.TimeoutException):
            return EngineUnavailable(
                f"{self._url} was silent for more than remote.timeout = "
                f"{self._timeout_s:g} s, {tokens} tokens into the answer ({what})"
            )
        lost = EngineUnavailable(f"{self._url} broke the connection {tokens} tokens into the answer ({what})")
        broken = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
        return Again(lost) if safe and broken else lost

    def refusal(self, response: httpx.Response, raw: bytes, with_schema: bool) -> Exception:
        """The error for an HTTP status other than 200."""
        status = response.status_code
        try:
            said = error_message(json.loads(raw))
        except (ValueError, RecursionError):
            said = ""
        said = self.clean(said or raw[:300].decode(errors="replace").strip() or response.reason_phrase)[:600]
        what = f"{self._url} answered {status}: {said}"
        if _ABOUT_FILES.search(said):
            return InvalidInput(
                f"{what}; remote.image_transport is file, and this server reads no files of remote.image_dir: start it with that "
                "directory allowed (vLLM: --allowed-local-media-path DIR), or set remote.image_transport to base64"
            )
        if status in (429, 503):
            unavailable = EngineUnavailable(f"{what} (overloaded or starting)")
            return Again(unavailable, retry_after_s(response), loading=status == 503)
        if status == 413:
            return EngineError(
                f"{what}; the request is larger than the server takes: lower generation.max_pixels, or raise its limit"
            )
        if status in (401, 403):
            return EngineError(
                f"{what}; put a key of this server into an environment variable and its name into remote.api_key_env"
            )
        if status == 404:
            return ModelNotFound(f"{what}; check remote.url and remote.model")
        if status < 400:
            return EngineError(f"{what}; redirects are not followed: set remote.url to the address it leads to")
        if status < 500 and with_schema and _ABOUT_SCHEMA.search(said):
            return EngineError(f"{what}; the server cannot keep answers to this JSON schema: ask without one")
        if _TOO_LONG.search(said):
            return self._too_long(what)
        if status >= 500:
            return EngineUnavailable(f"{what}; see the server's log")
        return EngineError(f"{what}; the server refuses such requests")

    def told(self, error: Told, tokens: int) -> Exception:
        """The error for one that the server told inside its answer."""
        what = self.clean(str(error))
        code = _code(error.body)
        if _TOO_LONG.search(what):
            return self._too_long(what)
        if code in (429, 503) or _LOADING.search(what):
            unavailable = EngineUnavailable(f"{what} (overloaded or starting)")
            return unavailable if tokens else Again(unavailable, loading=code != 429)
        return EngineUnavailable(f"{what}; see the server's log") if code >= 500 else EngineError(what)

    def no_stream(self, kind: str, raw: bytes) -> Exception:
        """The error for an answer of another media type, which may be an error object with status 200."""
        begin = self.clean(raw[:120].decode(errors="replace"))
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        if error_message(body):
            return self.told(Told(body), 0)
        return EngineError(
            f"{self._url} answered with {kind or 'no content type'} instead of a stream: "
            f"{begin!r}; the server must support stream=true"
        )

    def stray(self, text: str, tokens: int) -> Exception:
        """The error for an answer that broke off behind words that are no event."""
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if error_message(body):
            return self.told(Told(body), tokens)
        what = f"the server's answer is no event stream, it holds {self.clean(text)[-200:]!r}"
        if _TOO_LONG.search(text):
            return self._too_long(what)
        return EngineError(f"{what}; check that remote.url is the base of an OpenAI-compatible API")

    def refuse_unguided(self, said: Generation, trailing_space: int) -> None:
        """Raises EngineError for an answer that a server was to hold to a schema, and did not."""
        off = "or set generation.guided to false"
        if trailing_space >= _ENDLESS_SPACE:
            raise EngineError(
                f"{self._url} let the model write white space without end ({said.text[-40:]!r} and {trailing_space} "
                "characters of it): its own reading of a JSON schema allows that. Not the model is to blame: forbid it there "
                '(vLLM: --structured-outputs-config \'{"backend": "xgrammar", "disable_any_whitespace": true}\'; SGLang: '
                f"--constrained-json-disable-any-whitespace), {off}"
            )
        if said.finish_reason == "stop" and not _is_json(said.text):
            raise EngineError(
                f"{self._url} did not hold its answer to the schema that was sent ({said.text[:60]!r}): it ignores what it "
                f"does not know; use a server that keeps answers to a grammar or JSON schema, {off}"
            )

    def _too_long(self, what: str) -> EngineError:
        return EngineError(
            f"{what}; prompt, images and answer do not fit the server's context: lower "
            "generation.max_new_tokens or generation.max_pixels, or raise the server's "
            "limit"
        )

    def about_length(self, error: Exception) -> bool:
        """Whether the error is that of a prompt that does not fit."""
        return _TOO_LONG.search(str(error)) is not None

    def clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _is_json(text: str) -> bool:
    """Whether an answer is one JSON value, fenced or bare."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


async def beginning(response: httpx.Response, most: int) -> bytes:
    """The first bytes of a body, hardly more than `most`: a body may have no end."""
    raw = b""
    async for received in response.aiter_bytes():
        raw += received
        if len(raw) >= most:
            break
    return raw


def retry_after_s(response: httpx.Response) -> float:
    """Seconds until the server wants to be asked again: of Retry-After, a number or an HTTP date; 0
    without."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    at = at.replace(tzinfo=at.tzinfo or timezone.utc)
    return max((at - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _code(body: object) -> int:
    """The status that an error object names, 0 without."""
    error = body.get("error") if isinstance(body, dict) else None
    for holder in (error, body):
        code = holder.get("code") or holder.get("status") if isinstance(holder, dict) else None
        if isinstance(code, int) or (isinstance(code, str) and code.isdecimal() and len(code) == 3):
            return int(code)
    return 0


def _certificate_fault(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
