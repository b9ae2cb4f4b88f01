"""The inspection file: what it holds, and that nonsense is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3vl_ros.inspection.inspector import Inspector
from qwen3vl_ros.inspection.points import read_points
from qwen3vl_ros.inspection.recorder import Recorder
from qwen3vl_ros.inspection.units import checked, code_of, converted
from qwen3vl_ros.sim.panel import Panel
from qwen3vl_ros.types import InvalidInput

ROOT = Path(__file__).resolve().parents[2]
GOOD = """points:
  boiler:
    kind: gauge
    look_for: gauge
    unit: bar
    range: [0, 10]
    alarms:
      high: {above: 8, deadband: 0.5, on_delay: 2, severity: 800}
    period: 2
"""
BAD = {
    "an unknown unit": ("unit: bar", "unit: foo", ":5:11:", "unknown"),
    "a period of 0": ("period: 2", "period: 0", ":9:13:", "above 0"),
    "a period that is none": ("period: 2", "period: .nan", ":9:13:", "finite"),
    "a deadband as wide as the range": ("deadband: 0.5", "deadband: 10", ":8:34:", "never clear"),
    "a negative deadband": ("deadband: 0.5", "deadband: -1", ":8:", "deadband"),
    "a limit outside the scale": ("above: 8", "above: 80", ":8:21:", "never be passed"),
    "two limits": ("above: 8", "above: 8, below: 1", ":8:", "exactly one"),
    "no limit": ("above: 8, ", "", ":8:", "exactly one"),
    "a severity that is none": ("severity: 800", "severity: 0", ":8:", "severity"),
    "a kind that is none": ("kind: gauge", "kind: clock", ":3:11:", "one of gauge"),
    "a misspelt key": ("period: 2", "periode: 2", ":9:5:", "no key 'periode'"),
    "a key twice": ("period: 2", "unit: bar", ":9:5:", "twice"),
    "a range backwards": ("[0, 10]", "[10, 0]", ":6:12:", "least below greatest"),
    "words for numbers": ("[0, 10]", "[a, 10]", ":6:13:", "finite number"),
    "no range": ("    range: [0, 10]\n", "", ":3:5:", "range"),
    "nothing to find it by": ("    look_for: gauge\n", "", ":3:5:", "roi"),
    "a quotation mark in a phrase": ("look_for: gauge", "look_for: 'a \" b'", ":4:15:", "quotation"),
    "a name with a space": ("  boiler:", "  the boiler:", ":2:3:", "a letter and then"),
    "no YAML": ("points:", "points: [", ":3:", "no YAML"),
    "a list": (GOOD, "- 1\n", ":1:1:", "mapping"),
    "nothing": (GOOD, "", ":1:1:", "empty"),
    "a stale_after shorter than the period": (
        "period: 2",
        "period: 2\n    stale_after: 1",
        ":10:18:",
        "shorter than period",
    ),
    "marks that do not rise": ("period: 2", "marks: [[0, 0], [0.5, 9], [0.4, 9.5], [1, 10]]", ":9:12:", "rise"),
    "a reference that is not there": ("period: 2", "reference: nowhere.png", ":9:16:", "not there"),
    "an anchor to itself": ("period: 2", "zones: &a {red: *a}", ":9:", ""),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("old, new, place, words", BAD.values(), ids=BAD.keys())
def test_nonsense_is_refused_with_its_line(tmp_path, old, new, place, words):
    path = write(tmp_path / "points.yaml", GOOD.replace(old, new))
    with pytest.raises(InvalidInput) as refused:
        read_points(path)
    assert f"{path}{place}" in str(refused.value) and words in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_points(tmp_path / "nowhere.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_points(tmp_path / "binary")


def test_a_file_has_what_it_says(tmp_path):
    (point,) = read_points(write(tmp_path / "p.yaml", GOOD))
    assert (point.name, point.unit, point.range, point.period_s) == ("boiler", "bar", (0.0, 10.0), 2.0)
    (rule,) = point.alarms
    assert (rule.above, rule.deadband, rule.on_delay_s, rule.severity, rule.min_observations) == (8.0, 0.5, 2.0, 800, 2)


def test_an_uneven_scale_is_read_by_its_marks(tmp_path):
    uneven = GOOD.replace("    range: [0, 10]\n", "    marks: [[0, 0], [0.4, 2], [1, 10]]\n")
    (point,) = read_points(write(tmp_path / "p.yaml", uneven))
    assert point.scale == ((0.0, 0.0), (0.4, 2.0), (1.0, 10.0))


def test_the_file_of_the_simulated_panel_is_as_the_panel_says():
    path = ROOT / "config" / "inspection.yaml"
    assert path.read_text() == Panel().inspection_yaml(), "run python -m qwen3vl_ros.sim.panel"
    assert {p.name for p in read_points(path)} == set(Panel().rois_xyxy_px)


def test_reading_the_file_again_keeps_what_stayed(tmp_path):
    path = write(tmp_path / "p.yaml", GOOD)
    inspector = Inspector(read_points(path), Recorder(None, 0))
    alarm = inspector._inspected["boiler"].alarms["high"]
    inspector.reload(read_points(write(path, GOOD.replace("above: 8", "above: 9"))))
    after = inspector._inspected["boiler"].alarms["high"]
    assert after is alarm and after.alarm.rule.above == 9.0
    inspector.reload(())
    assert inspector.names == ()


@pytest.mark.parametrize(
    "written, code",
    [
        ("bar", "bar"),
        ("°C", "Cel"),
        ("psi", "[psi]"),
        ("MPa", "MPa"),
        ("mpa", "MPa"),
        ("L/min", "L/min"),
        ("%RH", "%{RH}"),
    ],
)
def test_units_are_known_as_faces_write_them(written, code):
    assert code_of(written) == code == checked(written)


def test_values_are_converted_among_units_of_a_kind():
    assert converted(1.0, "bar", "[psi]") == pytest.approx(14.5038, abs=1e-3)
    assert converted(212.0, "[degF]", "Cel") == pytest.approx(100.0)
    assert converted(1.0, "bar", "Cel") is None
