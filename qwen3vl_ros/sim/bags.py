"""The messages of a rosbag2, in the order of their recording, also of one that is damaged or was cut off.

A folder with or without its metadata.yaml, or a single .mcap or .db3 file; compressed by message or by file. What cannot
be read is told to `lost` with the command that repairs it, and reading goes on behind it. Needs no ROS: storage is read
by `mcap` and SQLite, messages are decoded by `rosbags`. Knows nothing of pictures.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

from qwen3vl_ros.types import InvalidInput, quoted

SUFFIXES = (".mcap", ".db3")
_ZSTD = b"\x28\xb5\x2f\xfd"
_MISSES = 1000  # rows in a row that cannot be read, after which there are no more
# (topic, nanoseconds of the recorder's clock, serialised message)
Record = tuple[str, int, bytes]


def is_bag(path: Path) -> bool:
    """Whether a path names a rosbag2."""
    return _is_storage(path) or (path.is_dir() and ((path / "metadata.yaml").is_file() or bool(_storages_in(path))))


class Bag:
    """topics: {name: type}. lost(reason) is told of everything that cannot be read; it may raise to end the reading.

    Use it as a context manager. Raises InvalidInput where nothing can be read at all.
    """

    def __init__(self, path: Path, lost: Callable[[str], None]):
        self.path, self._lost = path, lost
        self._unpacked = tempfile.TemporaryDirectory(prefix="bag_")
        try:
            from rosbags.typesys import Stores, get_typestore

            files = [path] if path.is_file() else _storages_in(path)
            self._storages = [self._storage(file) for file in files]
        except ImportError as error:
            raise InvalidInput(f"{path} is a rosbag2, which needs `pip install rosbags mcap`: {error}") from error
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            lost(
                f"{path} has no metadata.yaml, as after a recording that was killed; `ros2 bag reindex {path}` writes it"
            )
        self.topics: dict[str, str] = {}
        for storage in self._storages:
            self.topics |= self._topics_of(storage)
        if not self.topics:
            names = ", ".join(file.name for file in files) or "no .mcap or .db3 file"
            raise InvalidInput(f"rosbag2 {path} cannot be read: there are no messages in it ({names})")

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_) -> None:
        self._unpacked.cleanup()

    def first(self, topic: str) -> Any | None:
        """The first message of a topic, None without one."""
        return next((message for _, _, message in self.messages([topic])), None)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, nanoseconds of the recorder's clock, message) of these topics."""
        for storage in self._storages:
            for topic, logged_ns, raw in self._records(storage, topics):
                try:
                    raw = _inflated(raw) if bytes(raw[:4]) == _ZSTD else raw
                    message = self._types.deserialize_cdr(raw, self.topics[topic])
                except Exception as error:  # whatever a decoder raises on damaged bytes
                    self._lost(f"a message of {topic} in {storage.path} cannot be read: {_why(error)}")
                    continue
                yield topic, logged_ns, message

    def _records(self, storage: _Mcap | _Sqlite, topics: Collection[str]) -> Iterator[Record]:
        """In the order of their times; from the first damage on, in the order in which they were written."""
        records, last_ns = storage.ordered(topics), -1
        while True:
            try:
                record = next(records, None)
            except Exception as error:
                self._lost(f"{storage.path} is damaged or cut off ({_why(error)}); `{storage.repair}` repairs it")
                break
            if record is None:
                return
            last_ns = record[1]
            yield record
        yield from (record for record in storage.salvaged(topics, self._lost) if record[1] > last_ns)

    def _topics_of(self, storage: _Mcap | _Sqlite) -> dict[str, str]:
        try:
            return storage.topics()
        except Exception as error:
            try:
                found = storage.salvaged_topics()
            except Exception:
                found = {}
            if not found:
                raise InvalidInput(
                    f"rosbag2 {storage.path} cannot be read ({_why(error)}); try `{storage.repair}`"
                ) from error
            self._lost(f"{storage.path} is damaged or cut off ({_why(error)}); `{storage.repair}` repairs it")
            return found

    def _storage(self, path: Path) -> _Mcap | _Sqlite:
        if path.suffix == ".zstd":
            import zstandard

            unpacked = Path(self._unpacked.name) / path.stem
            try:
                with path.open("rb") as packed, unpacked.open("wb") as out:
                    shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(packed), out)
            except (OSError, zstandard.ZstdError) as error:
                self._lost(f"{path} is damaged or cut off ({_why(error)}); `zstd -d {path}` says where")
            path = unpacked
        return _Mcap(path) if path.suffix == ".mcap" else _Sqlite(path)


