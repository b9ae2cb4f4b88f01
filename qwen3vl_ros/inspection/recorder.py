"""What is kept on disk: evidence of events and of rejected readings, the journal, and the state of alarms.

    DIRECTORY/state.json                     alarms and what was last believed, written whole or not at all
    DIRECTORY/journal/2026-11-25.jsonl       readings, events and paths, a line each, in the order in which they came
    DIRECTORY/evidence/2026-11-25/NAME/      event.json, pictures (JPEG), evidence.mcap

Nothing is overwritten. A quota bounds the evidence: the oldest goes first. A disk that is full or read-only costs the evidence and
not the node: what could not be written is counted and said. Knows nothing of ROS and of what the events mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import cv2
import numpy as np

from qwen3vl_ros.files import write_whole

QUALITY = 90  # of JPEG
_BUFFER_HZ = 1.0
_SECOND = 10**9


@dataclass(frozen=True)
class Kept:
    """One picture as it was, small on memory. jpeg: encoded."""

    stamp_ns: int
    camera: str
    frame_id: str
    jpeg: bytes


def encoded(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def utc(stamp_ns: int) -> str:
    """ISO 8601, UTC, milliseconds."""
    whole = datetime.fromtimestamp(stamp_ns // _SECOND, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{stamp_ns % _SECOND // 10**6:03d}Z"


class Buffer:
    """The last seconds of each camera, one picture a second; times are image stamps."""

    def __init__(self, seconds: float):
        self._seconds, self._pictures = seconds, {}

    def add(self, camera: str, stamp_ns: int, frame_id: str, rgb: np.ndarray) -> Kept | None:
        """Keep it, if the last one is old enough; what was kept."""
        pictures = self._pictures.setdefault(camera, deque())
        if pictures and stamp_ns < pictures[-1].stamp_ns:  # they began anew
            pictures.clear()
        if pictures and stamp_ns - pictures[-1].stamp_ns < _SECOND / _BUFFER_HZ:
            return None
        pictures.append(Kept(stamp_ns, camera, frame_id, encoded(rgb)))
        while stamp_ns - pictures[0].stamp_ns > self._seconds * _SECOND:
            pictures.popleft()
        return pictures[-1]

    def before(self, camera: str, stamp_ns: int) -> tuple[Kept, ...]:
        return tuple(p for p in self._pictures.get(camera, ()) if p.stamp_ns <= stamp_ns)


class Recorder:
    """directory: None keeps nothing. quota_bytes: of the evidence. trouble: the last thing that could not be written, "" if none.

    Any thread.
    """

    def __init__(self, directory: Path | None, quota_bytes: int, now_s: Callable[[], float] = time.monotonic):
        self.directory, self._quota, self._now_s = directory, quota_bytes, now_s
        self._lock = threading.Lock()
        self.trouble, self.lost = "", 0
        self._used: int | None = None

    # -- evidence ----------------------------------------------------------------------------------

    def keep(self, name: str, stamp_ns: int, what: dict[str, Any], pictures: Sequence[tuple[str, Kept]]) -> str:
        """A new folder with the pictures and event.json, which has their SHA-256; its URI, "" where it could not be kept."""
        if self.directory is None:
            return ""
        with self._lock:
            files = {f"{label}_{utc(p.stamp_ns).replace(':', '')}.jpg": p for label, p in pictures}
            told = what | {
                "pictures": [
                    {
                        "file": file,
                        "stamp": utc(p.stamp_ns),
                        "stamp_ns": p.stamp_ns,
                        "camera": p.camera,
                        "frame_id": p.frame_id,
                        "sha256": hashlib.sha256(p.jpeg).hexdigest(),
                    }
                    for file, p in files.items()
                ]
            }
            text = json.dumps(_plain(told), indent=1, ensure_ascii=False).encode()
            if not self._room(len(text) + sum(len(p.jpeg) for p in files.values())):
                return ""
            folder = None
            try:
                folder = self._new_folder(name, stamp_ns)
                for file, p in files.items():
                    (folder / file).write_bytes(p.jpeg)
                (folder / "event.json").write_bytes(text)
            except OSError as error:
                if folder is not None:  # half of it is no evidence, and takes the room of the next
                    shutil.rmtree(folder, ignore_errors=True)
                return self._failed(f"evidence of {name}", error)
            self._used = (self._used or 0) + len(text) + sum(len(p.jpeg) for p in files.values())
            self.trouble = ""
            return (folder / "event.json").absolute().as_uri()

    def add(self, uri: str, label: str, picture: Kept) -> None:
        """One more picture beside evidence that was kept, as those of the seconds after."""
        if not uri or self.directory is None:
            return
        with self._lock:
            file = _folder_of(uri) / f"{label}_{utc(picture.stamp_ns).replace(':', '')}.jpg"
            if file.exists() or not self._room(len(picture.jpeg)):
                return
            try:
                write_whole(file, picture.jpeg)
                self._used = (self._used or 0) + len(picture.jpeg)
            except OSError as error:
                self._failed(f"{file.name}", error)

    def write_mcap(self, uri: str) -> str:
        """evidence.mcap of a folder's pictures, for Foxglove: its URI, "" where it could not be written (see trouble)."""
        if not uri or self.directory is None:
            return ""
        folder = _folder_of(uri)
        with self._lock:
            pictures = sorted(folder.glob("*.jpg"), key=lambda p: p.name.rpartition("_")[2])
            try:
                if not pictures or not self._room(sum(p.stat().st_size for p in pictures)):
                    return ""
                return _mcap(folder, pictures).absolute().as_uri()
            except ImportError:
                self.trouble = "no MCAP is written without the package rosbags: pip install rosbags"
            except OSError as error:
                self._failed("evidence.mcap", error)
            return ""

    def _new_folder(self, name: str, stamp_ns: int) -> Path:
        day = self.directory / "evidence" / utc(stamp_ns)[:10]
        base = f"{utc(stamp_ns)[11:23].replace(':', '')}_{re.sub(r'[^A-Za-z0-9_]+', '-', name)[:60]}"
        day.mkdir(parents=True, exist_ok=True)
        for number in range(10_000):
            folder = day / (f"{base}_{number}" if number else base)
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
        raise FileExistsError(17, "ten thousand folders of that name are there", str(day / base))

    def _room(self, more: int) -> bool:
        """Whether so many bytes fit the quota, once the oldest evidence has gone."""
        root = self.directory / "evidence"
        if self._used is None:
            self._used = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) if root.is_dir() else 0
        if more > self._quota:
            self.trouble, self.lost = f"{more} bytes of evidence are more than inspection.quota allows", self.lost + 1
            return False
        if self._used + more <= self._quota:
            return True
        for folder in sorted(root.glob("*/*")):
            size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                continue
            self._used -= size
            if self._used + more <= 0.9 * self._quota:
                break
        for day in root.glob("*"):
            if not any(day.iterdir()):
                day.rmdir()
        return self._used + more <= self._quota

    # -- journal and state ---------------------------------------------------------------------------

    def write(self, kind: str, stamp_ns: int, values: dict[str, Any]) -> None:
        """One line of the journal."""
        if self.directory is None:
            return
        dated = {"kind": kind, "stamp": utc(stamp_ns), "stamp_ns": stamp_ns}
        line = json.dumps(dated | _plain(values) | dated, ensure_ascii=False)
        with self._lock:
            try:
                folder = self.directory / "journal"
                folder.mkdir(parents=True, exist_ok=True)
                _append(folder / f"{utc(stamp_ns)[:10]}.jsonl", line + "\n")
            except OSError as error:
                self._failed("a line of the journal", error)

    def save_state(self, state: dict[str, Any]) -> None:
        """Whole or not at all."""
        if self.directory is None:
            return
        with self._lock:
            path, new = self.directory / "state.json", self.directory / "state.json.new"
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                with open(new, "w", encoding="utf-8") as file:
                    json.dump(_plain(state), file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except OSError as error:
                self._failed("the state of the alarms", error)

    def read_state(self) -> dict[str, Any]:
        """What was saved last; {} without it, or where it cannot be read (see trouble)."""
        if self.directory is None:
            return {}
        path = self.directory / "state.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return state if isinstance(state, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.trouble = (
                f"{path} cannot be read ({error}): alarms begin anew; the file is kept as state.json.unreadable"
            )
            try:
                os.replace(path, f"{path}.unreadable")
            except OSError:
                pass
            return {}

    def _failed(self, what: str, error: OSError) -> str:
        self.lost += 1
        self.trouble = f"{what} could not be written to {self.directory}: {error.strerror or error}"
        return ""


