"""A folder on a disk of its own: as small as a test wants it, or one that cannot be written. Needs the right to mount."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """options: of a tmpfs, as "size=1m" or "ro"."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Nothing more goes on its disk."""
    try:
        with open(folder / "filling", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
