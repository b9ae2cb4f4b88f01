"""launch/: every file but perception.launch.py, which test_launch.py has: what it starts with what, and inspection for real."""

import signal
from pathlib import Path

import pytest
from test_launch import LAUNCH, ROOT, parameters_of, remaps_of, stand_ins  # noqa: F401

pytest.importorskip("launch_ros")
from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from ros_graph import until

from launch import LaunchDescription
from qwen3vl_ros.config import from_flat
from qwen3vl_ros.msg import Reading

FILES = sorted(p for p in (ROOT / "launch").glob("*.launch.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_every_argument_of_every_file_is_described(file):
    description = get_launch_description_from_python_launch_file(str(file))
    assert isinstance(description, LaunchDescription)
    arguments = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert arguments and all(len(a.description) > 10 for a in arguments), file.name


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_every_file_gives_fast_dds_the_profile_without_which_images_are_lost(file):
    assert "config" in file.read_text() and '"FASTDDS_DEFAULT_PROFILES_FILE"' in file.read_text(), file.name


def flat(values, prefix=""):
    """Parameters by their names with dots."""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def checked(values):
    """The parameters, if the node takes them."""
    from_flat({n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n != "use_sim_time"})
    return values


def test_inspection_starts_the_node_with_its_file_and_the_panel_beside_it(stand_ins, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    told = stand_ins(file="inspection.launch.py", expected=("perception", "sim_camera"))
    node, panel = (flat(parameters_of(told[name])) for name in ("perception", "sim_camera"))
    assert Path(node["inspection.file"]).name == "inspection.yaml" and Path(node["inspection.file"]).is_file()
    assert node["inspection.directory"] == str(tmp_path / ".ros" / "qwen3vl_inspection")
    assert (node["enabled"], node["use_depth"]) == (False, False) and checked(node)
    assert panel == {"panel": True, "width": 960, "height": 720}
    assert {remaps_of(t)["__ns"] for t in told.values()} == {"/qwen3vl"}
    assert Path(told["perception"]["profile"]).name == "fastdds.xml" and Path(told["sim_camera"]["profile"]).is_file()


def test_inspection_of_a_real_plant_starts_the_node_alone_with_what_is_given(stand_ins):  # noqa: F811
    told = stand_ins(
        "use_sim_panel:=false",
        "file:=/plant/points.yaml",
        "directory:=",
        "stream:=true",
        "use_depth:=true",
        "namespace:=plant",
        file="inspection.launch.py",
    )["perception"]
    node = flat(parameters_of(told))
    assert (node["inspection.file"], node["inspection.directory"]) == ("/plant/points.yaml", "")
    assert (node["enabled"], node["use_depth"]) == (True, True) and remaps_of(told)["__ns"] == "/plant"


def test_pick_and_place_share_the_simulated_clock_and_a_real_robot_has_its_own(stand_ins):  # noqa: F811
    told = stand_ins("seed:=3", "scene:=wide", file="pick_place.launch.py", expected=("perception", "sim_robot"))
    node, robot = (flat(parameters_of(told[name])) for name in ("perception", "sim_robot"))
    assert node["use_sim_time"] is True and (node["target_frame"], node["robot_frame"]) == ("world", "arm_link0")
    assert (robot["scene"], robot["seed"], robot["pace"]) == ("wide", 3, 1.0) and checked(node)


def test_pick_and_place_with_a_robot_of_your_own(stand_ins):  # noqa: F811
    node = flat(parameters_of(stand_ins("use_sim_robot:=false", file="pick_place.launch.py")["perception"]))
    assert node["use_sim_time"] is False


@pytest.mark.parametrize("file, argument", [("inspection", "use_sim_panel"), ("pick_place", "use_sim_robot")])
def test_a_choice_that_is_none_is_refused(graph, file, argument):
    process = graph.start("-c", LAUNCH, str(ROOT / f"launch/{file}.launch.py"), f"{argument}:=maybe", name="launch")
    assert process.status() != 0 and "maybe" in process.log


def test_inspection_reads_the_panel_with_the_real_node(graph, tmp_path):
    process = graph.start(
        "-c", LAUNCH, str(ROOT / "launch/inspection.launch.py"), f"directory:={tmp_path / 'kept'}", name="launch"
    )
    readings = graph.listen("/qwen3vl/perception/readings", Reading)
    good = until(
        lambda: [r for r in readings if r.quality == Reading.GOOD and r.point == "boiler_pressure"], 240, "a reading"
    )
    assert good[0].unit == "MPa" and 0 <= good[0].value <= 2.5
    process.interrupt(signal.SIGINT)
    process.status()
    assert "Traceback" not in process.log and list((tmp_path / "kept" / "journal").glob("*.jsonl"))
