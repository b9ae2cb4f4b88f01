"""A plain picture, its depth, its calibration and an answer on disk: what the README's examples are tried with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml

from qwen3vl_ros.files import write_whole
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import InvalidInput

SEED = 338  # a black mug, a green bowl, a red ball and a red cube
PHOTO, DEPTH, CAMERA, ANSWER = "photo.png", "depth.png", "camera.yaml", "answer.txt"
# As a model may write it: fenced, with key points nobody asked for, and cut short.
_ANSWER = """```json
[
\t{"bbox_2d": [212, 431, 330, 590], "label": "mug", "keypoints": [[225, 500], [318, 500]]},
\t{"bbox_2d": [540, 4
"""


def write_sample(folder: Path) -> tuple[Path, ...]:
    """Writes photo.png, depth.png (16 bit, mm), camera.yaml (as camera_calibration does) and answer.txt; returns their paths.

    Raises InvalidInput where nothing can be written.
    """
    with SimCamera(640, 480) as camera:
        view = camera.render(sample_scene(SEED))
    height, width = view.depth_m.shape
    calibration = {
        "image_width": width,
        "image_height": height,
        "camera_name": "sample",
        "camera_matrix": {"rows": 3, "cols": 3, "data": view.K.ravel().tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
    }
    paths = tuple(Path(folder) / name for name in (PHOTO, DEPTH, CAMERA, ANSWER))
    millimetres = np.round(1000 * view.depth_m).astype(np.uint16)
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(paths, (view.rgb[..., ::-1], millimetres)):
            write_whole(path, cv2.imencode(".png", picture)[1].tobytes())
        write_whole(paths[2], yaml.safe_dump(calibration, sort_keys=False).encode())
        write_whole(paths[3], _ANSWER.encode())
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}; name a folder that can") from error
    return paths
