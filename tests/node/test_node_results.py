"""What the node promises on its topics: stamps, frames, units, ids, and pictures only for those who look."""

import numpy as np
import pytest
from ros_graph import ERROR, OK, OPTICAL, STALE, TABLE_M, WARN, FakeCamera, publish_static, until
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from qwen3vl_ros.convert import rotation_of_quaternion, stamp_ns
from qwen3vl_ros.msg import GraspTargetArray
from qwen3vl_ros.srv import Detect


@pytest.fixture(scope="module")
def running(shared_graph):
    """An active node with an engine that sees the cube at once, and a camera it knows."""
    shared_graph.start_node("instant")
    camera = FakeCamera(shared_graph).matched()
    heard = shared_graph.results()
    until(lambda: camera.shoot() and heard["generation"], what="the first answer")
    return shared_graph, camera, heard


def of_stamp(heard, name, stamp):
    found = until(lambda: [m for m in heard[name] if stamp_ns(m.header) == stamp], what=f"{name} of {stamp}")
    assert len(found) == 1
    return found[0]


def test_every_result_has_the_stamp_and_the_frame_of_its_image(running):
    graph, camera, heard = running
    answer = camera.answered(heard)
    for name in heard:
        assert of_stamp(heard, name, stamp_ns(answer["generation"].header)).header.frame_id == OPTICAL


def test_2d_boxes_are_pixels_of_the_original_image(running):
    graph, camera, heard = running
    array = camera.answered(heard)["detections_2d"]
    assert len(array.detections) == 1
    d = array.detections[0]
    assert (d.bbox.center.position.x, d.bbox.center.position.y) == pytest.approx((80, 60), abs=0.2)
    assert (d.bbox.size_x, d.bbox.size_y) == pytest.approx((24, 24), abs=0.2)
    assert d.results[0].hypothesis.class_id == "cube" and 0.5 < d.results[0].hypothesis.score < 1.0
    assert d.header == array.header and d.id


def test_the_cube_is_where_it_is_in_3d_and_its_parts_share_an_id(running):
    graph, camera, heard = running
    answer = camera.answered(heard, solid=True)
    flat, solid = answer["detections_2d"], answer["detections_3d"]
    assert [d.id for d in solid.detections] == [d.id for d in flat.detections]
    box = solid.detections[0].bbox
    centre = np.array([box.center.position.x, box.center.position.y, box.center.position.z])
    assert np.allclose(centre, (0, 0, TABLE_M - 0.03), atol=0.01)
    assert np.allclose(sorted((box.size.x, box.size.y, box.size.z)), 0.06, atol=0.012)
    assert solid.detections[0].results[0].pose.pose == box.center


def test_the_grasp_comes_from_above_and_the_feasible_ones_are_poses(running):
    graph, camera, heard = running
    answer = camera.answered(heard, solid=True)
    targets, poses = answer["grasp_targets"], answer["grasp_poses"]
    assert len(targets.targets) == 1
    grasp = targets.targets[0]
    assert grasp.detection_id == answer["detections_3d"].detections[0].id
    assert grasp.feasible, grasp.reason
    o = grasp.pose.orientation
    approach = rotation_of_quaternion((o.x, o.y, o.z, o.w))[:, 2]
    assert approach[2] > 0.85, "the camera looks down, so the gripper comes along its z"
    assert 0.04 < grasp.width < 0.085 and grasp.approach_distance == pytest.approx(0.1)
    assert poses.poses == [grasp.pose]


def test_the_generation_tells_what_was_said_and_what_it_cost(running):
    graph, camera, heard = running
    said = camera.answered(heard)["generation"]
    assert "bbox_2d" in said.text and '"cube"' in said.prompt
    assert said.finish_reason == "stop" and said.error == "" and said.tokens > 5
    assert said.mean_logprob == pytest.approx(np.log(0.9), abs=1e-6)
    heard_s = (graph.node.get_clock().now().nanoseconds - stamp_ns(said.header)) / 1e9
    assert 0 < said.latency_s < heard_s and said.geometry_s > 0 and said.prompt_id >= 1


def test_pictures_are_made_only_while_somebody_looks(running):
    graph, camera, heard = running
    prefix = "/qwen3vl/perception"
    pictures = graph.listen(f"{prefix}/annotated_image", Image)
    marks = graph.listen(f"{prefix}/markers", MarkerArray)
    stamps = []
    until(lambda: stamps.append(camera.shoot()) or (pictures and marks), what="pictures for a subscriber")
    picture = pictures[0]
    assert stamp_ns(picture.header) in stamps and picture.encoding == "rgb8"
    assert (picture.width, picture.height) == (160, 120)
    first, *rest = marks[0].markers
    assert first.action == Marker.DELETEALL and {m.ns for m in rest} >= {"boxes", "labels"}
    assert all(m.header.frame_id == OPTICAL for m in rest)


def test_detect_answers_with_what_it_saw(running):
    graph, camera, heard = running
    camera.stream(10)
    response = graph.call(Detect, "/qwen3vl/perception/detect", Detect.Request(targets=["cube"]))
    camera.stop()
    assert response.success and "1 objects, 1 with a 3D box" in response.message
    assert [d.results[0].hypothesis.class_id for d in response.detections_2d.detections] == ["cube"]
    assert response.detections_3d.detections and response.generation.tokens
    assert response.generation.prompt_id == 0, "its own targets, not the stream's prompt"


