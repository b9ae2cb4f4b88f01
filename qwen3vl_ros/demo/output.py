"""The folder a demo writes into: one demo at a time, and an earlier run's results stay until those of this one are whole.

Knows nothing of what is written.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from qwen3vl_ros.types import InvalidInput

RESULTS = "results.json"
FILES = (RESULTS, "annotated.mp4", "asked.png", "arm.mp4", "demo.mcap", "camera.log", "node.log")
PICTURES = "scene_*.png"


class Output:
    """work: where this run writes, `folder` itself or, where that holds results, `folder/unfinished` until finish().

    Use it as a context manager. Raises InvalidInput where nothing can be written or another demo writes.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.work = self.folder / "unfinished" if (self.folder / RESULTS).is_file() else self.folder
            if self.work == self.folder:
                _remove_old(self.folder)
            else:
                shutil.rmtree(self.work, ignore_errors=True)
                self.work.mkdir()
            (self.work / FILES[-1]).touch()  # a folder may be there and take no file
        except BlockingIOError:
            raise InvalidInput(
                f"another demo is writing into {self.folder}; wait until it ends, or give this one a folder of its own: --output"
            ) from None
        except OSError as error:
            raise InvalidInput(
                f"{self.folder} cannot be written ({error.strerror}); name a folder that can: --output"
            ) from None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_) -> None:
        os.close(self._lock)

    def finish(self) -> None:
        """This run's results are whole: they take the place of the earlier ones."""
        if self.work == self.folder:
            return
        _remove_old(self.folder)
        for path in self.work.iterdir():
            if (old := self.folder / path.name).is_dir():  # which none replaces that has something in it
                shutil.rmtree(old)
            path.replace(old)
        self.work.rmdir()
        self.work = self.folder


def _remove_old(folder: Path) -> None:
    for old in (*(folder / name for name in FILES), *folder.glob(PICTURES)):
        old.unlink(missing_ok=True)
