"""Whether what was boxed can have the form that its name says: the model names, depth measures.

Only what is clear counts, and only of names whose form everybody knows: a ball is as high as it is wide, a bowl no higher, nothing can be put
into a cube. Half of a thing may be hidden, and something may lie in it, so the bounds are wide. Knows no models.
"""

from __future__ import annotations

from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.questions.aliases import in_english, same_thing

# name: (least, most) of height over length, the most of length over width, whether it may be hollow; length is the longer level side.
_FORMS = {
    "ball": ((0.5, 1.6), 1.8, False),
    "cube": ((0.5, 1.7), 1.8, False),
    "bowl": ((0.18, 1.1), 1.8, True),
    "mug": ((0.45, 2.5), 2.2, True),
}


def contradicts(name: str, thing: Thing, size_m: tuple[float, float, float]) -> bool:
    """Whether a thing's measured length, width and height (metres) are clearly those of another kind than its name says."""
    noun = in_english(name.strip()).lower().split(" ")[-1]
    form = next((_FORMS[known] for known in _FORMS if same_thing(noun, known)), None)
    if form is None:
        return False
    (least, most), longest, hollow = form
    length, width, height = size_m
    return not (least * length <= height <= most * length and length <= longest * width) or (
        thing.inside is not None and not hollow
    )
