"""A place is where the object's true pose would make true what was asked, without touching anything; else there is a reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen3vl_ros.config import Config, GripperConfig
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.grasping import placing
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.grasping.placing import _top, find_places
from qwen3vl_ros.sim import pick_place
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.types import Detection2D, Fact, Frame, InvalidInput, Verdict

CONFIG = Config()
CUBE = ObjectSpec("cube", "red", (0.045,) * 3, (-0.10, -0.10, 0.0225), 0.2)
BALL = ObjectSpec("ball", "green", (0.06,) * 3, (0.10, -0.05, 0.03), 0.0)
BOWL = ObjectSpec("bowl", "blue", (0.15, 0.15, 0.06), (0.0, 0.08, 0.03), 0.0)
TRAY = ObjectSpec("tray", "white", (0.26, 0.19, 0.022), (0.12, 0.12, 0.011), 0.1)
SHELF = ShelfSpec((0.0, 0.12), -np.pi / 2, (0.40, 0.22), 2, 0.24, (0.6, 0.5, 0.4))
HIGH, LOW = CameraSpec((0.0, -0.50, 0.50), (0.0, 0.0, 0.02)), CameraSpec((0.0, -0.85, 0.50), (0.0, 0.0, 0.14))


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


class Seen:
    """A scene looked at: what was lifted of it, with ids as the truth numbers them."""

    def __init__(self, camera, objects, view=HIGH, shelf=None):
        self.spec = SceneSpec(0, objects, camera=view, shelf=shelf)
        picture = camera.render(self.spec, rgb=False)
        frame = Frame(
            stamp_ns=1,
            frame_id="camera",
            rgb=np.zeros((*picture.depth_m.shape, 3), np.uint8),
            depth_m=picture.depth_m,
            K=picture.K,
            target_T_camera=picture.world_T_camera,
            target_frame="world",
            up_camera=picture.world_T_camera[2, :3],
        )
        self.pose = picture.world_T_camera
        self.cloud = SceneCloud.of(frame, CONFIG.lift)
        boxes = [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in picture.truths]
        lifted = lift_boxes(self.cloud, boxes)
        self.things = {d.id: d for d in lifted.detections}
        self.layout = layout_of(self.cloud, lifted.detections, lifted.refusals)
        self.grasps = plan_grasps(self.cloud, lifted.detections, CONFIG.gripper)

    def places(self, thing, *asked, gripper=CONFIG.gripper, grasps=None):
        own = [g for g in self.grasps if g.detection_id == thing] if grasps is None else grasps
        return find_places(self.cloud, self.layout, self.things[thing], asked, own, gripper)

    def truth_at(self, thing, place, *asked):
        """What was asked, of the exact scene with the thing set down there and let go."""
        world = PhysicalWorld(self.spec)
        moved = place.frame_T_box @ np.linalg.inv(self.things[thing].frame_T_box)
        world.move(int(thing), moved @ self.spec.objects[int(thing)].pose())
        world.settle()
        exact = exact_layout(world.spec(), self.pose, range(9))
        seen = [s for s in self.layout.surfaces if s.id == "table"]  # "the table" is what is seen of it
        exact = Layout(exact.things, exact.viewpoint, [*seen, *(s for s in exact.surfaces if s.id != "table")])
        return [facts.measure(exact, f.relation, f.arguments, f.view) for f in asked]


@pytest.mark.parametrize("relation", ["next_to", "left_of", "right_of", "in_front_of", "behind"])
def test_a_cube_beside_a_ball_lies_there_when_it_is_let_go(camera, relation):
    seen, asked = Seen(camera, (CUBE, BALL)), Fact(relation, ("0", "1"), "viewer")
    best = seen.places("0", asked)[0]
    assert best.feasible, best.reason
    assert [f.verdict for f in best.facts] == [Verdict.TRUE]
    assert [f.verdict for f in seen.truth_at("0", best, asked)] == [Verdict.TRUE]


@pytest.mark.parametrize(
    "objects, relation, support", [((CUBE, BOWL), "in", "1"), ((CUBE, TRAY), "on", "1"), ((CUBE, BALL), "on", "table")]
)
def test_on_and_in_are_true_after_the_jaws_open(camera, objects, relation, support):
    seen, asked = Seen(camera, objects), Fact(relation, ("0", support))
    best = seen.places("0", asked)[0]
    assert best.feasible and best.support_id == support, best.reason
    assert [f.verdict for f in seen.truth_at("0", best, asked)] == [Verdict.TRUE]


def test_a_corner_of_the_table_is_the_viewers(camera):
    seen = Seen(camera, (CUBE, BALL))
    asked = Fact("on", ("0", "table")), Fact("at", ("0", "table", "top right corner"), "viewer")
    best = seen.places("0", *asked)[0]
    assert best.feasible, best.reason
    assert best.frame_T_box[0, 3] > 0.05 and best.frame_T_box[1, 3] > 0.0
    assert [f.verdict for f in seen.truth_at("0", best, *asked)] == [Verdict.TRUE] * 2


def test_the_open_top_of_a_shelf_is_reached_from_above_and_a_level_under_a_board_is_not(camera):
    seen = Seen(camera, (CUBE,), LOW, SHELF)
    levels = {s.level: s.id for s in seen.layout.surfaces if s.level}
    assert set(levels) == {1, 2}
    above, under = (seen.places("0", Fact("on", ("0", levels[k])))[0] for k in (2, 1))
    assert above.feasible and above.frame_T_box[2, 3] == pytest.approx(SHELF.board_top_m(2) + 0.0225, abs=0.006)
    assert not under.feasible and "hand would touch" in under.reason


def test_places_keep_apart_from_what_stands_there_and_from_each_other(camera):
    seen = Seen(camera, (CUBE, BALL, BOWL))
    found = seen.places("0", Fact("on", ("0", "table")))
    middles = [p.frame_T_box[:2, 3] for p in found]
    assert len(found) > 1 and all(p.feasible for p in found)
    assert min(np.linalg.norm(a - b) for k, a in enumerate(middles) for b in middles[:k]) > 0.03
    for thing in (BALL, BOWL):
        assert all(np.linalg.norm(m - thing.position_m[:2]) > thing.size_m[0] / 2 + 0.02 for m in middles)


def test_a_hand_may_come_to_one_spot_from_either_side(camera):
    seen = Seen(camera, (CUBE, BALL))
    own = [g for g in seen.grasps if g.detection_id == "0"]
    on_the_table = (Fact("on", ("0", "table")),)
    found = find_places(seen.cloud, seen.layout, seen.things["0"], on_the_table, own, CONFIG.gripper, 60, 2)
    poses = [p.frame_T_box for p in found]
    opposite = [
        (a, b)
        for k, a in enumerate(poses)
        for b in poses[:k]
        if np.linalg.norm(a[:3, 3] - b[:3, 3]) < 0.04 and a[:3, 0] @ b[:3, 0] < -0.99
    ]
    assert opposite


def test_what_cannot_be_placed_says_why(camera):
    seen = Seen(camera, (CUBE, BALL, BOWL))
    assert "no inside" in seen.places("0", Fact("in", ("0", "1")))[0].reason
    assert "nothing known is called" in seen.places("0", Fact("on", ("0", "the moon")))[0].reason
    assert "no feasible grasp" in seen.places("0", Fact("on", ("0", "table")), grasps=[])[0].reason
    post = GripperConfig(finger_thickness=0.15, max_width=0.2, palm_width=0.4, finger_length=0.03)
    crowded = Seen(camera, (CUBE, BALL, replace(BOWL, position_m=(-0.01, -0.11, 0.03))))
    assert "hand would touch" in crowded.places("0", Fact("next_to", ("0", "2")), gripper=post)[0].reason
    with pytest.raises(InvalidInput, match="no place for '0'"):
        seen.places("0", Fact("above", ("0", "1"), "viewer"))
    with pytest.raises(InvalidInput, match="no place for '0'"):
        seen.places("0", Fact("on", ("1", "table")))


def test_what_stands_on_a_wide_thing_and_was_taken_for_a_part_of_it_is_not_its_top():
    def plate(half_m, z):
        return np.array(
            [(x, y, z) for x in np.arange(-half_m, half_m, 0.004) for y in np.arange(-half_m, half_m, 0.004)]
        )

    tray, can = plate(0.10, 0.006), plate(0.022, 0.08)
    assert _top(np.concatenate((tray, can)))[:, 2].max() < 0.01
    side = np.array([(x, -0.03, z) for x in np.arange(-0.03, 0.03, 0.004) for z in np.arange(0, 0.06, 0.004)])
    assert _top(np.concatenate((plate(0.03, 0.06), side)))[:, 2].min() > 0.05


def test_into_what_is_too_narrow_for_the_fingers_a_thing_falls_and_lies_inside(camera):
    """It is let go with its lower end in the opening, the fingers above the rim; its place is on the floor."""
    mug = ObjectSpec("mug", "yellow", (0.10, 0.086, 0.085), (0.12, -0.02, 0.0425), 0.4)
    small = ObjectSpec("ball", "black", (0.050,) * 3, (-0.08, -0.06, 0.025), 0.0)
    seen, asked = Seen(camera, (small, mug)), Fact("in", ("0", "1"), "gravity")
    place = seen.places("0", asked)[0]
    assert place.feasible, place.reason
    (fact,) = seen.truth_at("0", place, asked)
    assert fact.verdict is Verdict.TRUE, fact.reason
    grasp = [g for g in seen.grasps if g.detection_id == "0"][place.grasp]
    fall_m = (place.frame_T_gripper - grasp.frame_T_gripper)[2, 3] - (place.frame_T_box - seen.things["0"].frame_T_box)[
        2, 3
    ]
    assert fall_m > 0.015
    world = PhysicalWorld(seen.spec)
    start = place.frame_T_box @ np.linalg.inv(seen.things["0"].frame_T_box) @ small.pose()
    start[2, 3] += fall_m
    world.move(0, start)
    world.settle()
    end = exact_layout(world.spec(), seen.pose, range(2))
    assert facts.measure(end, "in", ("0", "1")).verdict is Verdict.TRUE


def test_what_would_be_let_go_over_the_rim_has_no_place(camera):
    mug = ObjectSpec("mug", "yellow", (0.10, 0.086, 0.03), (0.12, -0.02, 0.015), 0.4)
    wide = ObjectSpec("ball", "black", (0.074,) * 3, (-0.08, -0.06, 0.037), 0.0)
    assert not Seen(camera, (wide, mug)).places("0", Fact("in", ("0", "1"), "gravity"))[0].feasible


def test_jaws_let_go_as_far_as_places_are_tried_with():
    page = (Path(__file__).parents[2] / "docs" / "planners.md").read_text()
    assert pick_place.RELEASE_M == placing.RELEASE_M
    assert (
        f"RELEASE_M = 0.002, 0.10, {placing.RELEASE_M}" in page and f"{1000 * placing.RELEASE_M:.0f} mm farther" in page
    )
