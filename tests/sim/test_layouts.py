"""Exact layouts of the embedded world: what stands where by the spec is what the facts say of it."""

from __future__ import annotations

import numpy as np
import pytest

from qwen3vl_ros.geometry.facts import measure, stands_on
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.wide import sample_wide_scene
from qwen3vl_ros.types import Verdict


def everything(spec):
    return exact_layout(spec, spec.camera.world_T_camera(), range(spec.sign_index + (spec.sign is not None)))


@pytest.mark.parametrize("seed", range(40))
def test_what_the_spec_puts_on_a_thing_or_a_level_stands_there(seed):
    spec = sample_wide_scene(seed)
    layout = everything(spec)
    for index, thing in enumerate(spec.objects):
        carrier = "table" if thing.on is None else str(thing.on)
        if thing.level:
            carrier = f"{spec.shelf_index}/level {thing.level}"
            assert measure(layout, "in", (str(index), carrier)).verdict is Verdict.TRUE
        assert stands_on(layout, str(index)).arguments[1] == carrier
        if thing.on is not None and spec.objects[thing.on].kind in ("bowl", "tray"):
            assert measure(layout, "in", (str(index), carrier)).verdict is not Verdict.FALSE


@pytest.mark.parametrize("seed", range(12))
def test_things_that_do_not_touch_are_apart(seed):
    spec = sample_scene(seed, gauge=seed % 2 == 0)
    layout = everything(spec)
    assert len(layout.things) == len(spec.objects) + (spec.gauge is not None)
    for a in layout.things:
        assert stands_on(layout, a.id).arguments[1] == "table"
        for b in layout.things:
            if a is not b:
                assert measure(layout, "distance", (a.id, b.id)).value > 0


def test_the_size_of_a_thing_is_the_specs():
    spec = sample_wide_scene(3)
    layout = everything(spec)
    for index, thing in enumerate(spec.objects):
        *level, height = (v.value for v in measure(layout, "size", (str(index),)).values)
        np.testing.assert_allclose((*level, height), (*sorted(thing.size_m[:2], reverse=True), thing.size_m[2]))
