"""launch/perception.launch.py: what its arguments do to what it starts, and the real node through it.

Runs where `launch` and `launch_ros` are importable, which the ROS wheels on the Python package index lack.
"""

import importlib.util
import json
import os
import signal
import textwrap
from pathlib import Path

import pytest

if not (importlib.util.find_spec("launch") and importlib.util.find_spec("launch_ros")):
    pytest.skip("launch and launch_ros are not installed (the wheels have none)", allow_module_level=True)

import yaml
from lifecycle_msgs.srv import GetState
from rclpy.qos import qos_profile_sensor_data
from ros_graph import PATIENCE_S, START_PATIENCE_S, until
from sensor_msgs.msg import Image

ROOT = Path(__file__).resolve().parents[2]

LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
service = LaunchService(noninteractive=True)
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""

# Stands in for an executable: tells how it was called, and what the parameter files held that launch wrote. One that is
# started several times tells under its namespace, too.
STAND_IN = """\
#!/usr/bin/env python3
import json, os, pathlib, sys, time
files = [a for a in sys.argv if a.endswith(".yaml") or a.startswith("/tmp/launch_params")]
told = {"argv": sys.argv[1:], "files": [pathlib.Path(f).read_text() for f in files],
        "profile": os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")}
namespace = next(a.split(":=")[1] for a in sys.argv if a.startswith("__ns:="))
path = pathlib.Path(os.environ["TOLD"], "_".join([pathlib.Path(sys.argv[0]).name, *namespace.split("/")[2:]]))
path.with_suffix(".tmp").write_text(json.dumps(told))
path.with_suffix(".tmp").rename(path)
time.sleep(600)
"""


@pytest.fixture
def stand_ins(graph, tmp_path):
    """call(*launch arguments, file=...) -> what each started executable was told, by its name."""
    prefix, told = tmp_path / "prefix", tmp_path / "told"
    told.mkdir()
    index = prefix / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "qwen3vl_ros").write_text("")
    share = prefix / "share/qwen3vl_ros"
    share.mkdir()
    for folder in ("launch", "config"):
        (share / folder).symlink_to(ROOT / folder)
    executables = prefix / "lib/qwen3vl_ros"
    executables.mkdir(parents=True)
    for name in ("perception", "sim_camera", "sim_robot"):
        (executables / name).write_text(STAND_IN)
        (executables / name).chmod(0o755)

    def call(*arguments, file="perception.launch.py", environment=None, expected=("perception",)):
        process = graph.start(
            "-c",
            textwrap.dedent(LAUNCH),
            str(share / "launch" / file),
            *arguments,
            name="launch",
            env={
                "AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}",
                "TOLD": str(told),
                **(environment or {}),
            },
        )
        until(
            lambda: {p.name for p in told.iterdir()} >= set(expected) or process.popen.poll() is not None,
            START_PATIENCE_S,
            "the executables",
        )
        assert {p.name for p in told.iterdir() if not p.suffix} == set(expected), process.log
        process.interrupt()
        process.status()
        return {name: json.loads((told / name).read_text()) for name in expected}

    return call


def parameters_of(told):
    values = {}
    for text in told["files"]:
        for node in yaml.safe_load(text).values():
            values |= node["ros__parameters"]
    return values


def remaps_of(told):
    arguments = told["argv"]
    rules = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "-r"]
    return dict(rule.split(":=", 1) for rule in rules)


@pytest.fixture
def parameter_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("/**:\n  ros__parameters:\n    model: from-the-file\n    device: cpu\n    autostart: true\n")
    return path


def test_nothing_given_starts_the_node_alone_with_the_file_and_its_names(stand_ins, parameter_file):
    told = stand_ins(f"params_file:={parameter_file}")["perception"]
    assert remaps_of(told) == {"__node": "perception", "__ns": "/qwen3vl"}
    assert parameters_of(told) == {"model": "from-the-file", "device": "cpu", "autostart": True}


def test_given_parameters_win_over_the_file_and_keep_their_type(stand_ins, parameter_file):
    told = stand_ins(
        f"params_file:={parameter_file}",
        "model:=8",
        "engine:=transformers",
        "target_frame:=base_link",
        "autostart:=false",
        "image_transport:=compressed",
    )["perception"]
    assert parameters_of(told) == {
        "model": "8",
        "device": "cpu",
        "engine": "transformers",
        "autostart": False,
        "target_frame": "base_link",
        "image_transport": "compressed",
    }


def test_no_parameter_file_leaves_the_defaults(stand_ins):
    assert parameters_of(stand_ins("params_file:=", "device:=cpu")["perception"]) == {"device": "cpu"}


def test_topics_are_remapped_and_the_compressed_image_too(stand_ins, parameter_file):
    told = stand_ins(
        f"params_file:={parameter_file}",
        "namespace:=arm",
        "input_image_topic:=/cam/color/image",
        "input_depth_topic:=/cam/depth/image",
        "input_camera_info_topic:=/cam/color/info",
    )
    assert remaps_of(told["perception"]) == {
        "__node": "perception",
        "__ns": "/arm",
        "image_raw": "/cam/color/image",
        "image_raw/compressed": "/cam/color/image/compressed",
        "depth/image_raw": "/cam/depth/image",
        "camera_info": "/cam/color/info",
    }


def test_cameras_are_named_to_the_node_and_each_has_its_topics(stand_ins, parameter_file):
    told = stand_ins(
        f"params_file:={parameter_file}",
        "cameras:=front, wrist",
        "input_image_topic:=/a/color,/b/color",
        "input_depth_topic:=,/b/depth",
    )["perception"]
    assert parameters_of(told)["cameras"] == ["front", "wrist"]
    assert remaps_of(told) == {
        "__node": "perception",
        "__ns": "/qwen3vl",
        "front/image_raw": "/a/color",
        "front/image_raw/compressed": "/a/color/compressed",
        "wrist/image_raw": "/b/color",
        "wrist/image_raw/compressed": "/b/color/compressed",
        "wrist/depth/image_raw": "/b/depth",
    }


