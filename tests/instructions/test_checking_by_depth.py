"""Where a model boxes nothing, or something else, depth says what became of a thing: noisy pictures, no boxes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.asking.finding import Found, Shot
from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.instructions.checking import Checker
from qwen3vl_ros.instructions.plans import Done, PlanStep
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.plan import Step
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec, ShelfSpec
from qwen3vl_ros.types import Detection2D, Fact, Frame, PlaceTarget, Verdict

BOX = ObjectSpec("box", "red", (0.07, 0.045, 0.05), (-0.14, -0.13, 0.025), 0.3)
BOWL = ObjectSpec("bowl", "blue", (0.14, 0.14, 0.06), (0.17, -0.12, 0.03), 0.0)
SHELF = ShelfSpec((-0.01, 0.19), -1.45, (0.36, 0.24), 2, 0.23, (0.62, 0.47, 0.31))
VIEW = CameraSpec((0.15, -0.66, 0.62), (0.0, 0.02, 0.10))
ON_BOARD = replace(BOX, position_m=(-0.03, 0.18, SHELF.board_top_m(2) + 0.025))
BESIDE = replace(BOX, position_m=(0.05, -0.12, 0.025))


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


class Scene:
    """Pictures of a table with a shelf; boxed: the labels that a model boxes."""

    def __init__(self, camera):
        self._camera, self._looks, self._perception = camera, 0, Perception(None, Config())
        self.boxed: tuple[str, ...] = ()
        self.show(BOX, BOWL)

    def show(self, *objects):
        self.spec = SceneSpec(0, objects, camera=VIEW, shelf=SHELF)

    def see(self):
        self._looks += 1
        self._seen = self._camera.render(self.spec)
        depth_m = noisy_depth(self._seen.depth_m, self._seen.K, self._looks)
        pose = self._seen.world_T_camera
        frame = Frame(self._looks, "camera", self._seen.rgb, depth_m, self._seen.K)
        return Shot(replace(frame, target_T_camera=pose, target_frame="world", up_camera=pose[2, :3]))

    def find(self, shot, names, control=None, expected=None):
        cloud = SceneCloud.of(shot.frame, Config().lift)
        boxes = [t for t in self._seen.truths if t.label in self.boxed and t.label in names]
        flat = [Detection2D(t.label, t.box_xyxy_px, 0.9, str(k)) for k, t in enumerate(boxes)]
        named, lifted, _ = self._perception.place(shot.frame, "test", flat)
        layout = layout_of(cloud, lifted.detections, lifted.refusals, shelf="shelf" if "shelf" in self.boxed else "")
        return Found(shot, layout, tuple(named), lifted.detections, None, cloud)

    def step(self, fact, carrier):
        """A step that puts the box somewhere, planned while everything was boxed; the place's box is `goal`'s."""
        self.boxed = ("red box", "blue bowl", "shelf")
        found = self.find(self.see(), ("red box", "blue bowl"))
        (thing,) = [t for t in found.layout.things if t.label == "red box"]
        (other,) = [t for t in (*found.layout.things, *found.layout.surfaces) if t.label == carrier]
        (target,) = [d for d in found.detections_3d if d.label == "red box"]
        after = (Fact(fact, (thing.id, other.id), "gravity" if fact == "on" else ""),)
        names = ((thing.id, "red box"), (other.id, carrier))
        self.boxed = ()
        return PlanStep(
            Step("place", "red box", fact, carrier), target, after=after, names=names, thing=thing, around=(other,)
        )

    def verdict(self, step, goal, *objects, before=(BOWL,)):
        """What is said once the scene is this; goal: where the box was to lie. before: what stood there while it was held."""
        checker = Checker(self, self.see, lambda *_: None, Control())
        self.show(*before)
        checker.look()
        checker.moving()
        self.show(*objects)
        world_T_box = goal.pose() @ np.linalg.inv(BOX.pose()) @ step.target.frame_T_box
        support = "table" if step.told.relation == "next_to" else step.around[0].id
        place = PlaceTarget(step.target.id, support, "world", world_T_box, np.eye(4), 0, 0.1, 0.02, 0.8, True)
        return checker.placed(0, step, place, Done(True, holding=False))


@pytest.fixture
def scene(camera):
    return Scene(camera)


def test_what_nobody_boxes_lies_on_a_board_that_nobody_sees_as_one(scene):
    step = scene.step("on", "shelf level 2")
    told, said = scene.verdict(step, ON_BOARD, ON_BOARD, BOWL)
    assert told is Verdict.TRUE, said


@pytest.mark.parametrize("aside_m", [0.0, 0.01, 0.017])
def test_what_lies_a_little_aside_of_its_place_is_there(scene, aside_m):
    step = scene.step("next_to", "blue bowl")
    lies = replace(BESIDE, position_m=(0.05 - aside_m / 2, -0.12, 0.025))
    assert scene.verdict(step, BESIDE, lies, BOWL)[0] is Verdict.TRUE


@pytest.mark.parametrize("at", [(0.05, -0.24, 0.025), (-0.14, -0.13, 0.025)])
def test_what_lies_elsewhere_is_not_there(scene, at):
    step = scene.step("on", "shelf level 2")
    assert scene.verdict(step, ON_BOARD, replace(BOX, position_m=at), BOWL)[0] is not Verdict.TRUE
    beside = scene.step("next_to", "blue bowl")
    assert scene.verdict(beside, BESIDE, replace(BOX, position_m=(-0.2, 0.0, 0.025)), BOWL)[0] is not Verdict.TRUE


@pytest.mark.parametrize("colour, told", [("red", Verdict.TRUE), ("green", Verdict.UNKNOWN)])
def test_what_lies_there_and_is_of_another_colour_is_not_said_to_be_it(scene, colour, told):
    step = scene.step("on", "shelf level 2")
    assert scene.verdict(step, ON_BOARD, replace(ON_BOARD, colour=colour, rgb=None), BOWL)[0] is told


def test_what_lies_on_something_flat_that_nobody_named_is_not_said_to_lie_on_the_table(scene):
    tray = ObjectSpec("tray", "white", (0.24, 0.17, 0.022), (0.02, -0.14, 0.011), 0.1)
    low = replace(BESIDE, position_m=(0.05, -0.12, 0.031))
    step = scene.step("next_to", "blue bowl")
    told, said = scene.verdict(step, low, low, BOWL, tray, before=(BOWL, tray))
    assert told is Verdict.UNKNOWN and "above the table" in said


def test_what_stood_there_before_under_the_same_name_is_none_that_was_put_down(scene):
    twin = replace(BOX, position_m=(0.06, -0.17, 0.025), yaw_rad=0.0)
    step = scene.step("next_to", "blue bowl")
    checker = Checker(scene, scene.see, lambda *_: None, Control())
    scene.show(twin, BOWL)
    checker.look()
    checker.moving()
    scene.boxed = ("red box", "blue bowl")
    world_T_box = BESIDE.pose() @ np.linalg.inv(BOX.pose()) @ step.target.frame_T_box
    place = PlaceTarget(step.target.id, "", "world", world_T_box, np.eye(4), 0, 0.1, 0.02, 0.8, True)
    assert checker.placed(0, step, place, Done(True))[0] is not Verdict.TRUE


def test_a_thing_that_was_taken_is_told_by_its_empty_place_and_one_that_stands_there_by_its_full_one(scene):
    step = scene.step("next_to", "blue bowl")
    for objects, told in (((BOWL,), Verdict.TRUE), ((BOX, BOWL), Verdict.FALSE)):
        scene.show(BOX, BOWL)
        checker = Checker(scene, scene.see, lambda *_: None, Control())
        checker.look()
        checker.moving()
        scene.show(*objects)
        done = Done(True, opening_m=0.045, holding=True)
        assert checker.picked(0, step, SimpleNamespace(width_m=0.045), done)[0] is told


def test_a_reference_is_known_to_stand_by_depth_and_to_be_gone(scene):
    step = scene.step("next_to", "blue bowl")
    checker = Checker(scene, scene.see, lambda *_: None, Control())
    scene.show(BOWL)
    assert checker.moved_reference(0, step) == ""
    scene.show(replace(BOWL, position_m=(-0.15, -0.05, 0.03)))
    assert "blue bowl" in checker.moved_reference(0, step)


@pytest.mark.parametrize("at", [(-0.14, -0.03, 0.025), (-0.05, -0.13, 0.025), (0.05, -0.22, 0.025)])
def test_what_stands_elsewhere_on_the_same_table_was_not_put_back(scene, at):
    step = scene.step("on", "table")
    step = replace(step, told=Step("place", "red box", "back"))
    scene.boxed = ("red box", "blue bowl")
    told, said = scene.verdict(step, BOX, replace(BOX, position_m=at), BOWL)
    assert told is not Verdict.TRUE and "from where it was" in said
    told, said = scene.verdict(step, BOX, replace(BOX, position_m=(-0.13, -0.13, 0.025)), BOWL)
    assert told is Verdict.TRUE, said


@pytest.mark.parametrize(
    "fact, relation, at",
    [
        ("left_of", "left of", (0.07, 0.03, 0.025)),
        ("behind", "behind", (-0.06, -0.02, 0.025)),
        ("left_of", "left of", (-0.22, -0.12, 0.025)),
    ],
)
def test_what_lies_more_aside_than_where_it_was_told_to_be_or_far_off_is_not_there(scene, fact, relation, at):
    step = scene.step(fact, "blue bowl")
    step = replace(step, told=Step("place", "red box", relation, "blue bowl"))
    scene.boxed = ("red box", "blue bowl")
    straight = {"left_of": (0.03, -0.12, 0.025), "behind": (0.17, 0.0, 0.025)}[fact]
    there = replace(BOX, position_m=straight)
    told, said = scene.verdict(step, there, replace(BOX, position_m=at), BOWL)
    assert told is not Verdict.TRUE and "aside" in said
    assert scene.verdict(step, there, there, BOWL)[0] is Verdict.TRUE


@pytest.mark.parametrize("at", [(-0.02, -0.2, 0.025), (-0.2, 0.0, 0.025), (-0.14, -0.04, 0.025)])
def test_what_was_pushed_aside_is_not_in_the_jaws_whatever_they_hold(scene, at):
    step = scene.step("next_to", "blue bowl")
    scene.show(BOX, BOWL)
    checker = Checker(scene, scene.see, lambda *_: None, Control())
    checker.look()
    checker.moving()
    scene.boxed = ("red box", "blue bowl")
    scene.show(replace(BOX, position_m=at), BOWL)
    told, said = checker.picked(0, step, SimpleNamespace(width_m=0.045), Done(True, opening_m=0.045, holding=True))
    assert told is Verdict.UNKNOWN and "pushed aside" in said
    scene.show(replace(BOX, position_m=(at[0], at[1], 0.30)), BOWL)
    held = checker.picked(0, step, SimpleNamespace(width_m=0.045), Done(True, opening_m=0.045, holding=True))
    assert held[0] is Verdict.TRUE, held[1]


@pytest.mark.parametrize(
    "at, told",
    [
        ((0.16, 0.03, 0.25), Verdict.TRUE),  # no higher than it stood, and nothing below
        ((-0.12, -0.02, 0.24), Verdict.TRUE),
        ((0.07, 0.16, ON_BOARD.position_m[2]), Verdict.UNKNOWN),  # farther along the board
    ],
)
def test_what_was_taken_from_a_board_and_hangs_beside_it_is_in_the_jaws_however_wide_they_stand(scene, at, told):
    scene.show(ON_BOARD, BOWL)
    scene.boxed = ("red box", "blue bowl", "shelf")
    found = scene.find(scene.see(), ("red box",))
    (thing,), (target,) = ([o for o in of if o.label == "red box"] for of in (found.layout.things, found.detections_3d))
    step = PlanStep(Step("pick", "red box"), target, names=((thing.id, "red box"),), thing=thing)
    checker = Checker(scene, scene.see, lambda *_: None, Control())
    checker.look()
    checker.moving()
    scene.show(replace(ON_BOARD, position_m=at), BOWL)
    verdict, said = checker.picked(0, step, SimpleNamespace(width_m=0.045), Done(True, opening_m=0.006, holding=True))
    assert verdict is told, said


@pytest.mark.parametrize(
    "along_m, back", [(0.015, True), (-0.02, True), (0.037, False), (-0.042, False), (0.048, False)]
)
def test_how_far_aside_a_thing_lies_is_told_though_much_of_it_is_where_it_was(scene, along_m, back):
    """Along its longer side most of its rays still end in it, well aside of its place."""
    step = scene.step("on", "table")
    step = replace(step, told=Step("place", "red box", "back"))
    lies = BOX.pose()[:3, :3] @ (along_m, 0.0, 0.0) + BOX.position_m
    told, said = scene.verdict(step, BOX, replace(BOX, position_m=tuple(lies)), BOWL)
    assert (told is Verdict.TRUE) is back, said
