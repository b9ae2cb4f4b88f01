"""Writes serialised ROS 2 messages to one MCAP file that Foxglove, rosbags and `ros2 bag` open.

A channel a topic, CDR bytes as they came from the wire, and the message definitions as the installed packages
give them (profile ros2, schema encoding ros2msg). Knows nothing of rclpy: it sees bytes, type names and
texts. Source: mcap.dev, "MCAP well-known profiles and encodings".
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Callable

from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
from mcap.writer import CompressionType, Writer

from qwen3vl_ros.types import InvalidInput

_PRIMITIVE = {
    "bool",
    "byte",
    "char",
    "float32",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "string",
    "wstring",
}
_SEPARATOR = "\n" + "=" * 80 + "\n"


def dependencies(package: str, text: str) -> list[str]:
    """The message types (`pkg/msg/Name`) that a .msg text of `package` uses, in order of first use."""
    found = []
    for line in text.splitlines():
        field = re.match(r"\s*([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[<=\d]*\])?\s+[a-zA-Z]\w*", line)
        if not field or field[1] in _PRIMITIVE:
            continue
        parts = field[1].split("/")
        name = f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}"
        if name not in found:
            found.append(name)
    return found


def full_definition(type_name: str, text_of: Callable[[str], str]) -> str:
    """The text of `pkg/msg/Name` followed by those of all types it needs, as the ros2msg encoding asks."""
    texts, queue = {}, [type_name]
    while queue:
        name = queue.pop(0)
        if name not in texts:
            texts[name] = text_of(name)
            queue += dependencies(name.split("/")[0], texts[name])
    first, *rest = texts
    return texts[first] + "".join(f"{_SEPARATOR}MSG: {n.replace('/msg/', '/')}\n{texts[n]}" for n in rest)


def installed_text(type_name: str, prefixes: list[str]) -> str:
    """The .msg file of `pkg/msg/Name` under the first of the ament prefixes that has it."""
    package, _, name = type_name.split("/")
    for prefix in prefixes:
        path = Path(prefix) / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text()
    raise InvalidInput(
        f"no definition of {type_name} under {', '.join(prefixes) or 'AMENT_PREFIX_PATH (empty)'}; "
        f"source the workspace that was built"
    )


class Recording:
    """An MCAP file being written. Use it as a context manager: the index is written at the end.

    failure: why the disk did not take it, "" if it did; the file is gone then, and the demo goes on without.
    """

    def __init__(self, path: Path, text_of: Callable[[str], str]):
        self.failure = ""
        self._path, self._file = path, open(path, "wb")
        self._writer = Writer(self._file, chunk_size=4 << 20, compression=CompressionType.ZSTD)
        self._writer.start(profile=Profile.ROS2, library="qwen3vl_ros")
        self._text_of = text_of
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._sequence: dict[str, int] = {}

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def open_topic(self, topic: str, type_name: str) -> None:
        """Declare a topic of type `pkg/msg/Name`; also one without a message shows in the file."""
        if topic in self._channels:
            return
        if type_name not in self._schemas:
            text = full_definition(type_name, self._text_of)
            self._schemas[type_name] = self._writer.register_schema(type_name, SchemaEncoding.ROS2, text.encode())
        self._channels[topic] = self._writer.register_channel(
            topic, MessageEncoding.CDR, self._schemas[type_name], {"offered_qos_profiles": ""}
        )

    def write(self, topic: str, cdr: bytes, stamp_ns: int) -> None:
        """Append one serialised message (with its 4-byte CDR header) at its stamp; the topic must be open."""
        if self._file.closed:
            return
        sequence = self._sequence[topic] = self._sequence.get(topic, -1) + 1
        try:
            self._writer.add_message(self._channels[topic], stamp_ns, cdr, stamp_ns, sequence)
        except OSError as error:
            self._give_up(error)

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic."""
        return {topic: self._sequence.get(topic, -1) + 1 for topic in self._channels}

    def close(self) -> None:
        """Write the index and close the file; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self._writer.finish()
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # it tries to write the rest once more
            self._file.close()
