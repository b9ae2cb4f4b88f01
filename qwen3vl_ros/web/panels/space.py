"""The 3D scene in target_frame: the cloud of the depth image, boxes, grasps. One node of line segments holds all edges, because a
node for each would be a message for each.
"""

from __future__ import annotations

import math
from typing import Any, Iterable, Iterator

import cv2
import numpy as np
import viser

from qwen3vl_ros.calibration import intrinsics_of
from qwen3vl_ros.convert import depth_of, pose_matrix, quaternion_of, stamp_ns
from qwen3vl_ros.geometry.lens import direction_table
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.panels.do import DoPanel
from qwen3vl_ros.web.robot import Robot

PERIOD_S, CLOUD_S = 0.2, 0.5
POINTS = 20_000
NEAR_M, FAR_M = 0.05, 10.0
_FINGER_M = 0.045  # drawn so long; the true one is the node's parameter
_CORNERS = np.array([(x, y, z) for z in (0.5, -0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
_FEASIBLE, _INFEASIBLE, _PLANNED = (64, 255, 120), (255, 90, 80), (80, 160, 255)


class SpacePanel(Panel):
    """Everything is drawn in the frame that the node's 3D results have; without any, in the camera's."""

    period_s = PERIOD_S

    def __init__(self, server: viser.ViserServer, robot: Robot, picture: CameraPanel, do: DoPanel):
        self._server, self._robot, self._picture, self._do = server, robot, picture, do
        self.frame_id, self._looked = "", False
        self._info: Any = None
        self._plan: Any = None
        self._due = 0
        self._labels: dict[str, Any] = {}
        self._boxes: list[tuple[np.ndarray, np.ndarray]] = []
        self._grasps: list[tuple[np.ndarray, np.ndarray]] = []
        axes = server.scene.world_axes
        axes.visible, axes.axes_length, axes.axes_radius = True, 0.1, 0.003
        self._said = server.gui.add_html("", order=4)

    def update(self) -> None:
        if not self._server.get_clients():
            return  # nobody looks
        camera = self._picture.camera
        tracked, found = camera.tracks_3d.newest(), camera.detections_3d.newest()
        boxes = tracked if tracked is not None else found
        grasps = camera.grasps.newest()
        if boxes is not None:
            self._in_frame(boxes.header.frame_id)
            self._boxes = [_edges(d.bbox.size, pose_matrix(d.bbox.center), _rgb(d.id)) for d in boxes.detections]
            self._label(boxes.detections)
        if grasps is not None:
            self._grasps = [
                _jaws(g.pose, g.width, g.approach_distance, _FEASIBLE if g.feasible else _INFEASIBLE)
                for g in grasps.targets
            ]
        if boxes is not None or grasps is not None or self._do.plan is not self._plan:
            self._plan = self._do.plan
            self._draw([*self._boxes, *self._grasps, *_planned(self._plan, self.frame_id)])
        if (info := camera.info.newest()) is not None:
            self._info = info
        self._due -= 1
        if self._due <= 0 and self._info is not None and (depth := camera.depth.newest()) is not None:
            self._due = round(CLOUD_S / PERIOD_S)
            self._cloud(depth)

    def _in_frame(self, frame_id: str) -> None:
        if frame_id != self.frame_id:
            self.frame_id, self._looked = frame_id, False
            self._said.content = html.block("frame", html.note(f"3D in {frame_id}"))

    def _draw(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        parts = list(parts)
        points = np.concatenate([p for p, _ in parts]) if parts else np.zeros((0, 2, 3), np.float32)
        colours = np.concatenate([c for _, c in parts]) if parts else np.zeros((0, 2, 3), np.uint8)
        self._server.scene.add_line_segments("/things", points, colours, thickness=2.0, thickness_units="screen")

    def _label(self, detections: Iterable[Any]) -> None:
        """One a thing, kept while the thing is there."""
        seen = {d.id: d for d in detections if d.results}
        for gone in self._labels.keys() - seen.keys():
            self._labels.pop(gone).remove()
        for id, d in seen.items():
            p = d.bbox.center.position
            place = (p.x, p.y, p.z)
            if id not in self._labels:
                name = f"/labels/{len(self._labels)}_{abs(hash(id))}"  # a name is a path: not the id as it comes
                self._labels[id] = self._server.scene.add_label(name, "", position=place, font_screen_scale=0.9)
            self._labels[id].text, self._labels[id].position = d.results[0].hypothesis.class_id[:60], place

    def _cloud(self, message: Any) -> None:
        depth_m, stamp = depth_of(message), stamp_ns(message.header)
        height, width = depth_m.shape
        K, distortion, lens = intrinsics_of(self._info, (width, height))
        step = max(1, math.ceil(math.sqrt(height * width / POINTS)))
        rows, columns = slice(step // 2, None, step), slice(step // 2, None, step)
        z = depth_m[rows, columns]
        points = direction_table(K, distortion, lens, (width, height))[rows, columns] * z[..., None]
        kept = np.isfinite(points).all(-1) & (z > NEAR_M) & (z < FAR_M)
        camera_frame = message.header.frame_id.lstrip("/")
        target = self.frame_id or camera_frame
        frame_T_camera = np.eye(4) if target == camera_frame else self._robot.pose(target, camera_frame, stamp)
        self._server.scene.add_point_cloud(
            "/cloud",
            points[kept],
            self._colours((width, height), stamp)[rows, columns][kept],
            point_size=0.0035,
            point_shape="square",
            point_shading="flat",
            wxyz=_wxyz(frame_T_camera),
            position=frame_T_camera[:3, 3],
        )
        if not self._looked and kept.any():
            self._look(frame_T_camera, float(np.median(z[kept])), target == camera_frame)

    def _colours(self, size_px: tuple[int, int], stamp: int) -> np.ndarray:
        """HxWx3 of the picture at that time, or the nearest that was shown."""
        pictures = self._picture.pictures
        if not pictures:
            return np.full((size_px[1], size_px[0], 3), 160, np.uint8)
        rgb = pictures[min(list(pictures), key=lambda s: abs(s - stamp))]
        return rgb if rgb.shape[1::-1] == size_px else cv2.resize(rgb, size_px, interpolation=cv2.INTER_NEAREST)

    def _look(self, frame_T_camera: np.ndarray, depth_m: float, is_camera: bool) -> None:
        """From behind the camera at what it looks at; for who comes later and who is there."""
        self._looked = True
        up = (0.0, -1.0, 0.0) if is_camera else (0.0, 0.0, 1.0)
        eye, aim = (
            (frame_T_camera @ (0.25 * depth_m, -0.25 * depth_m, -0.35 * depth_m, 1))[:3],
            (frame_T_camera @ (0, 0, depth_m, 1))[:3],
        )
        self._server.scene.set_up_direction(up)
        start = self._server.initial_camera
        start.up, start.position, start.look_at = up, tuple(eye), tuple(aim)
        for client in self._server.get_clients().values():
            client.camera.up_direction, client.camera.position, client.camera.look_at = up, eye, aim


def _edges(size: Any, frame_T_box: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    corners = _CORNERS * (size.x, size.y, size.z) @ frame_T_box[:3, :3].T + frame_T_box[:3, 3]
    return _coloured(corners[_EDGES], colour)


def _planned(plan: Any, frame_id: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How each thing of a plan is taken, where it will stand, and the hand that lets it go there: the first choice of each step."""
    width_m = 0.05
    for step in plan.steps if plan is not None and plan.header.frame_id == frame_id else ():
        for grasp in step.grasps[:1]:
            width_m = grasp.width
            yield _jaws(grasp.pose, width_m, grasp.approach_distance, _PLANNED)
        for place in step.places[:1]:
            yield _edges(place.box.size, pose_matrix(place.box.center), _PLANNED)
            yield _jaws(place.release, width_m, place.approach_distance, _PLANNED)


def _jaws(pose: Any, width_m: float, approach_m: float, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two fingers that far apart, the palm between, and the way that they come."""
    half, palm = width_m / 2, -_FINGER_M
    ends = [(0, -half, 0), (0, -half, palm), (0, half, palm), (0, half, 0), (0, 0, palm), (0, 0, palm - approach_m)]
    frame_T_gripper = pose_matrix(pose)
    points = np.array(ends) @ frame_T_gripper[:3, :3].T + frame_T_gripper[:3, 3]
    return _coloured(points[[(0, 1), (1, 2), (2, 3), (4, 5)]], colour)


def _coloured(points: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    light = np.uint8(255 * (np.array(colour) / 255) ** 2.2)  # viser's lines have linear colours
    return points.astype(np.float32), np.broadcast_to(light, points.shape)


def _rgb(id: str) -> tuple[int, int, int]:
    colour = html.colour_of(id)
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _wxyz(matrix: np.ndarray) -> tuple[float, float, float, float]:
    x, y, z, w = quaternion_of(matrix[:3, :3])
    return w, x, y, z
