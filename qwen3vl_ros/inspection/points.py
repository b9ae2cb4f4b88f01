"""The inspection file: which points are looked at, how, and when what is read there is alarming.

YAML, checked to its last key; what is wrong is told with file, line and column, and the way out. docs/inspection.md has the
format. Knows nothing of pictures, of models and of time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NoReturn

import yaml

from qwen3vl_ros.inspection import units
from qwen3vl_ros.inspection.alarms import AlarmRule
from qwen3vl_ros.questions import phrases
from qwen3vl_ros.types import InvalidInput

KINDS = ("gauge", "display", "state", "text", "count", "presence")  # in files; a watched anomaly is of kind "anomaly"
COLOURS = ("red", "yellow", "green")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Point:
    """One thing that is read. Valid once made by `read_points`.

    roi_xyxy_px: where it is in the picture; look_for: a phrase that finds it. One of the two is there. question: of a state.
    states: what yes and no mean. unit: UCUM. scale: (share of the sweep from the first mark to the last, value), ascending; of gauges.
    stops: values where the needle rests on a pin and reads nothing. sweep_deg: from the first mark to the last, None if unknown.
    check: "model", what the model says must agree, or "geometry", where it does not know the scale. max_rate: unit a second.
    zones: (name, low, high). reference: a picture of how the camera saw it. stale_after_s: without a look its reading is stale.
    """

    name: str
    kind: str
    camera: str = ""
    quantity: str = ""
    look_for: str = ""
    roi_xyxy_px: tuple[int, int, int, int] | None = None
    question: str = ""
    states: tuple[str, str] = ("yes", "no")
    unit: str = "1"
    scale: tuple[tuple[float, float], ...] = ()
    stops: tuple[float, ...] = ()
    sweep_deg: float | None = None
    check: str = "model"
    zones: tuple[tuple[str, float, float], ...] = ()
    alarms: tuple[AlarmRule, ...] = ()
    max_rate: float = math.inf
    period_s: float = 1.0
    stale_after_s: float = 30.0
    reference: Path | None = None

    @property
    def range(self) -> tuple[float, float]:
        """(least, greatest) value of the scale; infinite without one."""
        return (self.scale[0][1], self.scale[-1][1]) if self.scale else (-math.inf, math.inf)

    @property
    def span(self) -> float:
        low, high = self.range
        return high - low if self.scale else 1.0

    def zone_of(self, value: float) -> str:
        """The last zone that holds it, since a limit belongs to the zone that begins there."""
        return next((name for name, low, high in reversed(self.zones) if low <= value <= high), "")


def read_points(path: Path) -> tuple[Point, ...]:
    """Raises InvalidInput with file, line and column of what is wrong."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"inspection file {path} cannot be read: {error.strerror}; see parameter inspection.file"
        ) from None
    if len(data) > _MOST_BYTES:
        raise InvalidInput(
            f"inspection file {path} has {len(data)} bytes, more than {_MOST_BYTES}; is it another file?"
        )
    try:
        root = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise InvalidInput(f"inspection file {path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InvalidInput(f"{path}{where}: no YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise InvalidInput(f"inspection file {path} is nested too deeply") from None
    if root is None:
        raise InvalidInput(f"{path}:1:1: the file is empty; it needs `points:`")
    top = _Map(Path(path), root, "the file", ("points",))
    points = top.get("points", _Map.names, required=True)
    return tuple(_point(Path(path), name, node) for name, node in points)


class _Map:
    """A YAML mapping with known keys; every value is taken by `get`, with a check that names its line."""

    def __init__(self, path: Path, node: yaml.Node, what: str, keys: tuple[str, ...]):
        self.path, self.node, self.what = path, node, what
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{what} must be a mapping of {', '.join(keys)}")
        self.values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value not in keys:
                self.refuse(key, f"{what} has no key {key.value!r}; it may have {', '.join(keys)}")
            if key.value in self.values:
                self.refuse(key, f"{what} has {key.value!r} twice; leave one out")
            self.values[key.value] = value

    def refuse(self, node: yaml.Node, why: str) -> NoReturn:
        raise InvalidInput(f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {why}")

    def get(
        self, key: str, kind: Callable[[_Map, str, yaml.Node], Any], default: Any = None, required: bool = False
    ) -> Any:
        if key not in self.values:
            if required:
                self.refuse(self.node, f"{self.what} needs {key!r}")
            return default
        return kind(self, key, self.values[key])

    def plain(self, node: yaml.Node) -> Any:
        try:
            return _PLAIN.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            self.refuse(node, str(getattr(error, "problem", error)))
        except (ValueError, TypeError) as error:
            self.refuse(node, f"{error}")

    # -- kinds -------------------------------------------------------------------------------------

    def text(self, key: str, node: yaml.Node) -> str:
        value = self.plain(node)
        if not isinstance(value, (str, int, float)) or isinstance(value, bool) or not str(value).strip():
            self.refuse(node, f"{key} must be text")
        return str(value).strip()

    def flag(self, key: str, node: yaml.Node) -> bool:
        value = self.plain(node)
        if not isinstance(value, bool):
            self.refuse(node, f"{key} must be true or false")
        return value

    def number(self, key: str, node: yaml.Node) -> float:
        value = self.plain(node)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.refuse(
                node,
                f"{key} must be a finite number, not {node.value!r}"
                if isinstance(node, yaml.ScalarNode)
                else f"{key} must be a number",
            )
        return float(value)

    def positive(self, key: str, node: yaml.Node) -> float:
        value = self.number(key, node)
        if value <= 0:
            self.refuse(node, f"{key} {value:g} must be above 0")
        return value

    def numbers(self, key: str, node: yaml.Node) -> tuple[float, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, f"{key} must be a list of numbers")
        return tuple(self.number(key, each) for each in node.value)

    def pair(self, key: str, node: yaml.Node) -> tuple[float, float]:
        values = self.numbers(key, node)
        if len(values) != 2 or not values[0] < values[1]:
            self.refuse(node, f"{key} must be [least, greatest] with least below greatest")
        return values

    def one_of(self, *choices: str):
        def check(of: _Map, key: str, node: yaml.Node) -> str:
            value = of.plain(node)
            if value not in choices:
                of.refuse(node, f"{key} {value!r} must be one of {', '.join(choices)}")
            return value

        return check

    def names(self, key: str, node: yaml.Node) -> list[tuple[str, yaml.Node]]:
        """(name, node) of each entry of a mapping with free names."""
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{key} must be a mapping from names")
        seen: dict[str, yaml.Node] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode) or not _NAME.fullmatch(name.value):
                self.refuse(
                    name,
                    f"{key}: a name is a letter and then letters, digits or _, not {getattr(name, 'value', '')!r:.40}",
                )
            if name.value in seen:
                self.refuse(name, f"{key} has {name.value!r} twice; give one another name")
            seen[name.value] = value
        return list(seen.items())


_PLAIN = yaml.SafeLoader("")
_KEYS = (
    "kind",
    "camera",
    "quantity",
    "look_for",
    "roi",
    "question",
    "states",
    "unit",
    "range",
    "marks",
    "stops",
    "sweep",
    "check",
    "zones",
)
_KEYS += ("alarms", "max_rate", "period", "stale_after", "reference")


def _point(path: Path, name: str, node: yaml.Node) -> Point:
    at = _Map(path, node, f"point {name!r}", _KEYS)
    kind = at.get("kind", at.one_of(*KINDS), required=True)
    roi, look_for, question = at.get("roi", _roi), at.get("look_for", _phrase, ""), at.get("question", _question, "")
    if kind in ("count", "presence") and not look_for:
        at.refuse(node, f"point {name!r} of kind {kind} needs look_for: what is counted or looked for")
    if kind == "state" and not question:
        at.refuse(node, f'point {name!r} of kind state needs a yes-or-no question ("is the valve open?")')
    if kind == "gauge" and not (roi or look_for):
        at.refuse(node, f"point {name!r} needs a roi [x0, y0, x1, y1], or look_for: a phrase that finds it")
    measured = kind in ("gauge", "display")
    unit = at.get("unit", _unit, "1", required=measured)
    period = at.get("period", _Map.positive, 1.0)
    stale = at.get("stale_after", _Map.positive, 30.0)
    if stale < period:
        at.refuse(
            at.values.get("stale_after", node),
            f"stale_after {stale:g} s is shorter than period {period:g} s; every look would be stale",
        )
    point = Point(
        name,
        kind,
        at.get("camera", _Map.text, ""),
        at.get("quantity", _Map.text, name),
        look_for,
        roi,
        question,
        at.get("states", _states, ("yes", "no")),
        unit,
        _scale(at, kind),
        at.get("stops", _Map.numbers, ()),
        at.get("sweep", _Map.positive, None),
        at.get("check", at.one_of("model", "geometry"), "model"),
        max_rate=at.get("max_rate", _Map.positive, math.inf),
        period_s=period,
        stale_after_s=stale,
        reference=at.get("reference", _picture),
    )
    zones = tuple((zone, *at.pair(zone, span)) for zone, span in at.get("zones", _Map.names, []))
    rules = tuple(_rule(path, point, alarm, each) for alarm, each in at.get("alarms", _Map.names, []))
    return Point(**{**vars(point), "zones": zones, "alarms": rules})


def _scale(at: _Map, kind: str) -> tuple[tuple[float, float], ...]:
    limits, marks = at.get("range", _Map.pair), at.get("marks", _marks)
    if kind == "gauge" and not (limits or marks):
        at.refuse(at.node, f"{at.what} of kind gauge needs range [first mark, last mark]")
    if limits and marks and (marks[0][1], marks[-1][1]) != limits:
        at.refuse(
            at.values["marks"],
            f"marks go from {marks[0][1]:g} to {marks[-1][1]:g}, range from {limits[0]:g} to {limits[1]:g}",
        )
    return marks or (((0.0, limits[0]), (1.0, limits[1])) if limits else ())


def _marks(at: _Map, key: str, node: yaml.Node) -> tuple[tuple[float, float], ...]:
    """[[share of the sweep, value], …] from [0, first] to [1, last]; for scales whose divisions are uneven."""
    if not isinstance(node, yaml.SequenceNode):
        at.refuse(node, f"{key} must be a list of [share of the sweep, value]")
    pairs = [at.numbers(key, each) for each in node.value]
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in zip(pairs, pairs[1:]) if len(a) == len(b) == 2)
    if len(pairs) < 2 or any(len(p) != 2 for p in pairs) or not rising or pairs[0][0] != 0 or pairs[-1][0] != 1:
        at.refuse(node, f"{key} must rise from [0, first mark] to [1, last mark], each [share of the sweep, value]")
    return tuple(pairs)


