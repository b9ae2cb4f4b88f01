"""What was put down is only said to lie right where nothing speaks against what it rests on and what it is: noisy pictures."""

from dataclasses import replace

import numpy as np
import pytest

from qwen3vl_ros.asking.finding import Finder, Shot
from qwen3vl_ros.config import Config, GripperConfig
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.grasping.placing import find_places
from qwen3vl_ros.instructions.resting import (
    come_onto,
    doubt,
    leans,
    only_it_went,
    stands_off,
    stood_there,
    took_another,
)
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.types import Detection2D, Fact, Frame

SHELF = ShelfSpec((-0.01, 0.19), -1.45, (0.36, 0.24), 2, 0.23, (0.62, 0.47, 0.31))
VIEW = CameraSpec((0.15, -0.66, 0.62), (0.0, 0.02, 0.10))
BOX = ObjectSpec("box", "red", (0.07, 0.045, 0.05), (-0.20, -0.13, 0.025), 0.3)
TRAY = ObjectSpec("tray", "yellow", (0.24, 0.17, 0.024), (0.12, -0.10, 0.012), 0.2)
BLOCK = ObjectSpec("cube", "green", (0.06,) * 3, (0.14, -0.10, 0.006 + 0.03), 0.2, on=0)


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


class Seen:
    """One noisy picture of things on a table with a shelf. layout(names): those things measured in it, each name's boxes the true ones."""

    def __init__(self, camera, *objects, seed=1):
        self.view = camera.render(SceneSpec(0, objects, camera=VIEW, shelf=SHELF))
        pose, depth_m = self.view.world_T_camera, noisy_depth(self.view.depth_m, self.view.K, seed)
        frame = Frame(seed, "camera", self.view.rgb, depth_m, self.view.K)
        self.shot = Shot(replace(frame, target_T_camera=pose, target_frame="world", up_camera=pose[2, :3]))
        self.cloud = SceneCloud.of(self.shot.frame, Config().lift)

    def found(self, *names, **called):
        """called: what things of a label (words joined by _) are called instead."""
        labels = {n: n for n in names} | {label.replace("_", " "): n for label, n in called.items()}
        boxes = tuple(Detection2D(labels[t.label], t.box_xyxy_px, 0.9) for t in self.view.truths if t.label in labels)
        return Finder(Perception(None, Config()))._measured(self.shot, boxes, (), None, (*names, "shelf"))


def lies(camera, goal, name="red box"):
    """The red box as it was measured, moved to `goal` by the truth; name: what it is called."""
    found = Seen(camera, BOX).found("red box")
    (thing,) = found.layout.things
    return replace(thing.moved(goal.pose() @ np.linalg.inv(BOX.pose())), label=name), found.layout


def carrier_in(layout, label):
    return next(t for t in (*layout.things, *layout.surfaces) if t.label == label)


ON_TABLE = replace(BOX, position_m=(0.10, -0.10, 0.025))
ON_BOARD = replace(BOX, position_m=(-0.03, 0.18, SHELF.board_top_m(2) + 0.025))


@pytest.mark.parametrize("goal, label", [(ON_TABLE, "table"), (ON_BOARD, "shelf level 2")])
def test_nothing_speaks_against_what_lies_on_what_it_was_put_on(camera, goal, label):
    thing, layout = lies(camera, goal)
    before, after = Seen(camera, seed=2), Seen(camera, goal, seed=3)
    assert doubt(before.cloud, after.cloud, thing, carrier_in(layout, label), layout.level_R_frame) == ""


def test_the_floor_of_a_tray_is_not_the_table_it_lies_on(camera):
    goal = replace(ON_TABLE, position_m=(0.10, -0.10, 0.03))
    thing, layout = lies(camera, goal)
    before, after = Seen(camera, TRAY, seed=2), Seen(camera, TRAY, goal, seed=3)
    said = doubt(before.cloud, after.cloud, thing, carrier_in(layout, "table"), layout.level_R_frame)
    assert "above the table" in said


