"""Facts of packaging that stand in two places must agree, and what is declared must exist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import apply_configuration

from qwen3vl_ros import config

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_XML = ElementTree.parse(ROOT / "package.xml").getroot()
CMAKELISTS = (ROOT / "CMakeLists.txt").read_text()

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "mcap_ros2": "mcap-ros2-support",
    "mcp_types": "mcp-types",
    "imageio_ffmpeg": "imageio-ffmpeg",
}
# Import name -> package.xml key, for what ROS users get by rosdep.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "yaml": "python3-yaml",
}
# Found at run time where present, never required.
OPTIONAL_ROS = {"message_filters", "moveit_msgs"}
OF_CUDA_TORCH = {"triton"}  # what torch for CUDA brings along, used where it is


def declared() -> setuptools.Distribution:
    """What pip is told of the package, as setuptools reads pyproject.toml."""
    here = Path.cwd()
    try:
        os.chdir(ROOT)
        return apply_configuration(setuptools.Distribution(), ROOT / "pyproject.toml")
    finally:
        os.chdir(here)


def depends(*tags: str) -> set[str]:
    return {element.text for tag in tags for element in PACKAGE_XML.findall(tag)}


def third_party_imports() -> dict[str, list[str]]:
    """Top-level modules our package imports, less the standard library and itself -> the files that do."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "qwen3vl_ros").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top not in ("qwen3vl_ros", "__future__"):
                    found.setdefault(top, []).append(str(path.relative_to(ROOT)))
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Those of the package itself with "", and those of its extras."""
    distribution = declared()
    lists = {"": distribution.install_requires, **distribution.extras_require}
    return [Requirement(str(line)) for extra in extras for line in lists[extra]]


def requirement_names(*extras: str) -> set[str]:
    return {requirement.name.lower() for requirement in requirements(*extras)}


def is_ros(module: str) -> bool:
    return bool(
        re.fullmatch(
            r"rclpy|rcl_interfaces|\w+_msgs|std_srvs|tf2_\w+|cv_bridge|ament_index_python|rosidl_\w+|"
            r"builtin_interfaces|message_filters",
            module,
        )
    )


def test_version_is_the_same_everywhere():
    version = PACKAGE_XML.findtext("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert declared().get_version() == version
    assert declared().get_name() == PACKAGE_XML.findtext("name") == "qwen3vl_ros"
    assert declared().get_description() == PACKAGE_XML.findtext("description")
    assert declared().metadata.license_expression == PACKAGE_XML.findtext("license")
    assert f"project({PACKAGE_XML.findtext('name')})" in CMAKELISTS


def test_executables_are_the_same_for_ros_and_pip():
    listed = dict(re.findall(r"^    (\w+):([\w.]+)\)?$", CMAKELISTS, re.MULTILINE))
    scripts = dict(re.findall(r"(\w+) = ([\w.]+):main", "\n".join(declared().entry_points["console_scripts"])))
    assert listed == scripts
    assert {"perception", "qwen3vl", "sim_camera"} <= set(listed)


@pytest.mark.parametrize(
    "module", ["qwen3vl_ros.node.perception.main", "qwen3vl_ros.cli", "qwen3vl_ros.node.sim_camera"]
)
def test_executables_have_a_main_that_takes_no_argument(module):
    assert f":{module}" in CMAKELISTS
    base = ROOT.joinpath(*module.split("."))
    path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    mains = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    assert len(mains) == 1, f"{path} has no main()"
    arguments = mains[0].args
    assert len(arguments.args) == len(arguments.defaults)


def test_every_interface_is_built_and_nothing_else():
    built = set(re.findall(r"^\s+((?:msg|srv|action)/\w+\.\w+)$", CMAKELISTS, re.MULTILINE))
    present = {f"{p.parent.name}/{p.name}" for d in ("msg", "srv", "action") for p in (ROOT / d).glob("*.*")}
    assert built == present


def test_interface_dependencies_agree_with_their_fields():
    fields = "\n".join(p.read_text() for d in ("msg", "srv", "action") for p in (ROOT / d).glob("*.*"))
    used = set(re.findall(r"^(\w+)/\w+(?:\[.*?\])?\s", fields, re.MULTILINE)) - {"qwen3vl_ros"}
    used |= {"action_msgs"} if any((ROOT / "action").glob("*.action")) else set()  # which every action is made with
    in_cmake = set(re.search(r"DEPENDENCIES ([\w ]+)", CMAKELISTS).group(1).split())
    assert used == in_cmake == depends("depend")
    for name in in_cmake:
        assert f"find_package({name} REQUIRED)" in CMAKELISTS


def test_what_cmake_finds_is_declared():
    found = set(re.findall(r"find_package\((\w+) REQUIRED\)", CMAKELISTS))
    assert found == depends("buildtool_depend", "depend")
    assert "rosidl_interface_packages" in depends("member_of_group")


def test_every_import_is_a_declared_requirement():
    pip_names = requirement_names("", "sim", "arm", "mcp", "web", "reference", "model")
    for module, files in third_party_imports().items():
        if is_ros(module):
            declared = module in depends("depend", "exec_depend") | OPTIONAL_ROS
        else:
            declared = DISTRIBUTIONS.get(module, module) in pip_names or module in OF_CUDA_TORCH
        assert declared, f"{module}, imported by {', '.join(files)}, is declared nowhere"


def test_every_requirement_is_imported():
    used = {DISTRIBUTIONS.get(module, module) for module in third_party_imports()}
    assert requirement_names("", "sim") <= used


def test_rosdep_covers_what_the_distributions_package():
    used = third_party_imports()
    for module, key in ROSDEP_KEYS.items():
        assert (module in used) == (key in depends("exec_depend")), f"{module} and {key} disagree"


def test_every_shared_file_of_pip_is_one_colcon_installs():
    for target, files in declared().data_files:
        for name in files:
            assert (ROOT / name).is_file()
            assert target == f"share/qwen3vl_ros/{Path(name).parent}"
    installed = re.findall(r"install\(DIRECTORY ([\w/ ]+) DESTINATION share", CMAKELISTS)
    assert sorted(" ".join(installed).split()) == ["config", "launch", "model/embedded"]
    shared = {name for _, files in declared().data_files for name in files}
    assert {"launch/perception.launch.py", "config/perception.yaml", "model/embedded/config.json"} <= shared


def test_every_module_folder_is_a_package():
    for folder in {path.parent for path in (ROOT / "qwen3vl_ros").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder} would not be installed by pip"
        assert folder.name not in ("msg", "srv", "action"), f"{folder} would hide the generated interfaces"


def test_parameter_file_is_the_declared_one():
    text = (ROOT / "config" / "perception.yaml").read_text()
    assert text == config.to_yaml(), "run python -m qwen3vl_ros.config"


def test_launch_arguments_are_those_of_the_readme():
    launch = (ROOT / "launch" / "perception.launch.py").read_text()
    promised = {
        "model",
        "device",
        "engine",
        "input_image_topic",
        "input_depth_topic",
        "input_camera_info_topic",
        "target_frame",
        "namespace",
        "params_file",
        "use_sim_camera",
        "autostart",
        "cameras",
        "image_transport",
    }
    for name in promised:
        assert f'"{name}"' in launch
    table = (ROOT / "README.md").read_text().split("\n## Launch")[1].split("\n## ")[0]
    documented = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert documented == promised


def test_fastdds_profile_gives_images_room():
    spaces = {"d": "http://www.eprosima.com"}
    profile = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    transports = {
        t.findtext("d:transport_id", None, spaces): t for t in profile.iterfind(".//d:transport_descriptor", spaces)
    }
    used = [e.text for e in profile.iterfind(".//d:userTransports/d:transport_id", spaces)]
    assert sorted(used) == sorted(transports)
    kinds = {t.findtext("d:type", None, spaces): t for t in transports.values()}
    assert set(kinds) == {"SHM", "UDPv4"}
    full_hd_rgb_bytes = 1920 * 1080 * 3
    assert int(kinds["SHM"].findtext("d:maxMessageSize", None, spaces)) > full_hd_rgb_bytes
    assert int(kinds["SHM"].findtext("d:segment_size", None, spaces)) >= 8 * full_hd_rgb_bytes


def test_source_tree_does_not_hide_generated_interfaces(tmp_path):
    generated = tmp_path / "qwen3vl_ros" / "msg"
    generated.mkdir(parents=True)
    (generated / "__init__.py").write_text("made = True\n")
    (generated.parent / "__init__.py").write_text("")
    code = "import qwen3vl_ros.msg as m, qwen3vl_ros.types as t; print(m.made, t.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )
    assert result.stdout.split() == ["True", str(ROOT / "qwen3vl_ros" / "types.py")], result.stderr
