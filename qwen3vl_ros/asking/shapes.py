"""Whether what was boxed can have the form that its name says: the model names, depth measures.

Only what is clear counts, and only of names whose form everybody knows: nothing can be put into a ball or a cube, a bowl is neither flat
nor tall. How wide a thing is says nothing, because half of it may not be seen. Knows no models.
"""

from __future__ import annotations

from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.questions.aliases import in_english, same_thing

_SOLID = ("ball", "cube")
_HEIGHTS = {"bowl": (0.18, 1.3)}  # least and most, over the longer level side


def contradicts(name: str, thing: Thing, size_m: tuple[float, float, float]) -> bool:
    """Whether a thing's measured length, width and height (metres), and its room inside, are clearly those of another kind than its name
    says.
    """
    noun = in_english(name.strip()).lower().split(" ")[-1]
    if any(same_thing(noun, known) for known in _SOLID):
        return thing.inside is not None
    least, most = next((h for known, h in _HEIGHTS.items() if same_thing(noun, known)), (0.0, float("inf")))
    return not least * size_m[0] <= size_m[2] <= most * size_m[0]