def test_nor_the_floor_of_one_on_a_board_the_board(camera):
    top_m = SHELF.board_top_m(2)
    tray = replace(TRAY, size_m=(0.17, 0.12, 0.024), position_m=(-0.03, 0.18, top_m + 0.012), level=2)
    goal = replace(ON_BOARD, size_m=(0.06, 0.04, 0.05), position_m=(-0.03, 0.18, top_m + 0.031))
    thing, layout = lies(camera, goal)
    before, after = Seen(camera, tray, seed=2), Seen(camera, tray, goal, seed=3)
    said = doubt(before.cloud, after.cloud, thing, carrier_in(layout, "shelf level 2"), layout.level_R_frame)
    assert "above the shelf level 2" in said


def test_what_stood_where_a_thing_was_put_may_carry_it(camera):
    low = replace(BLOCK, size_m=(0.08, 0.08, 0.02), position_m=(0.10, -0.10, 0.01), on=None)
    goal = replace(ON_TABLE, position_m=(0.10, -0.10, 0.045))
    thing, layout = lies(camera, goal)
    before, after = Seen(camera, low, seed=2), Seen(camera, low, goal, seed=3)
    said = doubt(before.cloud, after.cloud, thing, carrier_in(layout, "table"), layout.level_R_frame)
    assert "stood there before" in said


@pytest.mark.parametrize(
    "colour, name, carried",
    [
        ("green", "yellow tray", False),
        ("white", "yellow tray", False),
        ("black", "yellow tray", False),
        ("green", "green cube", True),
        ("white", "white cube", True),
        ("white", "tray", True),
    ],
)
def test_what_a_thing_was_put_on_has_the_colour_that_its_name_says(camera, colour, name, carried):
    """What stands on a tray may be measured as its top; of a name without a colour nobody can tell."""
    block = replace(BLOCK, colour=colour, rgb=None)
    goal = replace(BOX, position_m=(0.14, -0.10, 0.066 + 0.025))
    thing, layout = lies(camera, goal)
    before, after = Seen(camera, TRAY, block, seed=2), Seen(camera, TRAY, block, goal, seed=3)
    carrier = carrier_in(before.found(f"{colour} cube").layout, f"{colour} cube")
    said = doubt(before.cloud, after.cloud, thing, replace(carrier, label=name), layout.level_R_frame)
    assert (said == "") is carried, said


@pytest.mark.parametrize("colour, right", [("red", True), ("purple", False), ("green", False)])
def test_what_lies_there_has_the_colour_that_its_name_says(camera, colour, right):
    thing, layout = lies(camera, ON_TABLE)
    before, after = Seen(camera, seed=2), Seen(camera, replace(ON_TABLE, colour=colour, rgb=None), seed=3)
    said = doubt(before.cloud, after.cloud, thing, carrier_in(layout, "table"), layout.level_R_frame)
    assert (said == "") is right, said


def test_what_stands_on_a_tray_is_not_measured_as_a_part_of_it(camera):
    (tray,) = Seen(camera, TRAY, BLOCK).found("yellow tray").layout.things
    assert tray.size_m.min() < 0.04 and tray.size_m.max() == pytest.approx(0.24, abs=0.015)
    middle = ObjectSpec("cylinder", "purple", (0.06, 0.06, 0.07), (0.12, -0.10, 0.041), 0.0, on=0)
    (tray,) = Seen(camera, TRAY, middle).found("yellow tray").layout.things
    assert tray.size_m.min() < 0.04 and tray.size_m.max() == pytest.approx(0.24, abs=0.015)


