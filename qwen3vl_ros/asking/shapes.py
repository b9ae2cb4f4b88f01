"""Whether what was boxed can have the form that its name says: the model names, depth measures.

Only what is clear counts, and only of names whose form everybody knows: nothing can be put into a ball or a cube, which is as high as it
is long, no level top closes a mug or a bowl, which is neither flat nor tall, and a mug is not as large as the arm's own base. How narrow a
thing is says nothing, because half of it may not be seen. Knows no models.
"""

from __future__ import annotations

from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.questions.aliases import same_thing
from qwen3vl_ros.questions.others import plain_words
from qwen3vl_ros.types import Detection3D

_SOLID, _HOLLOW = ("ball", "cube"), ("mug", "bowl")
_SMALL = ("ball", "cube", "cylinder", "mug")
_NARROWEST_M = 0.18  # no arm's work is a cylinder wider than this: it is a part of a robot
# Least and most, over the longer level side; that of a cube is never longer than it is high, however much of it is hidden.
_HEIGHTS = {"bowl": (0.18, 1.3), "cube": (0.7, float("inf"))}


# By noun, of two measures: what hardly any thing of the noun is beyond, and what is typical of it, which lies on the other side.
# cubic: least over greatest side. angular: as in Detection3D; of 1,070 boxes and cubes seen through noise 10 are below 0.2, of 1,230 round
# things 8 are above 0.6.
_CUBIC = {"box": (0.86, 0.75), "cube": (0.72, 0.85)}
_ANGULAR = {"box": (0.2, 0.5), "cube": (0.2, 0.5), "ball": (0.6, 0.25), "cylinder": (0.6, 0.25)}


def doubtful(seen: Detection3D) -> list[bool]:
    """By each measure, whether a thing would rather be called otherwise, if there were another: a box whose sides are all alike, a cube whose
    sides are not, a round cube, an angular ball."""
    return [value > limit if limit > usual else value < limit for value, limit, usual in _measured(seen)]


def typical(seen: Detection3D) -> list[bool]:
    """By each measure, whether a thing is what `doubtful` finds wanting."""
    return [value < usual if limit > usual else value > usual for value, limit, usual in _measured(seen)]


def _measured(seen: Detection3D) -> list[tuple[float, float, float]]:
    said = plain_words(seen.label)[-1]
    noun = next((noun for noun in _ANGULAR if same_thing(said, noun)), said)
    measures = (min(seen.size_m) / max(seen.size_m), _CUBIC), (seen.angular, _ANGULAR)
    return [(value, *limits[noun]) for value, limits in measures if noun in limits]


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