def test_diagnostics_say_ok_with_figures_and_stale_when_the_camera_is_gone(running):
    graph, camera, heard = running
    camera.stream(20)
    status = graph.diagnosed(lambda s, v: s.level == OK and s.name == "qwen3vl/perception", what="OK")
    values = {v.key: v.value for v in status.values}
    assert values["state"] == "active" and "scripted" in values["engine"] and int(values["answers"]) > 0
    assert int(values["answers given"]) > 0, "the engine speaks for itself"
    assert values["latency p50"].endswith("ms") and "1 publishers" in values["image topic"]
    camera.stop()
    status = graph.diagnosed(lambda s, v: s.level == STALE, what="STALE")
    assert "no image for" in status.message
    camera.stream(20)
    graph.diagnosed(lambda s, v: s.level != STALE, what="alive again")
    camera.stop()


def test_results_are_in_the_target_frame_of_a_static_tree(graph):
    base_T_camera = np.eye(4)
    base_T_camera[:3, :3] = np.diag((1.0, -1.0, -1.0))  # looking down
    base_T_camera[:3, 3] = 0.4, 0.1, TABLE_M
    tf = publish_static(graph, "base_link", OPTICAL, base_T_camera)
    graph.start_node("instant", target_frame="base_link")
    camera = FakeCamera(graph).matched()
    heard = graph.results()
    answer = camera.answered(heard, solid=True)
    array = answer["detections_3d"]
    assert array.header.frame_id == "base_link"
    p = array.detections[0].bbox.center.position
    assert (p.x, p.y, p.z) == pytest.approx((0.4, 0.1, 0.03), abs=0.012)
    assert answer["grasp_targets"].header.frame_id == "base_link"
    assert answer["detections_2d"].header.frame_id == OPTICAL
    graph.node.destroy_publisher(tf)


def test_an_unknown_target_frame_gives_2d_alone_and_the_reason(graph):
    graph.start_node("instant", target_frame="gripper")
    camera = FakeCamera(graph).matched().stream(20)
    heard = graph.results()
    status = graph.diagnosed(lambda s, v: s.level == WARN and "gripper" in s.message, what="the reason")
    assert "target_frame" in status.message
    camera.stop()
    answer = camera.answered(heard)
    assert answer["detections_2d"].detections
    solid = answer["detections_3d"]
    assert solid.header.frame_id == "gripper" and not solid.detections
    assert not answer["grasp_targets"].targets


def test_an_answer_that_cannot_be_read_is_not_nothing(graph):
    graph.start_node("garbage")
    camera = FakeCamera(graph).matched().stream(20)
    heard = graph.results()
    said = until(lambda: heard["generation"], what="the generation with its error")[0]
    assert said.error.startswith("MalformedAnswer") and "cannot help" in said.text
    graph.diagnosed(
        lambda s, v: s.level == WARN and "MalformedAnswer" in s.message and int(v["malformed"]) > 0, what="WARN"
    )
    assert not heard["detections_2d"], "an answer that could not be read says nothing about the scene"
    response = graph.call(Detect, "/qwen3vl/perception/detect")
    assert not response.success and "MalformedAnswer" in response.message
    assert "cannot help" in response.generation.text
    camera.stop()


def test_nothing_seen_is_an_empty_array_without_error(graph):
    graph.start_node("nothing")
    camera = FakeCamera(graph).matched().stream(20)
    heard = graph.results()
    array = until(lambda: heard["detections_2d"], what="an answer")[0]
    assert not array.detections
    said = until(lambda: heard["generation"])[0]
    assert said.error == "" and said.text == "[]"
    camera.stop()


def test_an_engine_that_fails_is_an_error_until_it_works_again(graph):
    process = graph.start_node("failing")
    camera = FakeCamera(graph).matched()
    heard = graph.results()
    until(lambda: camera.shoot() and "the device was lost" in process.log, what="the error in the log")
    camera.stream(20)  # three of four answers fail
    status = graph.diagnosed(lambda s, v: s.level == ERROR and "device was lost" in s.message, what="ERROR")
    camera.stop()
    assert any(v.key == "last error" and "device was lost" in v.value for v in status.values)
    until(lambda: camera.shoot() and heard["detections_2d"], what="an answer after the failures")
    assert process.popen.poll() is None


def test_grasps_are_planned_for_who_looks_and_for_who_calls(graph):
    graph.start_node("instant")
    camera = FakeCamera(graph).matched()
    solids = graph.listen("/qwen3vl/perception/detections_3d", Detection3DArray)
    until(lambda: camera.shoot() and any(m.detections for m in solids), what="a 3D box")
    called = graph.detect()
    until(lambda: camera.shoot(apart_s=0.1) and called.done(), what="an answer to the call")
    called = called.result()
    assert called.success and (not called.detections_3d.detections or called.grasp_targets.targets)
    for box in called.detections_3d.detections:
        own = [t for t in called.grasp_targets.targets if t.detection_id == box.id]
        assert 1 <= len(own) <= 5 and [t.quality for t in own] == sorted((t.quality for t in own), reverse=True)
        assert len(own) == 1 or all(t.feasible for t in own)
    grasps = graph.listen("/qwen3vl/perception/grasp_targets", GraspTargetArray)
    until(lambda: camera.shoot() and any(m.targets for m in grasps), what="a grasp for the late subscriber")
    boxes = {stamp_ns(m.header): len(m.detections) for m in solids}
    assert all(len(m.targets) == boxes[stamp_ns(m.header)] for m in grasps if stamp_ns(m.header) in boxes)
