"""~/ask of several cameras at once, from the robot's point of view by TF, and sessions that end, over real DDS."""

import json
import time

import numpy as np
import pytest
from asking_room import NAME, Asked, textured
from depth_scenes import Scene, ball, box, look_from, pose, turn_z
from rclpy.action import ActionClient
from ros_graph import START_PATIENCE_S, FakeCamera, publish_static, until

from qwen3vl_ros.action import Ask
from qwen3vl_ros.asking import Code
from qwen3vl_ros.msg import Fact
from qwen3vl_ros.node import messages

FRONT = Scene([box((0.06,) * 3, (-0.12, 0))], look_from(45))
WRIST = Scene(
    [box((0.06,) * 3, (-0.12, 0)), ball(0.06, (0.10, 0.0))],
    look_from(60, azimuth_deg=-60),
    K=np.array([[300, 0, 119.5], [0, 300, 159.5], [0, 0, 1.0]]),
    size_px=(240, 320),
)
FACING_AS_THE_CAMERA, OPPOSITE = turn_z(np.pi / 2), turn_z(-np.pi / 2)


class Place:
    """A node with an oracle and two cameras whose poses are in TF; the ball is seen by the wrist's alone."""

    def __init__(self, graph, folder):
        self.graph, self.path = graph, folder / "oracle.json"
        red, seen = {"red box": [FRONT.box_px(0)]}, {"red box": [WRIST.box_px(0)], "ball": [WRIST.box_px(1)]}
        told = {"boxes": {"320x240": red, "240x320": seen}, "free": "{history} turns"}
        self.path.write_text(json.dumps(told))
        graph.start_node(
            "oracle",
            env={"ORACLE": str(self.path)},
            targets=None,
            enabled=False,
            cameras="[front, wrist]",
            target_frame="base",
            robot_frame="robot",
        )
        self.kept = [
            publish_static(graph, "base", "front_optical", FRONT.world_T_camera),
            publish_static(graph, "base", "wrist_optical", WRIST.world_T_camera),
        ]
        self.client = ActionClient(graph.node, Ask, f"{NAME}/ask")
        assert self.client.wait_for_server(START_PATIENCE_S)
        self.cameras = {name: FakeCamera(graph, namespace=f"/qwen3vl/{name}").matched() for name in ("front", "wrist")}
        for name, scene in (("front", FRONT), ("wrist", WRIST)):
            what = {"rgb": textured(scene), "depth_m": scene.depth_m, "info_K": scene.K}
            self.cameras[name].stream(8, frame=f"{name}_optical", **what)

    def robot_at(self, rotation) -> None:
        """The robot's base, by TF."""
        self.kept.append(publish_static(self.graph, "base", "robot", pose(rotation, (0.0, 0.0, 0.0))))

    def answer(self, question, **fields):
        return Asked(self.graph.node, self.client, question, **fields).result()

    def answered(self, question, code=Code.OK, **fields):
        """Asked until it is so: a busy machine pairs the first pictures with no depth, and TF takes a moment."""
        result = until(lambda: (r := self.answer(question, **fields)).code == code and r, what=question)
        return result


@pytest.fixture(scope="module")
def place(shared_graph, tmp_path_factory):
    made = Place(shared_graph, tmp_path_factory.mktemp("place"))
    yield made
    for camera in made.cameras.values():
        camera.stop()


def labels(array) -> set[str]:
    return {d.results[0].hypothesis.class_id for d in array.detections}


def test_of_two_cameras_the_one_that_sees_it_answers_and_both_show_what_they_saw(place):
    result = place.answered("How far is the ball from the red box?", cameras=["front", "wrist"])
    assert result.facts[0].values[0].value == pytest.approx(0.16, abs=0.015)
    front, wrist = result.detections_2d
    assert "ball" not in labels(front) and labels(wrist) == {"ball", "red box"}
    assert (front.header.frame_id, wrist.header.frame_id) == ("front_optical", "wrist_optical")
    assert [a.header.frame_id for a in result.detections_3d] == ["base", "base"]
    (found,) = [d for d in result.detections_3d[1].detections if d.results[0].hypothesis.class_id == "ball"]
    at = found.bbox.center.position
    assert (at.x, at.y) == pytest.approx((0.10, 0.0), abs=0.02)
    only_front = place.answered("How far is the ball from the red box?", Code.NOT_FOUND, cameras=["front"])
    assert len(only_front.detections_2d) == 1
    assert place.answer("Where is the banana?", cameras=["front", "wrist"]).code == Code.NOT_FOUND
    refused = place.answer("Where is the ball?", cameras=["front", "moon"])
    assert refused.code == Code.ERROR and "camera 'moon' is unknown" in refused.message
    assert "front, wrist" in place.answer("Where is the ball?").message, "which one is meant is not guessed"


def test_the_robots_left_is_by_tf_at_the_pictures_stamp_and_turns_with_it(place):
    question, asked = "From the robot's point of view, is the red box left of the ball?", {"cameras": ["wrist"]}
    unknown = place.answered(question, **asked)
    assert unknown.facts[0].verdict == Fact.UNKNOWN and "robot" in unknown.facts[0].reason
    for rotation, verdict, word in ((FACING_AS_THE_CAMERA, Fact.TRUE, "Yes,"), (OPPOSITE, Fact.FALSE, "No,")):
        place.robot_at(rotation)
        result = until(lambda: (r := place.answer(question, **asked)).facts[0].verdict == verdict and r, what=word)
        assert result.facts[0].view == "robot" and result.answer.startswith(word)


def test_a_session_that_nobody_used_has_ended_and_one_in_use_goes_on(place):
    image = messages.image(messages.header_of(1, "given"), np.full((60, 80, 3), 90, np.uint8))

    def turns(session):
        return int(place.answered("Go on", session=session, images=[image]).answer.split()[0])

    assert [turns("idle"), turns("idle")] == [0, 2]
    assert place.graph.set_parameter("ask.session_timeout", 3.0).successful
    try:
        began_s = used_s = time.monotonic()
        turns("busy")
        while time.monotonic() - began_s < 4.0:  # the other one idles meanwhile
            told_s, history = time.monotonic(), turns("busy")
            assert history > 0 or time.monotonic() - used_s > 3.0, "only a machine that takes longer lets it end"
            used_s = told_s
        assert turns("idle") == 0
    finally:
        assert place.graph.set_parameter("ask.session_timeout", 600.0).successful
