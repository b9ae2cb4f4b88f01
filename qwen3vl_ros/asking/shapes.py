"""Whether what was boxed can have the form that its name says: the model names, depth measures.

Only what is clear counts, and only of names whose form everybody knows: nothing can be put into a ball or a cube, which is as high as it
is long, no level top closes a mug or a bowl, which is neither flat nor tall, and a mug is not as large as the arm's own base. How narrow a
thing is says nothing, because half of it may not be seen. Knows no models.
"""

from __future__ import annotations

from typing import Sequence

from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.questions.aliases import same_thing
from qwen3vl_ros.questions.others import plain_words

_SOLID, _HOLLOW = ("ball", "cube"), ("mug", "bowl")
_SMALL = ("ball", "cube", "cylinder", "mug")
_NARROWEST_M = 0.18  # no arm's work is a cylinder wider than this: it is a part of a robot
# Least and most, over the longer level side; that of a cube is never longer than it is high, however much of it is hidden.
_HEIGHTS = {"bowl": (0.18, 1.3), "cube": (0.7, float("inf"))}


# Least over greatest side: of what may be of the name, and of what is typical of it.
_CUBIC = {"box": (0.86, 0.75), "cube": (0.72, 0.85)}


def doubtful(name: str, size_m: Sequence[float]) -> bool:
    """Whether a thing of such sides would rather be called otherwise, if there were another: a box whose sides are all alike, a cube whose
    sides are not."""
    noun, cubic = _noun(name), min(size_m) / max(size_m)
    return (noun == "box" and cubic > _CUBIC[noun][0]) or (noun == "cube" and cubic < _CUBIC[noun][0])


def typical(name: str, size_m: Sequence[float]) -> bool:
    """Whether a thing of such sides is what `doubtful` finds wanting."""
    noun, cubic = _noun(name), min(size_m) / max(size_m)
    return (noun == "box" and cubic < _CUBIC[noun][1]) or (noun == "cube" and cubic > _CUBIC[noun][1])


def _noun(name: str) -> str:
    said = plain_words(name)[-1]
    return next((noun for noun in _CUBIC if same_thing(said, noun)), said)


def contradicts(name: str, thing: Thing, size_m: tuple[float, float, float], closed: bool = False) -> bool:
    """Whether a thing's measured length, width and height (metres), and its room inside, are clearly those of another kind than its name
    says. closed: a level top was seen where it would be open.
    """
    noun = plain_words(name)[-1]
    if min(size_m) > _NARROWEST_M and any(same_thing(noun, known) for known in _SMALL):
        return True
    if any(same_thing(noun, known) for known in _SOLID) and thing.inside is not None:
        return True
    if closed and thing.inside is None and any(same_thing(noun, known) for known in _HOLLOW):
        return True
    least, most = next((h for known, h in _HEIGHTS.items() if same_thing(noun, known)), (0.0, float("inf")))
    return not least * size_m[0] <= size_m[2] <= most * size_m[0]
