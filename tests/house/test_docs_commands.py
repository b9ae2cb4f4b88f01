"""What README and docs tell people to type works as it is shown.

Commands of this package are run; what takes minutes, a GPU, the network or a ROS distribution is checked by its parts:
that the target, the file, the option or the argument exists.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from qwen3vl_ros import cli
from qwen3vl_ros.config import from_flat, parameters
from qwen3vl_ros.sim.sample import write_sample
from qwen3vl_ros.types import InvalidInput

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "model" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Runs with the embedded model in seconds; the others load checkpoints that are not here, or write for minutes.
RUN = {"doctor", "sample", "detect", "measure", "read"}
# Programs of other projects, which the page says that it needs.
FOREIGN = {
    "ros2",
    "colcon",
    "rosdep",
    "mkdir",
    "cd",
    "git",
    "vllm",
    "pip",
    "sudo",
    "python3",
    "export",
    "rosbags-convert",
}


def commands(page: Path) -> list[str]:
    """Every command line of a page: indented or fenced, comments and continuation lines joined, prompts taken off."""
    text = re.sub(r"<!-- demo output -->.*?<!-- /demo output -->", "", page.read_text(), flags=re.S)
    blocks = re.findall(r"(?:^    \S.*\n?(?:^ {4,}.*\n?)*)+", text, re.M) + re.findall(
        r"```(?:bash|sh)\n(.*?)```", text, re.S
    )
    lines = []
    for block in blocks:
        joined = re.sub(r"\\\n\s*", "", block)
        lines += [re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in dict.fromkeys(lines) if line and re.match(r"[a-z][\w.-]* ?", line)]


def first_words(page: Path) -> list[str]:
    return [line for line in commands(page) if line.split()[0] in ("qwen3vl", "python", "make", "source", *FOREIGN)]


SHOWN = [(page, line) for page in PAGES for line in first_words(page)]


def of(program: str) -> list:
    return [
        pytest.param(page, line, id=f"{page.name}: {line[:70]}") for page, line in SHOWN if line.split()[0] == program
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("reader")
    write_sample(made / "pictures")
    return made


def test_the_pages_show_commands():
    assert len(of("qwen3vl")) >= 4 and len(of("make")) >= 5 and len(of("ros2")) >= 3


@pytest.mark.parametrize("page, line", of("qwen3vl"))
def test_a_command_of_ours_runs_as_it_is_shown(page, line, folder):
    words = shlex.split(re.sub(r"\s+(?:\.\.\.|…)", "", line))
    try:
        arguments = cli._parser().parse_args(words[1:])
    except SystemExit:
        pytest.fail(f"{page.name} shows {line!r}, which the command line does not take")
    if arguments.command not in RUN or getattr(arguments, "model", ""):
        return
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_ros.cli", *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page, line", of("make"))
def test_a_make_target_exists_with_what_it_is_given(page, line):
    words = shlex.split(re.sub(r"\s+(?:\.\.\.|…)", "", line))
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals and name == "BENCH":
            assert (ROOT / "benchmarks" / f"{value}.py").is_file(), f"{page.name}: benchmarks/{value}.py is not there"
        elif not equals:
            assert word in targets, f"{page.name}: the Makefile has no target {word!r}"


@cache
def help_of(*words: str) -> str:
    """What a script says of its options; once for all pages that show it, as some import PyTorch first."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words, "--help"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page, line", of("python"))
def test_a_python_command_names_a_file_or_module_and_options_it_has(page, line):
    words = shlex.split(re.sub(r"\s+(?:\.\.\.|…)", "", line))
    if words[1] == "-m" and words[2] == "pytest":
        assert all((ROOT / word).exists() for word in words[3:] if not word.startswith("-"))
        return
    script = [str(ROOT / words[1])] if words[1] != "-m" else ["-m", words[2]]
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    if not options:
        assert words[1] == "-m" or Path(script[0]).is_file(), f"{page.name} shows {line!r}"
        return
    if "--ros-args" in options:  # a node, which has no help of its own
        assert importlib.util.find_spec(words[2]), f"{page.name} shows {line!r}"
        return
    sub = [words[2]] if words[1] != "-m" and len(words) > 2 and re.fullmatch(r"[a-z]+", words[2]) else []
    shown = help_of(*script, *sub)
    for option in options:
        assert option in shown, f"{page.name} shows {line!r}, but {option} is no option of it"


@pytest.mark.parametrize("page, line", of("ros2"))
def test_a_ros2_command_names_our_launch_arguments_and_executables(page, line):
    words = shlex.split(re.sub(r"\s+(?:\.\.\.|…)", "", line))
    if "qwen3vl_ros" not in words:
        return
    name = words[words.index("qwen3vl_ros") + 1]
    if words[1] == "launch":
        text = (ROOT / "launch" / name).read_text()
        for argument, equals, _ in (word.partition(":=") for word in words):
            assert not equals or f'"{argument}"' in text, f"{page.name}: {name} has no argument {argument!r}"
    elif words[1] == "run":
        assert re.search(rf"^    {name}:", (ROOT / "CMakeLists.txt").read_text(), re.M), (
            f"{page.name}: no executable {name!r}"
        )


def yaml_blocks() -> list:
    return [
        pytest.param(page, block, id=f"{page.name}: {block.strip().splitlines()[0][:50]}")
        for page in PAGES
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    ]


@pytest.mark.parametrize("page, block", yaml_blocks())
def test_a_yaml_block_is_a_parameter_file_of_the_node(page, block):
    def flat(group: dict, prefix: str = "") -> dict:
        out = {}
        for name, value in group.items():
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return out

    known = {p.name for p in parameters()}
    for node in yaml.safe_load(block).values():
        given = flat(node["ros__parameters"])
        try:
            from_flat({name: value for name, value in given.items() if name in known})
        except InvalidInput as error:
            pytest.fail(f"{page.name}: {error}")
        assert all(name in known or name.startswith("camera.") for name in given), given


@pytest.mark.parametrize(
    "page, code",
    [
        pytest.param(page, code, id=f"{page.name}: {code.splitlines()[0][:50]}")
        for page in PAGES
        if page.name != "planners.md"  # what it shows stands on MoveIt: tests/node/test_planners_page.py runs it
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    ],
)
def test_a_python_snippet_runs_as_it_is_shown(page, code, folder):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
