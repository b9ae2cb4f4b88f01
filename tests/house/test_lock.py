"""requirements/ against pyproject.toml, without a network: every requirement pinned, for every Python, with hashes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = [ROOT / "requirements" / name for name in ("lock.txt", "uv.txt")]
AGAIN = "run: make lock"
MACHINES = [
    (python, machine) for python in ("3.10", "3.11", "3.12", "3.13", "3.14") for machine in ("x86_64", "aarch64")
]


@dataclass(frozen=True)
class Pin:
    """requirement: name==version; marker. via: what asks for it, as uv notes it."""

    requirement: Requirement
    hashes: tuple[str, ...]
    via: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    def counts(self, python: str, machine: str) -> bool:
        return holds(self.requirement, python, machine)


def read_pins(path: Path) -> list[Pin]:
    blocks = re.split(r"^(?=\w)", path.read_text(), flags=re.MULTILINE)[1:]
    return [
        Pin(
            Requirement(block.split(" \\\n")[0]),
            tuple(re.findall(r"--hash=(\S+)", block)),
            tuple(re.findall(r"^    #(?: via|  ) (\S.*)$", block, re.MULTILINE)),
        )
        for block in blocks
    ]


def holds(requirement: Requirement, python: str, machine: str) -> bool:
    here = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }
    return requirement.marker is None or requirement.marker.evaluate(here)


PINS = [pin for path in LOCKS for pin in read_pins(path)]
DECLARED = [
    Requirement(line)
    for lines in (
        PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    )
    for line in lines
]


LOCKED = [
    requirement for requirement in DECLARED if requirement.name not in PYPROJECT["tool"]["uv"]["exclude-dependencies"]
]


@pytest.mark.parametrize("python, machine", MACHINES)
def test_every_requirement_has_one_pin_within_its_bounds(python, machine):
    for requirement in LOCKED:
        found = [
            pin.version
            for pin in PINS
            if pin.name == canonicalize_name(requirement.name) and pin.counts(python, machine)
        ]
        if holds(requirement, python, machine):
            assert len(found) == 1, f"{requirement} has pins {found} on Python {python}, {machine}; {AGAIN}"
            assert requirement.specifier.contains(found[0], prereleases=True), f"{requirement}: {found}; {AGAIN}"


def test_nothing_is_pinned_that_nothing_asks_for():
    direct = {pin.name for pin in PINS if any("pyproject.toml" in via for via in pin.via)}
    assert direct == {canonicalize_name(requirement.name) for requirement in LOCKED}, AGAIN
    names = {pin.name for pin in PINS}
    for pin in PINS:
        askers = [via for via in pin.via if "pyproject.toml" not in via and not via.startswith("-c ")]
        assert pin.via and {canonicalize_name(name) for name in askers} <= names, (pin, AGAIN)


def test_every_pin_has_hashes_and_no_address():
    assert len(PINS) > 200
    for pin in PINS:
        assert pin.hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in pin.hashes), pin
    for path in [*LOCKS, ROOT / "pyproject.toml"]:
        assert not re.search(r"://|index-url|find-links", path.read_text()), f"{path} names where packages lie"


def test_no_requirement_follows_the_next_major_version():
    """Each has an upper bound: by its first number, or it is pinned."""
    for requirement in DECLARED:
        upper = [s for s in requirement.specifier if s.operator in ("<", "==")]
        assert upper, f"{requirement} follows every new version"
        assert all(s.operator == "==" or re.fullmatch(r"\d+", s.version) for s in upper), requirement


def test_ros_wheels_are_pinned():
    """One name serves several distributions, and they must not be mixed."""
    names = [line for line in PYPROJECT["dependency-groups"]["ros"] if line.startswith("ros-")]
    assert names and all(re.fullmatch(r"ros-[\w-]+==[\d.]+", line) for line in names)


def test_torch_is_installed_by_itself_within_its_bounds_and_the_lock_brings_no_cuda():
    text = (ROOT / "scripts" / "steps.py").read_text()
    torch = Requirement(re.search(r'"(torch==[\d.]+)"', text)[1])
    (version,) = (specifier.version for specifier in torch.specifier)
    assert all(r.specifier.contains(version) for r in DECLARED if r.name == "torch")
    assert not [pin.name for pin in PINS if pin.name == "torch" or pin.name.startswith("nvidia-")]
    assert {"sympy", "networkx", "fsspec"} <= {pin.name for pin in PINS}


# Which Triton the CUDA build of a torch requires stands in that build's metadata: its CPU build requires none.
TORCH, ITS_TRITON = "torch==2.13.0", "3.7.1"


def test_triton_is_the_one_that_our_torch_requires_and_is_tests_alone():
    assert f'"{TORCH}"' in (ROOT / "scripts" / "steps.py").read_text(), "another torch requires another Triton"
    assert [pin.version for pin in PINS if pin.name == "triton"] == [ITS_TRITON], AGAIN
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert [name for name, lines in extras.items() if any(line.startswith("triton") for line in lines)] == ["test"]


ROWS = {
    "a version out of bounds": ("numpy==2.4.6 ;", "numpy==3.0.0 ;"),
    "a pin that is gone": ("safetensors==", "unsafetensors=="),
    "a pin for no machine": ("pyyaml==6.0.4 ; sys_platform == 'linux'", "pyyaml==6.0.4 ; sys_platform == 'win32'"),
}


@pytest.mark.parametrize("before, after", ROWS.values(), ids=ROWS.keys())
def test_a_lock_that_is_not_of_this_pyproject_is_noticed(before, after, tmp_path, monkeypatch):
    text = LOCKS[0].read_text()
    assert before in text
    (tmp_path / "lock.txt").write_text(text.replace(before, after))
    monkeypatch.setitem(globals(), "PINS", [*read_pins(tmp_path / "lock.txt"), *read_pins(LOCKS[1])])
    with pytest.raises(AssertionError, match=AGAIN):
        for python, machine in MACHINES:
            test_every_requirement_has_one_pin_within_its_bounds(python, machine)


def test_no_text_names_a_file_of_requirements_that_is_not_there():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("model/*"), *ROOT.glob("benchmarks/*.py")]
    pages += [
        *ROOT.glob("qwen3vl_ros/**/*.py"),
        *ROOT.glob("scripts/**/*.*"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    for page in pages:
        text = page.read_text() if page.suffix in (".md", ".py", ".toml", "") and page.is_file() else ""
        for name in re.findall(r"requirements/[\w.-]+\.txt", text):
            assert (ROOT / name).is_file(), f"{page} names {name}"
