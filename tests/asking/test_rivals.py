"""Of things of one colour the one is meant that has the form of the name; where the model boxes none, it is asked where that colour is."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qwen3vl_ros.asking import shapes
from qwen3vl_ros.asking.finding import Finder, Shot
from qwen3vl_ros.asking.rivals import called_otherwise, pieces
from qwen3vl_ros.config import Config
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.opening import closed
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.aliases import in_english, rivals
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.depth_noise import noisy_depth
from qwen3vl_ros.sim.specs import CameraSpec, ObjectSpec, SceneSpec
from qwen3vl_ros.types import Detection2D, Frame, Generation

VIEW = CameraSpec((0.15, -0.66, 0.62), (0.0, 0.02, 0.10))
CUBE = ObjectSpec("cube", "blue", (0.05,) * 3, (-0.12, -0.10, 0.025), 0.2)
BOX = ObjectSpec("box", "blue", (0.11, 0.05, 0.065), (0.10, -0.05, 0.0325), -0.4)
MUG = ObjectSpec("mug", "red", (0.08, 0.08, 0.09), (0.0, 0.10, 0.045), 0.0)


@pytest.fixture(scope="module")
def camera():
    with SimCamera(quality="fast") as camera:
        yield camera


class Model(Perception):
    """Boxes what `said` says a phrase is: the thing of that label, where it is in the part that is shown and that no wider than widest_px."""

    def __init__(self, camera, objects, said: dict[str, str], widest_px: float = 640):
        super().__init__(None, Config())
        view = camera.render(SceneSpec(0, objects, camera=VIEW))
        depth_m, pose = noisy_depth(view.depth_m, view.K, 1), view.world_T_camera
        frame = Frame(1, "camera", view.rgb, depth_m, view.K)
        self.shot = Shot(replace(frame, target_T_camera=pose, target_frame="world", up_camera=pose[2, :3]))
        self.boxes = {t.label: t.box_xyxy_px for t in view.truths}
        self._said, self._widest_px, self.parts, self.choice = said, widest_px, [], {}

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None):
        x0, y0, x1, y1 = view.region_xyxy_px if view and view.region_xyxy_px else (0, 0, *frame.size_px)
        if len(question.targets) > 1:
            return self._choice((x0, y0, x1, y1), question.targets)
        (phrase,) = question.targets
        if x1 - x0 < 640:
            self.parts.append((x0, y0, x1, y1))
        box, said = self.boxes.get(self._said.get(phrase, "")), []
        if box and x1 - x0 <= self._widest_px and x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1:
            shown = (np.array(box) - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
            said = [{"bbox_2d": [round(float(v)) for v in shown], "label": phrase}]
        return Generation(json.dumps(said, ensure_ascii=False), (), None, (), "stop")

    def _choice(self, part, names):
        """What stands there, by the names that may be chosen; `choice` says what a label is called instead."""
        x0, y0, x1, y1 = part
        said = []
        for label, box in self.boxes.items():
            called = self.choice.get(label, label)
            name = next((n for n in names if called in (n, in_english(n))), None)
            if name and x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1:
                shown = (np.array(box) - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
                said.append({"bbox_2d": [round(float(v)) for v in shown], "label": name})
        return Generation(json.dumps(said, ensure_ascii=False), (), None, (), "stop")

    def found(self, phrase):
        return Finder(self, closely=True).find(self.shot, (phrase,)).detections_2d


@pytest.mark.parametrize("phrase", ["blue box", "蓝色的盒子"])
def test_a_cube_is_no_box_where_a_box_of_its_colour_stands(camera, phrase):
    assert not Model(camera, (CUBE, BOX, MUG), {phrase: "blue cube"}).found(phrase)
    assert Model(camera, (CUBE, BOX, MUG), {phrase: "blue box"}).found(phrase)


def test_nor_a_box_a_cube(camera):
    assert not Model(camera, (CUBE, BOX), {"blue cube": "blue box"}).found("blue cube")
    assert Model(camera, (CUBE, BOX), {"blue cube": "blue cube"}).found("blue cube")


@pytest.mark.parametrize("colour", ["black", "white"])
def test_so_it_is_with_colours_that_have_no_hue(camera, colour):
    cube, box = (replace(thing, colour=colour, rgb=None) for thing in (CUBE, BOX))
    name, other = f"{colour} box", f"{colour} cube"
    assert not Model(camera, (cube, box, MUG), {name: other}).found(name)
    assert Model(camera, (cube, box, MUG), {name: name}).found(name)
    assert Model(camera, (cube, MUG), {name: other}).found(name), "it stands alone in its colour"


@pytest.mark.parametrize("others", [(), (MUG,), (replace(BOX, colour="red", rgb=None),)])
def test_where_it_stands_alone_in_its_colour_it_may_be_called_so(camera, others):
    assert Model(camera, (CUBE, *others), {"blue box": "blue cube"}).found("blue box")


def test_what_the_model_does_not_see_it_is_asked_for_where_its_colour_is(camera):
    eyes = Model(camera, (CUBE, BOX, MUG), {"blue box": "blue box"}, widest_px=520)
    (seen,) = eyes.found("blue box")
    assert np.abs(np.array(seen.box_xyxy_px) - eyes.boxes["blue box"]).max() < 4
    x0, y0, x1, y1 = eyes.parts[0]
    box = np.array(eyes.boxes["blue box"])
    assert np.abs((box[:2] + box[2:]) / 2 - ((x0 + x1) / 2, (y0 + y1) / 2)).max() < 12, "the largest blue thing first"


def test_pieces_are_the_things_of_that_colour_the_largest_first_and_none_without_one(camera):
    eyes = Model(camera, (CUBE, BOX, MUG), {})
    cloud = SceneCloud.of(eyes.shot.frame, Config().lift)
    for name in ("blue thing", "蓝色的东西"):
        for piece, label in zip(pieces(cloud, name), ("blue box", "blue cube"), strict=True):
            assert np.abs(np.array(piece) - eyes.boxes[label]).max() < 12
    assert not pieces(cloud, "thing") and not pieces(cloud, "green thing") and not pieces(cloud, "white thing")
    assert len(pieces(cloud, "blue thing", but=(eyes.boxes["blue box"],))) == 1


@pytest.mark.parametrize("phrase", ["red bowl", "红色的碗", "red tray"])
def test_what_is_called_otherwise_where_names_can_be_chosen_is_no_find(camera, phrase):
    eyes = Model(camera, (CUBE, MUG), {phrase: "red mug"})
    assert not eyes.found(phrase)
    eyes.choice = {"red mug": in_english(phrase)}
    assert eyes.found(phrase), "and what is called so is"


@pytest.mark.parametrize(
    "name, called, scores, otherwise",
    [
        ("red tray", ("red bowl", "red bowl"), (0.9, 0.9), True),
        ("白色的盒子", ("蓝色的立方体", "蓝色的盒子"), (0.4, 0.5), True),
        ("orange cylinder", ("orange box", "orange box"), (0.5, 0.9), True),
        ("red tray", ("red bowl", "red bowl"), (np.nan, np.nan), True),
        ("red tray", ("red bowl", "red tray"), (0.9, 0.9), False),
        ("red tray", ("red bowl", "red mug"), (0.9, 0.9), False),
        ("red tray", ("red bowl", "red bowl"), (0.5, 0.5), False),
        ("red tray", ("red bowl",), (0.9,), False),
        ("red tray", (), (), False),
        ("blue box", ("blue cube", "blue cube"), (0.9, 0.9), False),
        ("red cup", ("red mug", "red coffee mug"), (0.9, 0.9), False),
        ("stapler", ("mug", "box"), (0.9, 0.9), False),
        ("mug other than the red mug", ("blue mug", "blue mug"), (0.9, 0.9), False),
    ],
)
def test_looks_that_may_choose_must_agree_and_be_sure(name, called, scores, otherwise):
    chosen = [Detection2D(c, (0, 0, 9, 9), s) for c, s in zip(called, scores)]
    assert called_otherwise(name, chosen) is otherwise


def test_rivals_are_other_things_of_the_same_words():
    assert "red bowl" in rivals("red mug") and "red mug" not in rivals("red cup") and "红色的碗" in rivals("红杯子")
    assert "mug" in rivals("stapler")


@pytest.mark.parametrize(
    "name, size_m, other",
    [
        ("white cylinder", (0.30, 0.246, 0.377), True),
        ("白色的圆柱体", (0.232, 0.209, 0.32), True),
        ("grey mug", (0.25, 0.22, 0.4), True),
        ("white cylinder", (0.08, 0.08, 0.30), False),
        ("white box", (0.40, 0.30, 0.25), False),
        ("white tray", (0.40, 0.30, 0.19), False),
        ("black bowl", (0.30, 0.30, 0.19), False),
    ],
)
def test_the_base_of_an_arm_is_neither_mug_nor_cylinder(name, size_m, other):
    thing = SimpleNamespace(inside=None)
    assert shapes.contradicts(name, thing, size_m) is other


CAN = ObjectSpec("cylinder", "red", (0.08, 0.08, 0.09), (0.0, 0.10, 0.045), 0.0)


@pytest.mark.parametrize("phrase", ["red mug", "red bowl", "红色的杯子"])
@pytest.mark.parametrize("thing", [CAN, replace(CAN, kind="cube", size_m=(0.06,) * 3, position_m=(-0.05, -0.1, 0.03))])
def test_what_a_level_top_closes_is_no_mug(camera, phrase, thing):
    assert not Model(camera, (BOX, thing), {phrase: thing.label}).found(phrase)


@pytest.mark.parametrize("eye_m", [(0.15, -0.66, 0.62), (0.1, -0.9, 0.30), (0.0, -0.3, 0.8), (0.0, -0.7, 0.1)])
@pytest.mark.parametrize("yaw", [0.0, 1.3, -2.0])
@pytest.mark.parametrize(
    "kind, size_m", [("mug", (0.08, 0.08, 0.09)), ("mug", (0.109, 0.08, 0.06)), ("bowl", (0.14, 0.14, 0.05))]
)
def test_what_is_open_is_never_seen_as_closed(camera, eye_m, yaw, kind, size_m):
    thing = ObjectSpec(kind, "red", size_m, (0.0, 0.0, size_m[2] / 2), yaw)
    view = camera.render(SceneSpec(0, (thing,), camera=CameraSpec(eye_m, (0.0, 0.0, 0.05))))
    for seed in range(3):
        frame = Frame(1, "camera", view.rgb, noisy_depth(view.depth_m, view.K, seed), view.K)
        pose = view.world_T_camera
        shot = Shot(replace(frame, target_T_camera=pose, target_frame="world", up_camera=pose[2, :3]))
        box = Detection2D(thing.label, view.truths[0].box_xyxy_px, 0.9)
        assert not Finder(Perception(None, Config()))._of_another_form(shot, box)


@pytest.mark.parametrize("sigma_m, told", [(0.001, True), (0.003, True), (0.0045, False), (0.008, False)])
@pytest.mark.parametrize("width_m, across_m", [(0.10, 0.012), (0.08, 0.08), (0.03, 0.05)])
def test_through_much_noise_nothing_is_told_of_a_top(sigma_m, told, width_m, across_m):
    """A strip of a bowl's rim, all that a hand in front of it leaves, would look as level as a box's top."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (400, 3)) * (width_m, across_m, 0.0) + (0.0, 0.0, 0.28)
    points[:, 2] += rng.normal(0, 0.4 * sigma_m, len(points))
    assert closed(points, sigma_m) is told


