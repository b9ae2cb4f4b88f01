"""The text of an answer while it grows: in whole characters, and together what `transcribe` says at its end."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_network import Toy

from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.decoding.transcript import TextStream, transcribe

# Raw bytes, so that answers may be no UTF-8; and the words that decide where the answer begins.
ANSWERS = st.lists(
    st.sampled_from(
        [b"<think>", b"</think>", b"<thi", b" ", b"\n\t", "杯子".encode(), "😀".encode(), b"[1]", b"<", b"\xff"]
    )
    | st.binary(max_size=4)
    | st.text(max_size=4).map(str.encode),
    max_size=12,
).map(b"".join)
CUTS = st.lists(st.integers(0, 120), max_size=30)


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(c for c in cuts if c < len(raw))})
    return [raw[a:b] for a, b in zip(edges, edges[1:])]


def streamed(pieces: list[bytes], thinking: bool) -> list[str]:
    parts: list[str] = []
    stream = TextStream(parts.append, thinking)
    for piece in pieces:
        stream.add(piece)
    stream.add(b"", last=True)
    return parts


@example(b"<think>a</think>", [], False)
@example(b" <thin", [3], False)
@example(b"\xe6\x9d", [1], False)  # a character that is cut off
@example(b"a</think> \n b ", [5], True)
@given(ANSWERS, CUTS, st.booleans())
@settings(max_examples=400)
def test_the_parts_are_together_the_answer_whatever_the_tokens(raw, cuts, thinking):
    pieces = cut(raw, cuts)
    parts = streamed(pieces, thinking)
    assert "".join(parts) == transcribe(pieces, thinking).text == transcribe([raw], thinking).text
    assert all(parts), "an empty part is no news"


@given(st.text(max_size=40).filter(lambda text: not text.lstrip().startswith("<")), CUTS)
def test_nothing_waits_longer_than_it_must(text, cuts):
    """What is there after each token, but for a character that is not whole and white space that may be the last."""
    parts: list[str] = []
    stream, said = TextStream(parts.append, False), b""
    for piece in cut(text.encode(), cuts):
        stream.add(piece)
        said += piece
        assert "".join(parts) == said.decode(errors="ignore").strip()


@given(st.text(max_size=30), st.text(max_size=30).filter(lambda text: not text.lstrip().startswith("<")), CUTS)
def test_thoughts_are_not_handed_out_and_the_answer_behind_them_is_at_once(thoughts, text, cuts):
    raw = f"{thoughts.replace('</think>', '')}</think>".encode()
    parts: list[str] = []
    stream = TextStream(parts.append, True)
    for piece in cut(raw, cuts):
        stream.add(piece)
        assert not parts
    for letter in text:
        stream.add(letter.encode())
    assert "".join(parts) == text.strip()


def test_half_a_character_is_never_handed_out():
    for text in ("杯", "é", "😀", "a杯b"):
        parts = streamed([bytes([byte]) for byte in text.encode()], False)
        assert parts == list(text)


# -- in the decode loop ------------------------------------------------------------------------------------------------


class Guesses:
    """A drafter that guesses at given places, right or wrong."""

    def __init__(self, script: bytes, lengths: list[int], wrong: list[int]):
        self._script, self._lengths, self._wrong = script, list(lengths), wrong

    def propose(self, token_ids, most):
        count = self._lengths.pop(0) if self._lengths else 0
        at = len(token_ids)
        return [7 if at + i in self._wrong else t for i, t in enumerate(self._script[at : at + min(count, most)])]

    def judged(self, proposed, accepted):
        assert accepted <= len(proposed)


SPOKEN = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x07"), min_size=1, max_size=20).map(str.encode)


@given(SPOKEN, st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 30), max_size=4), st.booleans())
def test_the_parts_are_the_same_answer_whatever_was_drafted(said, lengths, wrong, thinking):
    def heard(drafter) -> tuple[str, bytes]:
        parts: list[str] = []
        stream = TextStream(parts.append, thinking)
        run = Toy.saying(said).decode(drafter, on_bytes=stream.add)
        stream.add(b"", last=True)
        assert "".join(parts) == transcribe(run.pieces, thinking).text
        return "".join(parts), b"".join(run.pieces)

    assert heard(Guesses(said, lengths, wrong)) == heard(None)


def test_a_cancel_from_the_listener_runs_no_further_pass():
    control, heard = Control(), []

    def listen(piece: bytes) -> None:
        heard.append(piece)
        if len(heard) == 3:
            control.cancel("enough")

    toy = Toy.saying(b"hello world")
    run = toy.decode(control=control, on_bytes=listen)
    assert (b"".join(heard), run.finish_reason, len(toy.passes)) == (b"hel", "cancelled", 3)


def test_what_the_listener_raises_comes_out():
    def listen(piece: bytes) -> None:
        raise KeyError("the client is gone")

    toy = Toy.saying(b"hello")
    with pytest.raises(KeyError, match="the client is gone"):
        toy.decode(on_bytes=listen)
    assert len(toy.passes) == 1