@pytest.mark.parametrize(
    "arguments", [("cameras:=front,wrist", "input_image_topic:=/a"), ("input_image_topic:=/a,/b",)]
)
def test_topics_that_do_not_match_the_cameras_are_refused_by_name(graph, arguments):
    process = graph.start("-c", LAUNCH, str(ROOT / "launch/perception.launch.py"), *arguments, name="launch")
    assert process.status() != 0
    assert "input_image_topic names" in process.log and "give one of each camera" in process.log


def test_each_camera_is_simulated_in_its_own_namespace_and_frame(stand_ins, parameter_file):
    told = stand_ins(
        f"params_file:={parameter_file}",
        "use_sim_camera:=true",
        "cameras:=front,wrist",
        expected=("perception", "sim_camera_front", "sim_camera_wrist"),
    )
    for name in ("front", "wrist"):
        assert remaps_of(told[f"sim_camera_{name}"])["__ns"] == f"/qwen3vl/{name}"
    of_front, of_wrist = (parameters_of(told[f"sim_camera_{name}"]) for name in ("front", "wrist"))
    assert of_front["frame"] == "front_color_optical_frame" != of_wrist["frame"]
    assert of_front["seed"] != of_wrist["seed"]


def test_sim_camera_shares_the_namespace(stand_ins, parameter_file):
    told = stand_ins(
        f"params_file:={parameter_file}",
        "use_sim_camera:=true",
        "namespace:=left",
        expected=("perception", "sim_camera"),
    )
    assert remaps_of(told["sim_camera"])["__ns"] == remaps_of(told["perception"])["__ns"] == "/left"


def test_fast_dds_gets_our_profile_unless_the_user_has_one(stand_ins, parameter_file):
    argument = f"params_file:={parameter_file}"
    own = stand_ins(argument, environment={"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"})["perception"]["profile"]
    assert own == "/mine.xml"


def test_fast_dds_gets_our_profile(stand_ins, parameter_file, monkeypatch):
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    profile = stand_ins(f"params_file:={parameter_file}")["perception"]["profile"]
    assert profile.endswith("share/qwen3vl_ros/config/fastdds.xml") and Path(profile).is_file()


def test_a_wrong_choice_is_refused(graph):
    process = graph.start(
        "-c", LAUNCH, str(ROOT / "launch/perception.launch.py"), "use_sim_camera:=maybe", name="launch"
    )
    assert process.status() != 0
    assert "maybe" in process.log


def test_a_parameter_file_that_is_not_there_is_refused(graph):
    process = graph.start(
        "-c", LAUNCH, str(ROOT / "launch/perception.launch.py"), "params_file:=/no/such.yaml", name="launch"
    )
    assert process.status() != 0
    assert "params_file /no/such.yaml does not exist" in process.log


def test_a_file_of_another_node_and_a_misspelt_argument_are_warnings(graph, tmp_path):
    (tmp_path / "mine.yaml").write_text("perception:\n  ros__parameters:\n    device: cpu\n")
    process = graph.start(
        "-c",
        LAUNCH,
        str(ROOT / "launch/perception.launch.py"),
        f"params_file:={tmp_path / 'mine.yaml'}",
        "use_sim_camra:=true",
        "autostart:=false",
        name="launch",
    )
    process.logged("nothing of it applies; begin it with /qwen3vl/perception:")
    process.logged("launch argument 'use_sim_camra' is unknown and ignored; did you mean 'use_sim_camera'?")
    process.interrupt()
    process.status()


def test_every_argument_is_described():
    from launch.actions import DeclareLaunchArgument
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(ROOT / "launch/perception.launch.py"))
    arguments = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert len(arguments) == 13
    for argument in arguments:
        assert len(argument.description) > 10, argument.name


def test_the_real_node_answers_both_of_two_cameras_with_the_embedded_model(graph):
    process = graph.start(
        "-c",
        LAUNCH,
        str(ROOT / "launch/perception.launch.py"),
        "use_sim_camera:=true",
        "cameras:=front,wrist",
        name="launch",
    )
    process.logged("active: /qwen3vl/wrist/image_raw", START_PATIENCE_S)
    heard = {name: graph.results(f"/qwen3vl/perception/{name}") for name in ("front", "wrist")}
    until(lambda: all(heard[name]["detections_2d"] for name in heard), START_PATIENCE_S, "answers for both cameras")
    for name in heard:
        assert heard[name]["detections_2d"][0].header.frame_id == f"{name}_color_optical_frame"
    process.interrupt(signal.SIGINT)
    process.status()
    assert "Traceback" not in process.log


def test_the_real_node_and_camera_run_and_stop_together(graph):
    process = graph.start(
        "-c",
        LAUNCH,
        str(ROOT / "launch/perception.launch.py"),
        "use_sim_camera:=true",
        "autostart:=false",
        name="launch",
    )
    images = graph.listen("/qwen3vl/image_raw", Image, qos_profile_sensor_data)
    state = graph.call(GetState, "/qwen3vl/perception/get_state").current_state.label
    assert state == "unconfigured"
    until(lambda: len(images) >= 3, START_PATIENCE_S, "images of the simulated camera")
    process.interrupt(signal.SIGINT)
    process.status()
    assert "Traceback" not in process.log
    until(lambda: not graph.node.count_publishers("/qwen3vl/image_raw"), PATIENCE_S, "the end of the camera")