class _Mcap:
    """https://mcap.dev/spec"""

    def __init__(self, path: Path):
        self.path, self.repair = path, f"mcap recover {path} -o mended.mcap"

    def topics(self) -> dict[str, str]:
        from mcap.reader import make_reader

        with self.path.open("rb") as file:
            summary = make_reader(file).get_summary()
            if summary is None:
                raise ValueError("it has no summary")
            return {
                channel.topic: summary.schemas[channel.schema_id].name
                for channel in summary.channels.values()
                if channel.schema_id in summary.schemas
            }

    def ordered(self, topics: Collection[str]) -> Iterator[Record]:
        from mcap.reader import make_reader

        with self.path.open("rb") as file:
            for _, channel, message in make_reader(file, validate_crcs=True).iter_messages(topics=list(topics)):
                yield channel.topic, message.log_time, message.data

    def salvaged_topics(self) -> dict[str, str]:
        from mcap.records import Channel, Schema

        records = list(r for r in self._written(lambda reason: None) if isinstance(r, (Channel, Schema)))
        names = {r.id: r.name for r in records if isinstance(r, Schema)}
        return {r.topic: names[r.schema_id] for r in records if isinstance(r, Channel) and r.schema_id in names}

    def salvaged(self, topics: Collection[str], lost: Callable[[str], None]) -> Iterator[Record]:
        from mcap.records import Channel, Message

        names: dict[int, str] = {}
        for record in self._written(lost):
            if isinstance(record, Channel):
                names[record.id] = record.topic
            elif isinstance(record, Message) and names.get(record.channel_id) in topics:
                yield names[record.channel_id], record.log_time, record.data

    def _written(self, lost: Callable[[str], None]) -> Iterator[Any]:
        """Every record up to the first of no length; a damaged chunk is left out."""
        from mcap.records import Chunk
        from mcap.stream_reader import StreamReader, breakup_chunk

        with self.path.open("rb") as file:
            records = StreamReader(file, emit_chunks=True).records
            while True:
                try:
                    record = next(records, None)
                except Exception as error:
                    lost(f"{self.path} ends in the middle, after {file.tell()} bytes ({_why(error)})")
                    return
                if record is None:
                    return
                if not isinstance(record, Chunk):
                    yield record
                    continue
                try:
                    parts = breakup_chunk(record, validate_crc=True)
                except Exception as error:
                    lost(f"a stretch of {len(record.data)} bytes of {self.path} is damaged ({_why(error)})")
                    continue
                yield from parts


class _Sqlite:
    """rosbag2_storage_sqlite3's tables `topics` and `messages`."""

    def __init__(self, path: Path):
        self.path, self.repair = path, f"sqlite3 {path} .recover | sqlite3 mended.db3"

    def _connect(self) -> sqlite3.Connection:
        # A recording that was killed leaves its last messages in the -wal file, which "immutable" does not look at.
        how = "mode=ro" if self.path.with_name(self.path.name + "-wal").exists() else "immutable=1"
        return sqlite3.connect(f"file:{quote(str(self.path))}?{how}", uri=True)

    def topics(self) -> dict[str, str]:
        with closing(self._connect()) as connection:
            return dict(connection.execute("SELECT name, type FROM topics"))

    salvaged_topics = topics

    def ordered(self, topics: Collection[str]) -> Iterator[Record]:
        with closing(self._connect()) as connection:
            yield from connection.execute(
                "SELECT name, timestamp, data FROM messages JOIN topics ON topics.id = topic_id "
                f"WHERE name IN ({','.join('?' * len(topics))}) ORDER BY timestamp",
                tuple(topics),
            )

    def salvaged(self, topics: Collection[str], lost: Callable[[str], None]) -> Iterator[Record]:
        """Row by row: a damaged page takes only its own rows with it."""
        with closing(self._connect()) as connection:
            names = dict(connection.execute("SELECT id, name FROM topics"))
            row, missed, damaged = 0, 0, 0
            while missed < _MISSES:
                row += 1
                missed += 1
                try:
                    found = connection.execute(
                        "SELECT topic_id, timestamp, data FROM messages WHERE id = ?", (row,)
                    ).fetchone()
                except sqlite3.Error:
                    damaged += 1
                    continue
                if found is None:
                    continue
                if damaged:
                    lost(f"{damaged} messages in the middle of {self.path} are damaged")
                missed = damaged = 0
                if names.get(found[0]) in topics:
                    yield names[found[0]], found[1], found[2]
            if damaged:
                lost(f"the end of {self.path} is damaged or missing")


def _storages_in(folder: Path) -> list[Path]:
    """In the order in which a recorder splits: name_2 before name_10."""
    found = [path for path in folder.iterdir() if _is_storage(path)]
    return sorted(
        found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def _is_storage(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and name.removesuffix(".zstd").endswith(SUFFIXES)


def _inflated(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(raw, max_output_size=2**31 - 1)


def _why(error: Exception) -> str:
    return quoted(f"{type(error).__name__}: {error}", 200).strip("'\"")