def test_no_place_on_a_table_is_on_a_tray_that_nobody_named(camera):
    bowl = ObjectSpec("bowl", "blue", (0.12, 0.12, 0.05), (0.12, 0.03, 0.025), 0.0)
    seen = Seen(camera, BOX, TRAY, bowl)
    found = seen.found("red box", "blue bowl")
    target, other = (next(d for d in found.detections_3d if d.label == n) for n in ("red box", "blue bowl"))
    gripper = GripperConfig()
    grasps = plan_grasps(seen.cloud, (target,), gripper, most=8)
    asked = (Fact("next_to", (target.id, other.id)),)
    places = find_places(seen.cloud, found.layout, target, asked, grasps, gripper, 16, 2)
    assert places[0].feasible
    world_T_tray = TRAY.pose()
    for place in places:
        at = np.linalg.inv(world_T_tray) @ np.append(place.frame_T_box[:3, 3], 1.0)
        assert (np.abs(at[:2]) > np.array(TRAY.size_m[:2]) / 2 - 0.01).any(), place.frame_T_box[:3, 3]


@pytest.mark.parametrize("colour, right", [("red", True), ("blue", False), ("green", False)])
def test_what_was_taken_has_the_colour_that_its_name_says(camera, colour, right):
    stands = replace(BOX, colour=colour, rgb=None)
    before, after = Seen(camera, stands), Seen(camera, seed=2)
    (thing,) = before.found(stands.label).layout.things
    said = took_another(before.cloud, after.cloud, replace(thing, label="red box"))
    assert (said == "") is right, said
    assert took_another(before.cloud, before.cloud, replace(thing, label="red box")) == "", "it is still there"


def test_in_a_mug_its_wall_is_seen_where_a_thing_lies(camera):
    """Only what is seen where nothing was before is the thing: the mug's colour is none against it."""
    mug = ObjectSpec("mug", "yellow", (0.12, 0.10, 0.09), (0.10, -0.10, 0.045), 0.0)
    goal = ObjectSpec("box", "red", (0.035, 0.03, 0.03), (0.10, -0.10, 0.02), 0.0)
    low = replace(goal, position_m=(-0.2, -0.13, 0.015))
    (thing,) = Seen(camera, low).found("red box").layout.things
    thing = thing.moved(goal.pose() @ np.linalg.inv(low.pose()))
    before, after = Seen(camera, mug, seed=2), Seen(camera, mug, goal, seed=3)
    found = before.found("yellow mug")
    assert (
        doubt(before.cloud, after.cloud, thing, carrier_in(found.layout, "yellow mug"), found.layout.level_R_frame)
        == ""
    )


SPHERE = ObjectSpec("ball", "green", (0.05,) * 3, (-0.10, -0.05, 0.025), 0.0)


@pytest.mark.parametrize(
    "after, only",
    [
        ((BOX, TRAY), True),
        ((BOX, TRAY, replace(SPHERE, position_m=(-0.02, -0.02, 0.025))), False),  # pushed aside
        ((TRAY,), False),  # another one beside it is gone as well
        ((BOX, TRAY, SPHERE), False),
    ],
)
def test_what_the_jaws_took_is_told_by_what_is_gone_from_there(camera, after, only):
    near = replace(BOX, position_m=(-0.18, -0.06, 0.025))
    after = tuple(near if o is BOX else o for o in after)
    before = Seen(camera, SPHERE, near, TRAY)
    (ball,) = before.found("green ball").layout.things
    assert only_it_went(before.cloud, Seen(camera, *after, seed=2).cloud, ball) is only


@pytest.mark.parametrize("in_tray", [True, False])
@pytest.mark.parametrize("at", [(0.10, -0.10), (0.14, -0.07)])
def test_what_stands_in_a_tray_is_on_the_table_for_no_order(camera, in_tray, at):
    """Its foot is within a centimetre of the table either way."""
    low = replace(BOX, position_m=(*at, 0.025 + 0.005 * in_tray))
    found = Seen(camera, *((low, TRAY) if in_tray else (low,))).found("red box")
    (thing,) = found.layout.things
    table = carrier_in(found.layout, "table")
    assert stands_off(found.cloud, thing, table, found.layout.level_R_frame) is in_tray


STOOD = replace(BOX, colour="green", rgb=None, position_m=(0.15, -0.10, 0.025))


