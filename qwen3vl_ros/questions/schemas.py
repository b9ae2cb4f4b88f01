"""The JSON schema an answer to a request keeps, for engines that can hold the model to one.

A schema says what `answers.py` reads without repair: keys, number of numbers, their ranges, number of objects. What
it cannot say is that one corner lies left of the other: a box without area is still well formed. Knows nothing of
engines, tokens and white space.
"""

from __future__ import annotations

from typing import Any

from qwen3vl_ros.types import Request, Task

MAX_OBJECTS = 100  # beyond 40 to 50 the models only repeat themselves
_METRES = {"type": "number", "exclusiveMinimum": -1000, "exclusiveMaximum": 1000}
_EXTENT = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1000}
_ANGLE = {"type": "number", "minimum": -2, "maximum": 2}  # in units of pi
_COORDINATE = {"type": "integer", "minimum": 0, "maximum": 1000}
_PHRASE = {"type": "string", "minLength": 1, "maxLength": 200}
_LINE = {"type": "string", "pattern": r"^[^\s\p{C}].{0,999}$"}  # begins with something to be seen
_DECIMALS = {"multipleOf": 0.0001}  # a number has to end somewhere


def schema_for(request: Request) -> dict[str, Any] | None:
    """The schema of the answer to `request`; None for ASK, whose answer is prose.

    Labels are the model's own words, not only those asked for: held to "red cube", a model that sees a black one would
    have to call it red, and a guessed name sends a gripper to the wrong thing.
    """
    if request.task is Task.ASK:
        return None
    if request.task is Task.READ_TEXT:
        return _objects("bbox_2d", [_COORDINATE] * 4, "text_content", _LINE)
    if request.task is Task.DETECT:
        return _objects("bbox_2d", [_COORDINATE] * 4, "label", _PHRASE)
    if request.task is Task.POINT:
        return _objects("point_2d", [_COORDINATE] * 2, "label", _PHRASE)
    numbers = [_METRES, _METRES, _EXTENT] + [_EXTENT] * 3 + [_ANGLE] * 3  # z lies in front of the camera
    return _objects("bbox_3d", [n | _DECIMALS for n in numbers], "label", _PHRASE)


def _objects(key: str, numbers: list[dict[str, Any]], name: str, text: dict[str, Any]) -> dict[str, Any]:
    place = {"type": "array", "prefixItems": numbers, "minItems": len(numbers), "maxItems": len(numbers)}
    each = {
        "type": "object",
        "properties": {key: place, name: text},
        "required": [key, name],
        "additionalProperties": False,
    }
    return {"type": "array", "items": each, "maxItems": MAX_OBJECTS}
