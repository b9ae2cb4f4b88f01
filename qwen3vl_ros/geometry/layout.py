"""Where things are, as far as one knows: names become bodies, views become directions, and what is not known says so.

A `Layout` holds plain values, in one frame: freshly lifted things, tracked ones or a simulator's. Knows nothing of
relations, images or models.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from qwen3vl_ros.geometry.shape import level_axes
from qwen3vl_ros.geometry.things import Body, Surface, Thing, Viewpoint, body_of, level
from qwen3vl_ros.types import Fact, InvalidInput, Refusal


class CannotTell(Exception):
    """Why a statement has no verdict; becomes the reason of an UNKNOWN. It never leaves `facts.measure`."""


class Layout:
    """The plain values that facts are measured on. Raises InvalidInput where two things share an id.

    things, surfaces: what was found, each id once.   refused: what was found but has no place, and why.
    now_ns: the time for which facts are asked, by default the newest look.   looked_for: the phrases that were searched
    (None: nobody says), so that what is missing can be said to be absent.   held: id of what the gripper holds, "" for
    nothing, None where nobody says.   gripper_opening_m: how far its jaws open, None where nobody says.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        viewpoint: Viewpoint,
        surfaces: Sequence[Surface] = (),
        refused: Sequence[Refusal] = (),
        now_ns: int | None = None,
        looked_for: Sequence[str] | None = None,
        held: str | None = None,
        gripper_opening_m: float | None = None,
    ):
        self.things, self.surfaces, self.refused = tuple(things), tuple(surfaces), tuple(refused)
        self.viewpoint, self.looked_for, self.held = viewpoint, looked_for, held
        self.gripper_opening_m = gripper_opening_m
        everything = (*self.things, *self.surfaces)
        self.now_ns = max((t.stamp_ns for t in everything), default=0) if now_ns is None else now_ns
        ids = [t.id for t in (*everything, *self.refused)]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise InvalidInput(f"Layout has more than one thing or surface with id {twice[0]!r}; give each its own")
        self.level_R_frame = np.eye(3) if viewpoint.up is None else level_axes(viewpoint.up)
        self._bodies: dict[str, Body] = {}

    # -- names -----------------------------------------------------------------------------------------------------

    def fitting(self, name: str) -> list[Thing | Surface]:
        """The thing or surface of that id, else those of that label."""
        everything = (*self.things, *self.surfaces)
        return [t for t in everything if t.id == name] or [t for t in everything if same_name(t.label, name)]

    def body(self, name: str) -> Body:
        """The one thing or surface of that name. Raises CannotTell where there is none, or more than one."""
        fitting = self.fitting(name)
        if len(fitting) > 1:
            ids = ", ".join(t.id for t in fitting)
            raise CannotTell(f"{name!r} fits {len(fitting)} things, {ids}: name one by its id")
        if not fitting:
            for refusal in self.refused:
                if refusal.id == name or same_name(refusal.label, name):
                    raise CannotTell(f"{name!r} was seen but not measured: {refusal.reason}")
            raise CannotTell(f"nothing known is called {name!r}")
        return self.body_of(fitting[0])

    def body_of(self, thing: Thing | Surface) -> Body:
        """The body of a thing or surface of this layout; made once."""
        if thing.id not in self._bodies:
            twins = [t for t in self.things if same_name(t.label, thing.label)]
            name = f"the {thing.label}" if len(twins) < 2 else f"{thing.label} {thing.id}"
            self._bodies[thing.id] = body_of(thing, self.level_R_frame, name)
        return self._bodies[thing.id]

    def with_things(self, things: Sequence[Thing], surfaces: Sequence[Surface] | None = None) -> Layout:
        """The same with these things instead of its own, and these surfaces where they are given."""
        return Layout(
            things,
            self.viewpoint,
            self.surfaces if surfaces is None else surfaces,
            self.refused,
            self.now_ns,
            self.looked_for,
            self.held,
            self.gripper_opening_m,
        )

    def with_moved(self, thing: Thing, frame_T_old: np.ndarray) -> Layout:
        """The layout as it were if one of its things had made a rigid motion, 4x4 in its frame; all other bodies are shared."""
        moved = thing.moved(frame_T_old)
        other = self.with_things([moved if t.id == thing.id else t for t in self.things])
        level_T_frame = np.eye(4)
        level_T_frame[:3, :3] = self.level_R_frame
        body = self.body_of(thing).moved(level_T_frame @ frame_T_old @ level_T_frame.T, moved)
        other._bodies = self._bodies | {thing.id: body}
        return other

    def different(self, arguments: Sequence[str]) -> list[Body]:
        """The bodies of the arguments, which must be different things."""
        bodies = [self.body(name) for name in arguments]
        if len({id(body) for body in bodies}) < len(bodies):
            raise InvalidInput(f"{', '.join(arguments)}: the same thing twice; name different things")
        return bodies

    # -- directions ------------------------------------------------------------------------------------------------

    def directions(self, view: str) -> dict[str, np.ndarray]:
        """Unit vectors right, forward and up in the level frame, for the relations that need them."""
        up = np.array((0.0, 0.0, 1.0))
        if view.startswith("object:"):
            thing = self.body(view.removeprefix("object:")).thing
            if getattr(thing, "front", None) is None:
                raise CannotTell(
                    f"nobody knows which side of {thing.label!r} is its front; ask from the viewer or robot"
                )
            forward = level(self.level_R_frame @ thing.front, up)
        elif view == "robot":
            forward = level(self.level_R_frame @ self._robot()[:3, 0], up)
        else:
            forward = self.level_R_frame @ self.viewpoint.forward()
        return {"right": np.cross(forward, up), "forward": forward, "up": up}

    def _robot(self) -> np.ndarray:
        if self.viewpoint.frame_T_robot is None:
            raise CannotTell("nobody knows where the robot's base is; ask from the viewer, or give its pose")
        return np.asarray(self.viewpoint.frame_T_robot, float)

    def origin(self, asked: Fact) -> Body:
        """What is measured from: the second argument, the object of the view, the robot's base or the camera."""
        if len(asked.arguments) == 2:
            return self.different(asked.arguments)[1]
        if asked.view.startswith("object:"):
            return self.body(asked.view.removeprefix("object:"))
        name = "robot" if asked.view == "robot" else "camera"
        pose = self._robot() if name == "robot" else np.asarray(self.viewpoint.frame_T_camera, float)
        point = Thing(name, name, pose[None, :3, 3], pose, np.full(3, 1e-6), stamp_ns=self.now_ns)
        return body_of(point, self.level_R_frame, f"the {name}")


def same_name(a: str, b: str) -> bool:
    return a.strip().casefold() == b.strip().casefold()
