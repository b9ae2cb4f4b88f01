"""From a chat to token ids, and from token ids to bytes: the tokenizer and the chat template of a checkpoint.

Knows nothing of images and clips but how many tokens each takes and when its frames were, and nothing of any runtime.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Sequence

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from qwen3vl_ros.engine.checkpoint import read_json
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
ENDS = ("<|im_end|>", "<|endoftext|>")
THINK = "<think>"
_TEXT = "\ue002text\ue002"  # stands for one, to see what a template does with it
_MARK, _OWN_MARK = "\ue000", "\ue001"  # in a control token that is text, and behind a mark that is text itself


@dataclass(frozen=True)
class ClipTokens:
    """A clip in a chat: the time of each of its frames (pairs of pictures) and the visual tokens each takes."""

    times_s: tuple[float, ...]
    frame_tokens: int

    @property
    def text(self) -> str:
        """What stands in the prompt, with one token for each frame. The template's own start and end stay around it, as
        transformers 5 has it (4.57 dropped them)."""
        return "".join(f"<{t:.1f} seconds>{VISION_START}{VIDEO}{VISION_END}" for t in self.times_s)


@dataclass(frozen=True)
class Message:
    """A turn of a chat (`Turn` in base.py): images of so many tokens each, then a clip, then text."""

    role: str
    text: str
    image_tokens: Sequence[int] = ()
    clip: ClipTokens | None = None


class ChatTokens:
    """Tokenizer and chat template of one checkpoint. `thinking`: the template opens a <think> part."""

    def __init__(self, directory: Path):
        self._directory = directory
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise WrongModel(f"{path} is no tokenizer: {error}; copy it again from the original model") from error
        self._template = _chat_template(directory)
        self.image_id, self.video_id = self._required(IMAGE), self._required(VIDEO)
        self.stop_ids = frozenset(
            {self._required(ENDS[0])}
            | _generation_ends(directory)
            | {i for i in map(self._tokenizer.token_to_id, ENDS) if i is not None}
        )
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        self._literal = {i: token.content for i, token in added.items() if not token.special}
        control = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, control))})")
        if '"ByteLevel"' not in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder")):
            raise WrongModel(f"{path} is not a byte-level tokenizer, as every Qwen3-VL has; copy the original")
        self._byte_of = _bytes_of_byte_level()
        self._bytes: dict[int, bytes] = {}
        # Text that looks like a control token must stay text: a phrase may not end the prompt or add an image.
        self._tokenizer.encode_special_tokens = True
        alone = self._render([Message("user", _TEXT)])
        if alone.count(_TEXT) != 1:
            raise WrongModel("the chat template does not use the prompt exactly once; restore the original one")
        self.thinking = alone.rstrip().endswith(THINK)

    def encode(self, chat: Sequence[Message], text_first: bool = False) -> list[int]:
        """Token ids of a chat whose last message waits for its answer. text_first: before the images of its message.

        Raises InvalidInput for a chat of several turns where the template has none.
        """
        if len(chat) > 1 and not self._keeps_turns:
            raise InvalidInput(
                f"the chat template of {self._directory} keeps no earlier turns, so no history can be asked about; ask "
                "without one, or restore the model's original template"
            )
        text = self._render(chat, text_first)
        clips = [message.clip for message in chat if message.clip]
        images = [count for message in chat for count in message.image_tokens]
        for pad, count, what in ((IMAGE, len(images), "images"), (VIDEO, len(clips), "clips")):
            if text.count(pad) != count:
                raise WrongModel(
                    f"the chat template makes {text.count(pad)} {pad} of {count} {what}; restore the original one"
                )
        texts = iter([clip.text for clip in clips])
        text = re.sub(re.escape(VIDEO), lambda _: next(texts), text)
        lengths = {
            IMAGE: iter(images),
            VIDEO: iter([clip.frame_tokens for clip in clips for _ in clip.times_s]),
        }
        ids: list[int] = []
        # What stands between two control tokens is encoded as one, because words may join across its seams.
        for number, part in enumerate(self._control.split(text)):
            if number % 2:
                ids += [self._tokenizer.token_to_id(part)] * (next(lengths[part]) if part in lengths else 1)
            else:
                ids += self._tokenizer.encode(_revealed(part), add_special_tokens=False).ids
        return ids

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

    @cached_property
    def _keeps_turns(self) -> bool:
        """Whether the template has every turn of a chat, in order."""
        texts = [f"{_TEXT}{n}{_TEXT}" for n in range(3)]
        try:
            chat = self._render([Message(role, t) for role, t in zip(("user", "assistant", "user"), texts)])
        except WrongModel:
            return False
        return re.findall("|".join(texts), chat) == texts

    def _render(self, chat: Sequence[Message], text_first: bool = False) -> str:
        """The chat in the template's words, with one IMAGE or VIDEO for each, and control tokens of our texts hidden."""
        messages = []
        for message in chat:
            seen = [{"type": "image"}] * len(message.image_tokens) + [{"type": "video"}] * bool(message.clip)
            text = [{"type": "text", "text": self._hidden(message.text)}]
            messages.append({"role": message.role, "content": text + seen if text_first else seen + text})
        try:
            return self._template.render(messages=messages, add_generation_prompt=True)
        except Exception as error:  # a template may divide by nought as well
            raise WrongModel(f"the chat template fails: {error}; restore the original one") from error

    def _hidden(self, text: str) -> str:
        """Text without control tokens: a mark stands in each. `_revealed` takes the marks out again."""
        return self._control.sub(lambda m: m[0][0] + _MARK + m[0][1:], text.replace(_MARK, _MARK + _OWN_MARK))

    def _required(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise WrongModel(f"the tokenizer has no {token}; it is not that of a Qwen3-VL: copy the original one")
        return token_id


def _revealed(text: str) -> str:
    return re.sub(f"{_MARK}({_OWN_MARK}?)", lambda m: _MARK if m[1] else "", text)


def _chat_template(directory: Path):
    text = None
    if (directory / "chat_template.jinja").is_file():
        text = (directory / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
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
