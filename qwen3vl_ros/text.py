"""What is written in a picture: a frame in, lines with box, language and, where `translate_to` asks for it, translation out.

The lines are data. They are neither things, which are followed, placed or grasped, nor orders; and a translation that the model cannot make
is missing with its reason, never guessed. Knows nothing of ROS.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Iterable

from qwen3vl_ros.control import Control
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import ReadText, Translate
from qwen3vl_ros.questions.translate import MAX_LINES
from qwen3vl_ros.types import Cancelled, Frame, MalformedAnswer, PerceptionError, Scene, Text, TextLine, View
from qwen3vl_ros.zoom import WHOLE, Zoom

NO_LETTERS = "zxx"
# Unicode's names of letters begin with their script's; ISO 15924's codes of scripts that several languages write.
_SCRIPTS = {
    "ARABIC": "Arab",
    "ARMENIAN": "Armn",
    "BENGALI": "Beng",
    "CYRILLIC": "Cyrl",
    "DEVANAGARI": "Deva",
    "ETHIOPIC": "Ethi",
    "GEORGIAN": "Geor",
    "GREEK": "Grek",
    "GUJARATI": "Gujr",
    "GURMUKHI": "Guru",
    "HEBREW": "Hebr",
    "KANNADA": "Knda",
    "KHMER": "Khmr",
    "LAO": "Laoo",
    "LATIN": "Latn",
    "MALAYALAM": "Mlym",
    "MYANMAR": "Mymr",
    "SINHALA": "Sinh",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "THAI": "Thai",
}


def read_text(
    perception: Perception, frame: Frame, control: Control | None = None, camera: str = "", zoom: Zoom = WHOLE
) -> Text:
    """All the text in `frame`, translated into perception.config.translate_to, which may be empty. Raises as Perception.look; what
    keeps a translation from being made is Text.note, and no error.
    """
    scene = perception.look(frame, ReadText(), control, camera=camera, zoom=zoom)
    return text_of(perception, frame, scene, control, camera)


def text_of(
    perception: Perception, frame: Frame, scene: Scene, control: Control | None = None, camera: str = ""
) -> Text:
    """The lines of an answer to ReadText about `frame`, translated as in `read_text`. Raises Cancelled."""
    to = perception.config.translate_to
    lines = [TextLine(d.label, d.box_xyxy_px, language_of(d.label), d.score) for d in scene.detections_2d]
    known: dict[str, str] = {}
    note = ""
    if to:
        why = "the model said nothing for them"
        # What is in that language already, or has no letters, is its own translation.
        known = {line.text: line.text for line in lines if line.language.lower() in (to.lower(), NO_LETTERS)}
        foreign = list(dict.fromkeys(line.text for line in lines if line.text not in known))
        for start in range(0, len(foreign), MAX_LINES):
            batch = tuple(foreign[start : start + MAX_LINES])
            try:
                known |= zip(batch, _translated(perception, frame, Translate(batch, to), control, camera))
            except Cancelled:
                raise
            except PerceptionError as error:
                why = f"{type(error).__name__}: {error}"
                break  # what failed once fails again, and costs the stream its rate
        if missing := sum(not known.get(line.text) for line in lines):
            note = f"{missing} of {len(lines)} lines are not translated: {why}"
    translated = tuple(replace(line, translation=known.get(line.text, "")) for line in lines)
    return Text(translated, to, note)


def _translated(perception: Perception, frame: Frame, question: Translate, control: Control | None, camera: str):
    """Raises Cancelled, DeadlinePassed, MalformedAnswer, EngineError."""
    said = perception.generate(frame, question, control, camera=camera)
    try:
        return perception.read(question, said, View(frame.size_px)).value
    except MalformedAnswer as error:
        if said.finish_reason == "stop":
            raise
        raise MalformedAnswer(f"the answer was cut short ({said.finish_reason}): {error}", said.text) from error


def language_of(text: str) -> str:
    """A BCP-47 tag by the script of most of the letters: zh, ja (kana anywhere) or ko; "und-" and the script where many languages
    write it, because guessing among them from a few words would mostly be wrong; "zxx" without letters. Japanese without kana is
    taken for Chinese.
    """
    scripts = Counter(_scripts(text))
    if not scripts:
        return NO_LETTERS
    if scripts["ja"]:
        return "ja"
    return scripts.most_common(1)[0][0]


def _scripts(text: str) -> Iterable[str]:
    for c in unicodedata.normalize("NFKC", text):
        if not unicodedata.category(c).startswith("L"):
            continue
        first = unicodedata.name(c, "").partition(" ")[0]
        if first.startswith("CJK") or c == "々":
            yield "zh"
        elif first in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"):
            yield "ja"
        elif first == "HANGUL":
            yield "ko"
        elif first in _SCRIPTS:
            yield f"und-{_SCRIPTS[first]}"
        else:
            yield "und"