def _rule(path: Path, point: Point, name: str, node: yaml.Node) -> AlarmRule:
    keys = (
        "above",
        "below",
        "when",
        "deadband",
        "on_delay",
        "off_delay",
        "severity",
        "latch",
        "min_observations",
        "max_gap",
    )
    at = _Map(path, node, f"alarm {name!r} of {point.name!r}", keys)
    when = at.get("when", _Map.text)
    above, below = at.get("above", _Map.number), at.get("below", _Map.number)
    if when is not None:
        if point.kind not in ("state", "presence") or when not in point.states:
            at.refuse(
                at.values["when"], f"when {when!r} must be one of the point's states, {' or '.join(point.states)}"
            )
        if above is not None or below is not None:
            at.refuse(at.values["when"], "give `when`, or a limit; not both")
        above, below = (0.5, None) if when == point.states[0] else (None, 0.5)
    elif point.kind == "text":
        at.refuse(node, "a point of kind text has no value that could pass a limit; leave the alarm out")
    low, high = point.range
    for key, limit in (("above", above), ("below", below)):
        if limit is not None and not low <= limit <= high:
            at.refuse(
                at.values.get(key, node),
                f"{key} {limit:g} lies outside the scale {low:g} to {high:g}; it could never be passed",
            )
    deadband = at.get("deadband", _Map.number, 0.0)
    if point.scale and deadband >= high - low:
        at.refuse(
            at.values["deadband"],
            f"deadband {deadband:g} is as wide as the range {low:g} to {high:g}: it would never clear",
        )
    severity, looks = at.get("severity", _Map.number, 500.0), at.get("min_observations", _Map.number, 2.0)
    for key, value in (("severity", severity), ("min_observations", looks)):
        if value != int(value):
            at.refuse(at.values[key], f"{key} {value:g} must be a whole number")
    try:
        return AlarmRule(
            name,
            above,
            below,
            deadband,
            at.get("on_delay", _Map.number, 0.0),
            at.get("off_delay", _Map.number, 0.0),
            int(looks),
            at.get("max_gap", _Map.positive, max(10.0, 5 * point.period_s)),
            int(severity),
            at.get("latch", _Map.flag, False),
        )
    except InvalidInput as error:
        at.refuse(node, str(error))


