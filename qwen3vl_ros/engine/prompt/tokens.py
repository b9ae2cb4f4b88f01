"""From a prompt to token ids, and from token ids to bytes: the tokenizer and the chat template of a checkpoint.

Knows nothing of images and clips but how many tokens each takes and when its frames were, and nothing of any runtime.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from qwen3vl_ros.engine.checkpoint import read_json
from qwen3vl_ros.types import EngineError, WrongModel

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
ENDS = ("<|im_end|>", "<|endoftext|>")
THINK = "<think>"
_PROMPT = "\ue000prompt\ue000"


@dataclass(frozen=True)
class ClipTokens:
    """A clip in a prompt: the time of each of its frames (pairs of pictures) and the visual tokens each takes."""

    times_s: tuple[float, ...]
    frame_tokens: int

    @property
    def text(self) -> str:
        """What stands in the prompt, with one token for each frame. The template's own start and end stay around it, as
        transformers 5 has it (4.57 dropped them)."""
        return "".join(f"<{t:.1f} seconds>{VISION_START}{VIDEO}{VISION_END}" for t in self.times_s)


class ChatTokens:
    """Tokenizer and chat template of one checkpoint. `thinking`: the template opens a <think> part."""

    def __init__(self, directory: Path):
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise WrongModel(f"{path} is no tokenizer: {error}; copy it again from the original model") from error
        self._template = _chat_template(directory)
        self._around: dict[tuple[int, bool], _Around] = {}
        self.image_id, self.video_id = self._required(IMAGE), self._required(VIDEO)
        self.stop_ids = frozenset(
            {self._required(ENDS[0])}
            | _generation_ends(directory)
            | {i for i in map(self._tokenizer.token_to_id, ENDS) if i is not None}
        )
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        self._literal = {i: token.content for i, token in added.items() if not token.special}
        self._control = re.compile("|".join(re.escape(token.content) for token in added.values() if token.special))
        if '"ByteLevel"' not in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder")):
            raise WrongModel(f"{path} is not a byte-level tokenizer, as every Qwen3-VL has; copy the original")
        self._byte_of = _bytes_of_byte_level()
        self._bytes: dict[int, bytes] = {}
        self.thinking = self._render(0).rstrip().endswith(THINK)
        # Text that looks like a control token must stay text: a phrase may not end the prompt or add an image.
        self._tokenizer.encode_special_tokens = True

    def encode(
        self, prompt: str, image_tokens: Sequence[int], clips: Sequence[ClipTokens] = (), text_first: bool = False
    ) -> list[int]:
        """Token ids of one user message, ready for the answer: images of so many tokens each, clips, then `prompt`; or
        `prompt` first."""
        key = len(image_tokens), text_first
        around = self._around.get(key) if not clips else None
        if around is None:
            around = self._encode_template(len(image_tokens), clips, text_first)
        if not clips:
            self._around[key] = around
        said = self._tokenizer.encode(around.lead + prompt + around.trail, add_special_tokens=False).ids
        lengths = {
            self.image_id: iter(image_tokens),
            self.video_id: iter([clip.frame_tokens for clip in clips for _ in clip.times_s]),
        }
        head, tail = (
            [i for token in part for i in ([token] * next(lengths[token]) if token in lengths else [token])]
            for part in (around.head, around.tail)
        )
        return head + said + tail

    def bytes_of(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token stands for; none for control tokens and ids the tokenizer does not know."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._special:
            return b""
        if token_id in self._literal:
            return self._literal[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        return b"" if piece is None else bytes(self._byte_of[c] for c in piece)

    def _encode_template(self, images: int, clips: Sequence[ClipTokens], text_first: bool) -> _Around:
        before, found, after = self._render(images, len(clips), text_first).partition(_PROMPT)
        if not found or _PROMPT in after:
            raise WrongModel("the chat template does not use the prompt exactly once; restore the original one")
        for pad, count, what in ((IMAGE, images, "images"), (VIDEO, len(clips), "clips")):
            made = (after if text_first else before).count(pad)
            if made != count:
                raise WrongModel(
                    f"the chat template makes {made} {pad} of {count} {what} "
                    f"{'behind' if text_first else 'before'} the prompt; restore the original one"
                )
        texts = iter([clip.text for clip in clips])
        before, after = (re.sub(re.escape(VIDEO), lambda _: next(texts), part) for part in (before, after))
        # Plain text beside the prompt is encoded with it, because words may join across the seam; control tokens cannot.
        head = max((m.end() for m in self._control.finditer(before)), default=0)
        first = self._control.search(after)
        tail = first.start() if first else len(after)
        self._tokenizer.encode_special_tokens = False
        try:
            ids = [self._tokenizer.encode(t, add_special_tokens=False).ids for t in (before[:head], after[tail:])]
        finally:
            self._tokenizer.encode_special_tokens = True
        return _Around(ids[0], before[head:], after[:tail], ids[1])

    def _render(self, images: int, clips: int = 0, text_first: bool = False) -> str:
        content = [{"type": "image"}] * images + [{"type": "video"}] * clips
        text = [{"type": "text", "text": _PROMPT}]
        content = text + content if text_first else content + text
        try:
            return self._template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        except TemplateError as error:
            raise WrongModel(f"the chat template fails: {error}; restore the original one") from error

    def _required(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise WrongModel(f"the tokenizer has no {token}; it is not that of a Qwen3-VL: copy the original one")
        return token_id


@dataclass(frozen=True)
class _Around:
    """What the template puts around a prompt: control tokens as ids, and the plain text between them and the prompt."""

    head: list[int]
    lead: str
    trail: str
    tail: list[int]


def _chat_template(directory: Path):
    text = None
    if (directory / "chat_template.jinja").is_file():
        text = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if text is None and (directory / name).is_file():
            text = read_json(directory / name).get("chat_template")
    if not isinstance(text, str):
        raise WrongModel(
            f"{directory} has no chat template (chat_template.jinja, chat_template.json, or in "
            "tokenizer_config.json); copy it from the original model"
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise_template_error
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise WrongModel(f"the chat template in {directory} is broken: {error}; restore the original one") from error


def _raise_template_error(message: str) -> None:
    raise TemplateError(message)


def _generation_ends(directory: Path) -> set[int]:
    path = directory / "generation_config.json"
    ends = read_json(path).get("eos_token_id", []) if path.is_file() else []
    ends = [ends] if isinstance(ends, int) else ends
    if not isinstance(ends, list) or not all(isinstance(e, int) for e in ends):
        raise EngineError(f"eos_token_id in {path} is {ends!r}; it must be an integer or a list of integers")
    return set(ends)


def _bytes_of_byte_level() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary: printable ones stand for themselves, the others
    are shifted to U+0100 and up in order (GPT-2's scheme)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