@pytest.mark.parametrize("phrase", ["blue cube", "cube", "蓝色的立方体"])
@pytest.mark.parametrize(
    "size_m, is_one", [((0.049, 0.03, 0.03), False), ((0.09, 0.06, 0.05), False), ((0.05,) * 3, True)]
)
def test_a_cube_is_as_high_as_it_is_long(camera, phrase, size_m, is_one):
    """Also where the name tells no colour: "the other cube" was a box that stood beside it."""
    thing = ObjectSpec("box" if not is_one else "cube", "blue", size_m, (-0.05, -0.08, size_m[2] / 2), 0.5)
    assert bool(Model(camera, (thing, MUG), {phrase: thing.label}).found(phrase)) is is_one


@pytest.mark.parametrize(
    "name, shown", [("blue cube", "blue cylinder"), ("蓝色的盒子", "blue ball"), ("blue ball", "blue cube")]
)
def test_what_is_round_is_no_cube_and_what_has_sides_no_ball_where_the_other_stands_too(camera, name, shown):
    kinds = {"cube": (0.05,) * 3, "cylinder": (0.05, 0.05, 0.07), "ball": (0.06,) * 3, "box": (0.11, 0.05, 0.065)}

    def thing(label, at):
        kind = label.split()[-1]
        return ObjectSpec(kind, "blue", kinds[kind], (*at, kinds[kind][2] / 2), 0.3)

    meant = in_english(name)

    def found(*labels):
        """Of things of these labels, the first called so wherever it is asked for."""
        things = [thing(label, at) for label, at in zip(labels, ((-0.12, -0.10), (0.10, -0.05)))]
        eyes = Model(camera, things, {name: labels[0]})
        eyes.choice = {labels[0]: meant}
        return eyes.found(name)

    assert not found(shown, meant) and found(meant, shown)
    assert found(shown), "it may be called so where nothing else of its colour is"
