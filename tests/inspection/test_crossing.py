"""Case 12 of test_cases.py with real pictures and the embedded model: two like cubes cross on a table, one behind the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.inspection.alarms import AlarmRule, State
from qwen3vl_ros.inspection.inspector import Inspector
from qwen3vl_ros.inspection.points import Point
from qwen3vl_ros.inspection.recorder import Recorder
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.courses import COURSES
from qwen3vl_ros.types import Frame

MODEL = Path(__file__).parents[2] / "model" / "embedded"
STEP_S = 0.25
# The cubes pass each other in a little less than a second.
CUBES = Point(
    "cubes", "count", look_for="blue cube", alarms=(AlarmRule("missing", below=1.5, on_delay_s=1.5, off_delay_s=0.5),)
)


@pytest.fixture(scope="module")
def perception():
    made = Perception(load_tested_engine(from_flat({"engine": "auto"})))
    yield made
    made.engine.close()


def looks(perception, inspector, scenes, start_s=0.0):
    with SimCamera() as camera:
        views = [camera.render(scene) for scene in scenes]
    hidden = [min((t.visibility for t in v.truths if t.label == "blue cube"), default=1.0) for v in views]
    frames = [Frame(round((start_s + k * STEP_S) * 1e9), "camera", v.rgb) for k, v in enumerate(views)]
    return [inspector.look(perception, "cubes", frame) for frame in frames], hidden


def steps(outcomes) -> list[State]:
    return [e.after for o in outcomes for e in o.events]


@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="model/embedded is not there yet")
def test_two_like_cubes_that_cross_are_not_one_gone_and_one_that_is_taken_away_is(perception):
    inspector, twins = Inspector([CUBES], Recorder(None, 0)), COURSES["twins"].scene_at
    crossing, hidden = looks(perception, inspector, [twins(k * STEP_S) for k in range(17)])
    counted = [o.reading.value for o in crossing]
    assert min(hidden) < 0.5 and 1 in counted, "they do hide each other"
    assert counted.count(2) >= 8 and set(counted) <= {1, 2}
    assert State.ACTIVE not in steps(crossing), steps(crossing)

    apart = twins(0.0)
    one_less = replace(apart, objects=apart.objects[1:])
    gone, _ = looks(perception, inspector, [one_less] * 9, start_s=10.0)
    assert steps(gone)[-1:] == [State.ACTIVE], "a cube that stays away is missed"