@pytest.mark.parametrize(
    "was, is_it",
    [
        ((BOX, STOOD), True),
        ((BOX,), False),
        ((BOX, replace(STOOD, kind="ball", size_m=(0.03,) * 3)), False),
        ((BOX, replace(STOOD, colour="red", rgb=None)), False),
        ((BOX, replace(STOOD, position_m=(0.22, -0.10, 0.025))), False),
    ],
)
def test_what_stood_there_before_is_known_again(camera, was, is_it):
    now = Seen(camera, STOOD, seed=2)
    (thing,) = now.found("green box").layout.things
    assert stood_there(Seen(camera, *was).cloud, now.cloud, thing) is is_it


@pytest.mark.parametrize(
    "kind, size_m", [("box", (0.07, 0.045, 0.05)), ("cylinder", (0.05, 0.05, 0.09)), ("cube", (0.05,) * 3)]
)
def test_what_leans_or_lies_does_not_stand_as_it_was_put(camera, kind, size_m):
    thing = ObjectSpec(kind, "red", size_m, (0.12, -0.10, size_m[2] / 2), 0.3)
    empty, upright = Seen(camera), Seen(camera, thing, seed=2)
    found = upright.found(f"red {kind}")
    (rest,), up = found.layout.things, found.layout.level_R_frame[2]
    for seed in range(3, 7):
        assert not leans(empty.cloud, Seen(camera, thing, seed=seed).cloud, rest, rest, up)
    raised = replace(
        thing, position_m=(0.12, -0.10, size_m[2] / 2 + 0.035)
    )  # as by an edge that rests on another thing
    assert " cm higher" in leans(empty.cloud, Seen(camera, raised, seed=3).cloud, rest, rest, up)
    assert not leans(None, upright.cloud, rest, rest, up), "nobody can tell"


BOWL = ObjectSpec("bowl", "blue", (0.17, 0.17, 0.07), (0.12, -0.10, 0.035), 0.0)
IN_BOWL = replace(BOX, position_m=(0.12, -0.10, 0.04))
ON_BOARD = replace(BOX, position_m=(-0.06, 0.18, SHELF.board_top_m(2) + 0.025))


@pytest.mark.parametrize(
    "carrier, put, lies_m, colour, there",
    [
        ("blue bowl", IN_BOWL, (0.13, -0.09, 0.045), "red", True),
        ("blue bowl", IN_BOWL, (0.13, -0.09, 0.045), "green", False),
        ("blue bowl", IN_BOWL, (0.12, -0.10, 0.07 + 0.025), "red", False),  # across the rim
        ("blue bowl", IN_BOWL, (-0.04, -0.14, 0.025), "red", False),
        ("shelf level 2", ON_BOARD, (0.06, 0.17, ON_BOARD.position_m[2]), "red", True),
        ("shelf level 2", ON_BOARD, (0.06, 0.17, ON_BOARD.position_m[2]), "purple", False),
        ("shelf level 2", ON_BOARD, (0.06, 0.17, ON_BOARD.position_m[2] + 0.033), "red", False),  # on something there
        ("shelf level 2", ON_BOARD, (-0.04, -0.14, 0.025), "red", False),
        ("blue bowl", IN_BOWL, None, "red", False),
    ],
)
def test_what_rolled_away_on_what_it_was_put_on_is_known_by_its_size_and_colours(
    camera, carrier, put, lies_m, colour, there
):
    rest, layout = lies(camera, put)
    before = Seen(camera, BOWL, seed=2)
    things = () if lies_m is None else (replace(BOX, position_m=lies_m, colour=colour, rgb=None),)
    now = Seen(camera, BOWL, *things, seed=3)
    known = carrier_in(before.found("blue bowl").layout, carrier)
    found = come_onto(before.cloud, now.cloud, rest, known, layout.level_R_frame)
    assert (found is not None) is there
    if there:
        assert np.linalg.norm(found.frame_T_box[:2, 3] - lies_m[:2]) < 0.02
    assert come_onto(None, now.cloud, rest, known, layout.level_R_frame) is None, "nobody can tell"
