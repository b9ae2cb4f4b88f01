"""The video of the arm: what its camera sees with the plan drawn in, beside a second viewpoint; what is planned and what was seen below.

In the simulation's time, at twice its speed. Knows messages by their fields and nothing of ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from qwen3vl_ros.convert import pose_matrix, rgb_of, stamp_ns
from qwen3vl_ros.demo.pictures import decoded_picture, encode_video, fitted, jpeg
from qwen3vl_ros.demo.reading import detection_3d_of, fact_line
from qwen3vl_ros.draw import draw_scene, put_text
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import Detection3D, Frame, Generation, GraspTarget, Scene

HZ, PERIOD_NS = 10, 200_000_000
_PANEL_PX, _STRIP_PX, _TOP_PX = (640, 480), 104, 34
_BACKGROUND, _BRIGHT, _DIM = (22, 24, 28), (236, 236, 236), (150, 156, 164)
_STATUS = (("-", _DIM), (">", (255, 214, 90)), ("+", (110, 235, 140)), ("x", (255, 110, 100)))  # as of PlanStep.status


@dataclass(frozen=True, eq=False)
class _Moment:
    """What was known from a stamp on."""

    stamp_ns: int
    order: str
    state: str
    plan: Any


class Film:
    """Collects pictures and plans; everything is kept compressed. world_T_camera: 4x4, of the camera whose pictures are `live`."""

    def __init__(self, world_T_camera: np.ndarray):
        self._pose, self._info = world_T_camera, None
        self._live: list[tuple[int, bytes]] = []
        self._overview: list[tuple[int, bytes]] = []
        self._moments = [_Moment(0, "", "", None)]

    @property
    def pictures(self) -> int:
        """How many of the camera's were seen."""
        return len(self._live)

    @property
    def seen(self) -> bool:
        return bool(self._live and self._info is not None)

    def calibrate(self, info: Any) -> None:
        self._info = info

    def add_live(self, image: Any) -> None:
        self._live.append((stamp_ns(image.header), jpeg(rgb_of(image))))

    def add_overview(self, image: Any) -> None:
        self._overview.append((stamp_ns(image.header), jpeg(rgb_of(image))))

    def caption(self, order: str) -> None:
        """What is asked for from now on."""
        self._add(order=order, state="", plan=None)

    def add_plan(self, plan: Any) -> None:
        self._add(plan=plan)

    def state(self, step: int, state: str) -> None:
        self._add(state=state)

    def _add(self, **new: Any) -> None:
        last, now = self._moments[-1], self._live[-1][0] if self._live else 0
        self._moments.append(_Moment(now, **({"order": last.order, "state": last.state, "plan": last.plan} | new)))

    def write(self, path: Path) -> float:
        """H.264; returns how much time it shows, seconds; 0, and no file, without pictures. Raises OSError, and leaves no half of a file."""
        if not self.seen or not self._overview:
            return 0.0
        size = (2 * _PANEL_PX[0], _PANEL_PX[1] + _TOP_PX + _STRIP_PX)
        encode_video(path, size, HZ, self._pages())
        return (self._live[-1][0] - self._live[0][0]) / 1e9

    def _pages(self) -> Iterator[np.ndarray]:
        at = {"live": -1, "overview": -1, "moment": 0}
        shown, left, right = None, None, None
        for now in range(self._live[0][0], self._live[-1][0] + 1, PERIOD_NS):
            for name, stamps in (("live", self._live), ("overview", self._overview)):
                while at[name] + 1 < len(stamps) and stamps[at[name] + 1][0] <= now:
                    at[name] += 1
            while at["moment"] + 1 < len(self._moments) and self._moments[at["moment"] + 1].stamp_ns <= now:
                at["moment"] += 1
            moment = self._moments[at["moment"]]
            if (at["live"], at["overview"], id(moment)) != shown:
                shown = at["live"], at["overview"], id(moment)
                left = self._drawn(self._live[max(0, at["live"])][1], moment)
                right = decoded_picture(self._overview[max(0, at["overview"])][1])
            yield _page(left, right, (now - self._live[0][0]) / 1e9, moment)

    def _drawn(self, picture: bytes, moment: _Moment) -> np.ndarray:
        """The camera's picture with what the open steps take, how, and where it goes."""
        rgb, plan = decoded_picture(picture), moment.plan
        if plan is None or not plan.header.frame_id:  # nothing in it was measured
            return rgb
        things, grasps = [], []
        for step in plan.steps:
            if step.status > 1:  # done or failed
                continue
            if step.action == "pick" and step.grasps:
                things.append(_named(detection_3d_of(step.target), step.object))
                grasps.append(_grasp(step.grasps[0], plan.header.frame_id))
            elif step.places:
                place = step.places[0]
                size = np.array((place.box.size.x, place.box.size.y, place.box.size.z))
                pose = pose_matrix(place.box.center)
                goal = " ".join(filter(None, (step.relation, step.reference)))
                things.append(Detection3D(f"goal {place.detection_id}", goal, np.nan, plan.header.frame_id, pose, size))
        K = np.array(self._info.k, float).reshape(3, 3)
        frame = Frame(0, "camera", rgb, K=K, target_T_camera=self._pose, target_frame=plan.header.frame_id)
        labels = tuple(dict.fromkeys(t.label for t in things)) or ("thing",)
        said = Generation("", (), None, (), "stop")
        return draw_scene(
            frame, Scene(0, "camera", Detect(labels), said, (), detections_3d=tuple(things), grasps=tuple(grasps))
        )


def _named(thing: Detection3D, name: str) -> Detection3D:
    return Detection3D(thing.id, name, np.nan, thing.frame_id, thing.frame_T_box, thing.size_m)


def _grasp(message: Any, frame_id: str) -> GraspTarget:
    pose = pose_matrix(message.pose)
    return GraspTarget(
        message.detection_id, "", frame_id, pose, message.width, message.approach_distance, message.quality, True
    )


def _page(left: np.ndarray, right: np.ndarray, t_s: float, moment: _Moment) -> np.ndarray:
    width, height = _PANEL_PX
    page = np.full((height + _TOP_PX + _STRIP_PX, 2 * width, 3), _BACKGROUND, np.uint8)
    page[_TOP_PX : _TOP_PX + height, :width] = fitted(left)
    page[_TOP_PX : _TOP_PX + height, width:] = fitted(right)
    put_text(page, moment.order or "-", (12, 23), 0.55, _BRIGHT)
    put_text(page, f"{moment.state}   {t_s:5.1f} s", (2 * width - 190, 23), 0.5, _DIM)
    y = _TOP_PX + height + 22
    for step in moment.plan.steps if moment.plan is not None else ():
        mark, colour = _STATUS[min(step.status, len(_STATUS) - 1)]
        where = f" {step.relation} {step.reference}".rstrip() if step.relation else ""
        put_text(page, f"{mark} {step.action} {step.object}{where}", (12, y), 0.5, colour)
        seen = step.message or ", ".join(fact_line(f) for f in step.after)
        put_text(page, seen[:110], (width // 2 + 70, y), 0.42, _DIM)
        y += 24
    if moment.plan is not None and moment.plan.question:
        put_text(page, moment.plan.question, (12, y), 0.5, _STATUS[3][1])
    return page
