"""The parts of the JSON schemas that questions hold their answers to.

A schema says what the parsers read without repair: keys, number of numbers, their ranges, number of objects. What it
cannot say is that one corner lies left of the other: a box without area is still well formed. Labels are the model's own
words, not only those asked for: held to "red cube", a model that sees a black one would have to call it red, and a
guessed name sends a gripper to the wrong thing. Knows nothing of engines, tokens and white space.
"""

from __future__ import annotations

from typing import Any

MAX_OBJECTS = 100  # beyond 40 to 50 the models only repeat themselves
_METRES = {"type": "number", "exclusiveMinimum": -1000, "exclusiveMaximum": 1000}
_EXTENT = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1000}
_ANGLE = {"type": "number", "minimum": -2, "maximum": 2}  # in units of pi
_COORDINATE = {"type": "integer", "minimum": 0, "maximum": 1000}
_DECIMALS = {"multipleOf": 0.0001}  # a number has to end somewhere
BOX, POINT = [_COORDINATE] * 4, [_COORDINATE] * 2
BOX_3D = [n | _DECIMALS for n in (_METRES, _METRES, _EXTENT, *[_EXTENT] * 3, *[_ANGLE] * 3)]  # z in front of the camera
PHRASE = {"type": "string", "minLength": 1, "maxLength": 200}
LINE = {"type": "string", "pattern": r"^[^\s\p{C}].{0,999}$"}  # begins with something to be seen


def objects(key: str, numbers: list[dict[str, Any]], name: str, text: dict[str, Any]) -> dict[str, Any]:
    """A list of objects, each with `numbers` under `key` and `text` under `name`."""
    place = {"type": "array", "prefixItems": numbers, "minItems": len(numbers), "maxItems": len(numbers)}
    each = {
        "type": "object",
        "properties": {key: place, name: text},
        "required": [key, name],
        "additionalProperties": False,
    }
    return {"type": "array", "items": each, "maxItems": MAX_OBJECTS}
