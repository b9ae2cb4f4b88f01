"""Renders the self-test's pictures and writes down what is true of them: `python -m qwen3vl_ros.selftest.render`.

Done once: the files are part of the package, so that the test needs no simulator and asks everybody the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from qwen3vl_ros.selftest.pictures import FOLDER, SIZE_PX, TRUTH
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.scenes import sample_scene

SCENES = {"table": dict(seed=325), "dial": dict(seed=5, gauge=True), "sign": dict(seed=544, wide=True)}
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)


def views() -> dict[str, SimView]:
    """Each picture by its name."""
    with SimCamera(*SIZE_PX) as camera:
        return {name: camera.render(sample_scene(**scene)) for name, scene in SCENES.items()}


def truth(name: str, view: SimView) -> dict[str, Any]:
    """What pictures.Picture tells of it, boxes in whole pixels."""
    told: dict[str, Any] = {"boxes": [[t.label, _whole(t.box_xyxy_px)] for t in view.truths]}
    g, s = view.gauge, view.sign
    told["reading"] = [g.value, g.unit, g.minimum, g.maximum] if name == "dial" else None
    told["text"] = [s.text, _whole((*s.corners_px.min(0), *s.corners_px.max(0)))] if name == "sign" else None
    return told


def write(folder: Path = FOLDER) -> None:
    told = {}
    for name, view in views().items():
        jpeg = cv2.imencode(".jpg", np.ascontiguousarray(view.rgb[..., ::-1]), _JPEG)[1]
        (folder / f"{name}.jpg").write_bytes(jpeg.tobytes())
        told[name] = truth(name, view)
    (folder / TRUTH.name).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _whole(box) -> list[int]:
    return [round(float(v)) for v in box]


if __name__ == "__main__":
    write()
