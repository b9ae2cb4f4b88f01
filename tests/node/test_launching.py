"""What the launch file refuses and warns of, without launch; test_launch.py has the same through it, where there is one."""

from pathlib import Path

import pytest

from qwen3vl_ros.node.launching import check_parameter_file, misspelt, remappings, separated
from qwen3vl_ros.types import InvalidInput

NODE = "/qwen3vl/perception"
OURS = Path(__file__).resolve().parents[2] / "config" / "perception.yaml"


@pytest.mark.parametrize(
    "key, applies",
    [
        ("/**", True),
        ("/qwen3vl/perception", True),
        ("qwen3vl/perception", True),
        ("/*/perception", True),
        ("/**/perception", True),
        ("/qwen3vl/*", True),
        ("/qwen3vl/**", True),
        ("perception", False),
        ("/perception", False),
        ("/*", False),
        ("/qwen3vl/perceptions", False),
        ("/other/perception", False),
        ("/qwen3vl/arm/perception", False),
        ("/qwen.vl/perception", False),
    ],
)
def test_a_file_is_for_the_node_as_rcl_sees_it(tmp_path, key, applies):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{key}:\n  ros__parameters:\n    device: cpu\n")
    warning = check_parameter_file(str(path), NODE)
    assert bool(warning) != applies
    if warning:
        assert str(path) in warning and NODE in warning and "/**:" in warning and key.strip("/") in warning


def test_namespaces_may_be_nested(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("qwen3vl:\n  other: {ros__parameters: {a: 1}}\n  perception: {ros__parameters: {device: cpu}}\n")
    assert not check_parameter_file(str(path), NODE)
    assert check_parameter_file(str(path), "/arm/perception")


def test_our_own_file_is_for_the_node_in_any_namespace():
    for node in (NODE, "/perception", "/robot1/arm/perception"):
        assert not check_parameter_file(str(OURS), node)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "does not exist"),
        ("", "sets no parameters"),
        ("just words", "sets no parameters"),
        ("device: cpu", "sets no parameters"),
        ("remote:\n  url: http://host", "sets no parameters"),
        ("- [1", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_what_is_no_parameter_file_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=words) as refused:
        check_parameter_file(str(path), NODE)
    assert str(path) in str(refused.value)


def test_a_folder_is_no_parameter_file(tmp_path):
    with pytest.raises(InvalidInput, match="is no file"):
        check_parameter_file(str(tmp_path), NODE)


def test_misspelt_arguments_are_told_with_the_right_name():
    known = ("model", "device", "params_file", "use_sim_camera", "input_image_topic", "namespace")
    given = ("modle", "model", "use_sim_camra", "image_topic", "param_file", "robot_name")
    assert [w.split("'")[1::2] for w in misspelt(given, known)] == [
        ["modle", "model"],
        ["use_sim_camra", "use_sim_camera"],
        ["image_topic", "input_image_topic"],
        ["param_file", "params_file"],
    ]


def topics(image="", info=""):
    return {"image_raw": ("input_image_topic", image), "camera_info": ("input_camera_info_topic", info)}


@pytest.mark.parametrize(
    "text, parts",
    [("", []), (" ", []), ("front", ["front"]), ("front, wrist", ["front", "wrist"]), (",/b", ["", "/b"])],
)
def test_commas_separate(text, parts):
    assert separated(text) == parts


def test_the_one_camera_without_a_name_gets_the_topics_as_they_are():
    assert remappings(topics("/cam/color", "/cam/info"), []) == [
        ("image_raw", "/cam/color"),
        ("image_raw/compressed", "/cam/color/compressed"),
        ("camera_info", "/cam/info"),
    ]
    assert remappings(topics(), []) == []


def test_each_camera_gets_the_topic_at_its_place_and_nothing_keeps_its_own():
    assert remappings(topics(info="/a,,/c"), ["front", "wrist", "rear"]) == [
        ("front/camera_info", "/a"),
        ("rear/camera_info", "/c"),
    ]


@pytest.mark.parametrize("text, cameras", [("/a", ["front", "wrist"]), ("/a,/b", []), ("/a,/b,/c", ["front", "wrist"])])
def test_topics_for_other_cameras_than_there_are_are_refused(text, cameras):
    with pytest.raises(InvalidInput, match="input_camera_info_topic names .* give one of each camera"):
        remappings(topics(info=text), cameras)