def _append(path: Path, line: str) -> None:
    """The whole line, or the file as it was: the next line must not continue half of this one. Raises OSError."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise


def journal(directory: Path, start_ns: int = 0, end_ns: int = 2**63 - 1) -> Iterator[dict[str, Any]]:
    """The lines between two stamps, in their order; a line that was cut off is left out."""
    for path in sorted((Path(directory) / "journal").glob("*.jsonl")):
        if not utc(start_ns)[:10] <= path.stem <= utc(min(end_ns, 253402300799 * _SECOND))[:10]:
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                    if start_ns <= entry["stamp_ns"] <= end_ns:
                        yield entry
                except (ValueError, KeyError, TypeError):
                    continue


def _folder_of(uri: str) -> Path:
    from urllib.parse import unquote, urlparse

    return Path(unquote(urlparse(uri).path)).parent


def _mcap(folder: Path, pictures: Sequence[Path]) -> Path:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE)
    image, header, moment = (
        types.types[name]
        for name in ("sensor_msgs/msg/CompressedImage", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    told = json.loads((folder / "event.json").read_text(encoding="utf-8"))
    frames = {p["file"]: (p["camera"], p["frame_id"]) for p in told.get("pictures", ())}

    def write(bag: Path) -> None:
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            known = {}
            for path in pictures:
                camera, frame_id = frames.get(path.name, next(iter(frames.values()), ("", "")))
                topic = f"/{camera}/image/compressed" if camera else "/image/compressed"
                if topic not in known:
                    known[topic] = writer.add_connection(topic, image.__msgtype__, typestore=types)
                stamp_ns = _stamp_of(path.name)
                message = image(
                    header(moment(stamp_ns // _SECOND, stamp_ns % _SECOND), frame_id),
                    "jpeg",
                    np.frombuffer(path.read_bytes(), np.uint8),
                )
                writer.write(known[topic], stamp_ns, types.serialize_cdr(message, image.__msgtype__))

    bag, target = folder / "bag", folder / "evidence.mcap"
    if target.exists():
        return target
    try:
        write(bag)
        os.replace(next(bag.glob("*.mcap")), target)
    finally:  # half of one would be in the way of the next
        shutil.rmtree(bag, ignore_errors=True)
    return target


def _stamp_of(name: str) -> int:
    written = name.rpartition("_")[2].removesuffix(".jpg")
    whole = datetime.strptime(written[:-5], "%Y-%m-%dT%H%M%S").replace(tzinfo=timezone.utc)
    return int(whole.timestamp()) * _SECOND + int(written[-4:-1]) * 10**6


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null, NumPy's scalars are Python's."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