def _roi(at: _Map, key: str, node: yaml.Node) -> tuple[int, int, int, int]:
    values = at.numbers(key, node)
    if len(values) != 4 or not (0 <= values[0] < values[2] and 0 <= values[1] < values[3]):
        at.refuse(node, f"{key} must be [x0, y0, x1, y1] in pixels, x0 < x1 and y0 < y1")
    return tuple(int(v) for v in values)


def _phrase(at: _Map, key: str, node: yaml.Node) -> str:
    try:
        return phrases.checked_targets((at.text(key, node),), key)[0]
    except InvalidInput as error:
        at.refuse(node, str(error))


def _question(at: _Map, key: str, node: yaml.Node) -> str:
    try:
        return phrases.checked_question(at.text(key, node))
    except InvalidInput as error:
        at.refuse(node, str(error))


def _states(at: _Map, key: str, node: yaml.Node) -> tuple[str, str]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
        at.refuse(node, f"{key} must be [what yes means, what no means]")
    return tuple(at.text(key, each) for each in node.value)


def _unit(at: _Map, key: str, node: yaml.Node) -> str:
    try:
        return units.checked(at.text(key, node))
    except InvalidInput as error:
        at.refuse(node, str(error))


def _picture(at: _Map, key: str, node: yaml.Node) -> Path:
    path = (at.path.parent / at.text(key, node)).resolve()
    if not path.is_file():
        at.refuse(node, f"{key} {path} is not there; take the picture first, or leave it out")
    return path
