"""The arm's video shows what was seen, from both viewpoints, with the plan as it stood then; and the truth is not taken from anybody's word."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from vision_msgs.msg import BoundingBox3D, Detection3D, ObjectHypothesisWithPose

from qwen3vl_ros.demo.arm import ORDERS, in_bowl, on_second_level
from qwen3vl_ros.demo.film import Film
from qwen3vl_ros.msg import GraspTarget, PlaceTarget, Plan, PlanStep
from qwen3vl_ros.node import messages
from qwen3vl_ros.questions.grammar.orders import planned
from qwen3vl_ros.sim.workcell import bench_scene

POSE = bench_scene().camera.world_T_camera()
K = np.array(((620.0, 0, 319.5), (0, 620.0, 239.5), (0, 0, 1)))


def picture(second, colour, frame="camera"):
    header = messages.header_of(int(second * 1e9), frame)
    return messages.image(header, np.full((480, 640, 3), colour, np.uint8))


def box(at, size=0.05):
    made = BoundingBox3D()
    made.center = messages.pose_of(np.array(((1.0, 0, 0, at[0]), (0, 1, 0, at[1]), (0, 0, 1, at[2]), (0, 0, 0, 1))))
    made.size.x = made.size.y = made.size.z = size
    return made


def plan(status):
    target = Detection3D(id="1", bbox=box((-0.1, -0.1, 0.03)))
    target.header.frame_id = "world"
    target.results = [ObjectHypothesisWithPose()]
    pick = PlanStep(action="pick", object="red box", target=target, status=status)
    pick.grasps = [GraspTarget(pose=box((-0.1, -0.1, 0.03)).center, width=0.05, approach_distance=0.1, feasible=True)]
    place = PlanStep(action="place", object="red box", relation="on", reference="table", target=target)
    place.places = [PlaceTarget(detection_id="1", box=box((0.1, 0.0, 0.03)), feasible=True)]
    return Plan(header=messages.header_of(0, "world"), steps=[pick, place], executable=True)


def frames_of(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1].astype(int))
    return frames


def test_both_viewpoints_run_in_the_worlds_time_and_the_plan_is_drawn_from_when_it_was_there(tmp_path):
    film = Film(POSE)
    film.calibrate(messages.camera_info(messages.header_of(0, "camera"), K, (640, 480)))
    for k in range(6):
        film.add_live(picture(k / 5, (90, 90, 90)))
        film.add_overview(picture(k / 5, (200, 60, 60), "overview"))
        if k == 2:
            film.caption("拿起红色的盒子")
            film.add_plan(plan(PlanStep.OPEN))
    assert film.write(tmp_path / "arm.mp4") == pytest.approx(1.0)
    frames = frames_of(tmp_path / "arm.mp4")
    assert len(frames) == 6 and frames[0].shape[1] == 1280
    left, right = frames[0][100:450, 40:600], frames[0][100:450, 700:1240]
    assert abs(left - 90).max() < 20, "nothing was planned yet"
    assert right[..., 2].mean() > 170 > 100 > right[..., 0].mean()
    assert abs(frames[-1][100:450, 40:600] - 90).max() > 60, "the plan is drawn on the camera's picture"
    assert frames[-1][-100:].max() > 120 > frames[0][-100:].max() - 60


def test_a_plan_that_is_a_question_is_shown_in_words(tmp_path):
    film = Film(POSE)
    film.calibrate(messages.camera_info(messages.header_of(0, "camera"), K, (640, 480)))
    film.caption("mow the lawn")
    for k in range(3):
        film.add_live(picture(k / 5, (90, 90, 90)))
        film.add_overview(picture(k / 5, (200, 60, 60), "overview"))
        film.add_plan(Plan(question="I do not understand this order.", steps=[PlanStep(action="pick", object="lawn")]))
    film.write(tmp_path / "arm.mp4")
    assert len(frames_of(tmp_path / "arm.mp4")) == 3


def test_a_film_of_nothing_is_no_file(tmp_path):
    assert Film(POSE).write(tmp_path / "arm.mp4") == 0
    assert not (tmp_path / "arm.mp4").exists()


def test_the_orders_are_two_steps_each_and_false_before_anything_moved():
    at = {o.label: np.array(o.position_m) for o in bench_scene().objects}
    for order, done in ORDERS:
        assert [s.action for s in planned(order).steps] == ["pick", "place"]
        assert not done(at)
    shelf = bench_scene().shelf
    assert on_second_level(at | {"red box": np.array((*shelf.position_m, shelf.board_top_m(2) + 0.025))})
    assert not on_second_level(at | {"red box": np.array((*shelf.position_m, shelf.board_top_m(1) + 0.025))})
    assert in_bowl(at | {"green cube": at["blue bowl"] + (0.01, 0.0, 0.005)})
    assert not in_bowl(at | {"green cube": at["blue bowl"] + (0.10, 0.0, 0.0)})
