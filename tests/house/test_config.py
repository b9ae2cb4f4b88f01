"""Parameters of cameras: each has the common value until it is given its own, and mistakes are named in full."""

import dataclasses

import pytest

from qwen3vl_ros.config import Config, by_camera, camera_parameters, from_flat, parameters
from qwen3vl_ros.types import InvalidInput

TWO = from_flat({"cameras": ["front", "wrist"], "max_age": 0.7})


def test_one_camera_without_a_name_has_the_configuration_itself():
    config = Config()
    assert config.cameras == () and by_camera(config, {}) == {"": config}
    assert list(camera_parameters(config.cameras)) == []


def test_a_camera_has_its_own_values_and_the_common_ones_for_the_rest():
    configs = by_camera(TWO, {"camera.front.max_age": 2, "camera.front.targets": ["mug"]})
    assert list(configs) == ["front", "wrist"] and configs["wrist"] == TWO
    assert configs["front"] == dataclasses.replace(TWO, max_age=2.0, targets=("mug",))


def test_what_may_differ_between_cameras_is_of_cameras_and_nothing_else():
    names = {p.name.removeprefix("camera.front.") for p in camera_parameters(["front"])}
    assert names >= {"targets", "task", "enabled", "image_transport", "use_depth", "image_qos", "target_frame"}
    assert names == {p.name for p in parameters() if p.camera}
    assert not names & {"model", "engine", "device", "cameras", "autostart", "request_queue"}
    assert all(p.default is None and "camera front" in p.doc for p in camera_parameters(["front"]))


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("camera.front.max_age", -1.0, "parameter camera.front.max_age = -1.0 is outside"),
        ("camera.front.task", "segment", "parameter camera.front.task = 'segment' is not one of"),
        ("camera.front.use_depth", "yes", "parameter camera.front.use_depth = 'yes' must be true or false"),
        ("camera.front.targets", [7], "parameter camera.front.targets = .* must be a list of strings"),
        ("camera.front.model", "other", "unknown parameter 'camera.front.model'"),
        ("camera.rear.max_age", 1.0, "unknown parameter 'camera.rear.max_age'"),
    ],
)
def test_a_camera_s_value_that_breaks_a_rule_is_refused_by_its_whole_name(name, value, words):
    with pytest.raises(InvalidInput, match=words):
        by_camera(TWO, {name: value})


@pytest.mark.parametrize("name", ["1st", "left wrist", "front/left", "_front", "vorn-links", "a.b", "前", " "])
def test_a_name_that_topics_cannot_have_is_refused(name):
    with pytest.raises(InvalidInput, match="a letter and then letters, digits and _"):
        from_flat({"cameras": [name]})


def test_two_cameras_of_one_name_are_refused():
    with pytest.raises(InvalidInput, match="names 'front' more than once"):
        from_flat({"cameras": ["front", "wrist", "front"]})
