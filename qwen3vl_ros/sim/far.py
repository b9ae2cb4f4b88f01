"""Scenes seen from so far away that things have 14 to 24 pixels: what a zoom is for. Deterministic by seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, Iterator

import numpy as np

from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.specs import SceneSpec

SMALL_PX = (14, 24)  # of the longer side
_FARTHER = (2.5, 3.5)


def from_farther(spec: SceneSpec, times: float) -> SceneSpec:
    """The same scene with the camera so many times as far from what it looks at."""
    eye, at = np.array(spec.camera.eye_m), np.array(spec.camera.look_at_m)
    return replace(spec, camera=replace(spec.camera, eye_m=tuple(map(float, at + times * (eye - at)))))


def small_things(camera: SimCamera, seeds: Iterable[int]) -> Iterator[tuple[np.ndarray, str, tuple[float, ...]]]:
    """(picture HxWx3, label, box_xyxy_px) of each whole, small thing that is the only one of its label there."""
    for seed in seeds:
        for times in _FARTHER:
            view = camera.render(from_farther(sample_scene(seed), times), depth=False)
            labels = [truth.label for truth in view.truths]
            for truth in view.truths:
                x0, y0, x1, y1 = truth.box_xyxy_px
                small = SMALL_PX[0] <= max(x1 - x0, y1 - y0) < SMALL_PX[1]
                if small and truth.fully_in_view and truth.visibility > 0.9 and labels.count(truth.label) == 1:
                    yield view.rgb, truth.label, truth.box_xyxy_px
