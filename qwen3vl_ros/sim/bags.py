"""The messages of a rosbag2, in the order of their recording, also of one that is damaged or was cut off.

A folder with or without its metadata.yaml, or a single .mcap or .db3 file; compressed by message or by file. What cannot
be read is told with the command that repairs it, and reading goes on behind it. Needs no ROS: storage is read by `mcap`
and SQLite, messages are decoded by `rosbags`. Knows nothing of pictures.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qwen3vl_ros.sim.recorded import Losses
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
    """topics: {name: type}. losses is told of everything that cannot be read; it may raise to end the reading.

    Use it as a context manager. Raises InvalidInput where nothing can be read at all.
    """

    def __init__(self, path: Path, losses: Losses):
        self.path, self._losses = path, losses
        self._unpacked: tempfile.TemporaryDirectory | None = None
        files = [path] if path.is_file() else _storages_in(path)
        try:
            from rosbags.typesys import Stores, get_typestore

            self._storages = [self._storage(file) for file in files]
        except ImportError as error:
            raise InvalidInput(f"{path} is a rosbag2, which needs `pip install rosbags mcap`: {error}") from error
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            losses.warn(
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
        if self._unpacked:
            self._unpacked.cleanup()

    def first(self, topic: str) -> Any | None:
        """The first message of a topic that can be read, None without one. What cannot be is told by `messages`."""
        return next((message for _, _, message in self._decoded([topic], Losses(lambda _: None))), None)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, nanoseconds of the recorder's clock, message) of these topics."""
        return self._decoded(topics, self._losses)

    def _decoded(self, topics: Collection[str], losses: Losses) -> Iterator[tuple[str, int, Any]]:
        for storage in self._storages:
            for topic, logged_ns, raw in self._records(storage, topics, losses):
                try:
                    raw = _inflated(raw) if bytes(raw[:4]) == _ZSTD else raw
                    message = self._types.deserialize_cdr(raw, self.topics[topic])
                except Exception as error:  # whatever a decoder raises on damaged bytes
                    losses.lose(f"a message of {topic} in {storage.name} cannot be read ({_why(error)})")
                    continue
                yield topic, logged_ns, message

    def _records(self, storage: _Storage, topics: Collection[str], losses: Losses) -> Iterator[Record]:
        """In the order of their times; from the first damage on, in the order in which they were written."""
        last_ns, damages = -1, []
        for record in _until_damage(storage.ordered(topics), damages):
            last_ns = record[1]
            yield record
        if damages:
            losses.warn(storage.damage(damages[0]))
            for record in _until_damage(storage.salvaged(topics, losses), damages):
                if record[1] > last_ns:
                    yield record
        if len(damages) > 1:
            losses.lose(storage.damage(damages[1]))

    def _topics_of(self, storage: _Storage) -> dict[str, str]:
        try:
            return storage.topics()
        except Exception as error:
            try:
                found = storage.salvaged_topics()
            except Exception:
                found = {}
            if not found:
                raise InvalidInput(f"rosbag2 cannot be read: {storage.damage(error)}") from error
            self._losses.warn(storage.damage(error))
            return found

    def _storage(self, path: Path) -> _Storage:
        unpacked = path
        if path.suffix == ".zstd":
            import zstandard

            self._unpacked = self._unpacked or tempfile.TemporaryDirectory(prefix="bag_")
            unpacked = Path(self._unpacked.name) / path.stem
            try:
                with path.open("rb") as packed, unpacked.open("wb") as out:
                    shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(packed), out)
            except (OSError, zstandard.ZstdError) as error:
                self._losses.warn(f"{path} is damaged or cut off ({_why(error)}); `zstd -d {path}` unpacks what it can")
        return (_Mcap if unpacked.suffix == ".mcap" else _Sqlite)(unpacked, path)


class _Storage:
    """One file of a bag. path: where it is read, which for a packed one is not where it is, `name`."""

    repair: str

    def __init__(self, path: Path, name: Path):
        self.path, self.name = path, name

    def damage(self, error: Exception) -> str:
        return f"{self.name} is damaged or cut off ({_why(error)}); `{self.repair.format(self.name)}` repairs it"


class _Mcap(_Storage):
    """https://mcap.dev/spec"""

    repair = "mcap recover {} -o mended.mcap"

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

        records = [r for r in self._written(Losses(lambda _: None)) if isinstance(r, (Channel, Schema))]
        names = {r.id: r.name for r in records if isinstance(r, Schema)}
        return {r.topic: names[r.schema_id] for r in records if isinstance(r, Channel) and r.schema_id in names}

    def salvaged(self, topics: Collection[str], losses: Losses) -> Iterator[Record]:
        from mcap.records import Channel, Message

        names: dict[int, str] = {}
        for record in self._written(losses):
            if isinstance(record, Channel):
                names[record.id] = record.topic
            elif isinstance(record, Message) and names.get(record.channel_id) in topics:
                yield names[record.channel_id], record.log_time, record.data

    def _written(self, losses: Losses) -> Iterator[Any]:
        """Every record up to the first of no length; a damaged chunk is left out."""
        from mcap.records import Chunk
        from mcap.stream_reader import StreamReader, breakup_chunk

        with self.path.open("rb") as file:
            records = StreamReader(file, emit_chunks=True).records
            while True:
                try:
                    record = next(records, None)
                except Exception as error:
                    losses.lose(f"{self.name} ends in the middle, after {file.tell()} bytes ({_why(error)})")
                    return
                if record is None:
                    return
                if not isinstance(record, Chunk):
                    yield record
                    continue
                try:
                    parts = breakup_chunk(record, validate_crc=True)
                except Exception as error:
                    losses.lose(f"a stretch of {len(record.data)} bytes of {self.name} is damaged ({_why(error)})")
                    continue
                yield from parts


class _Sqlite(_Storage):
    """rosbag2_storage_sqlite3's tables `topics` and `messages`."""

    repair = "sqlite3 {} .recover | sqlite3 mended.db3"

    def _connect(self, forgiving: bool = False) -> sqlite3.Connection:
        # A recording that was killed leaves its last messages in the -wal file, which "immutable" does not look at.
        how = "mode=ro" if self.path.with_name(self.path.name + "-wal").exists() else "immutable=1"
        connection = sqlite3.connect(f"file:{quote(str(self.path))}?{how}", uri=True)
        if forgiving:  # a file shorter than its header says is otherwise refused whole
            connection.execute("PRAGMA writable_schema=ON")
        return connection

    def topics(self, forgiving: bool = False) -> dict[str, str]:
        with closing(self._connect(forgiving)) as connection:
            return dict(connection.execute("SELECT name, type FROM topics"))

    def salvaged_topics(self) -> dict[str, str]:
        return self.topics(forgiving=True)

    def ordered(self, topics: Collection[str]) -> Iterator[Record]:
        with closing(self._connect()) as connection:
            yield from connection.execute(
                "SELECT name, timestamp, data FROM messages JOIN topics ON topics.id = topic_id "
                f"WHERE name IN ({','.join('?' * len(topics))}) ORDER BY timestamp",
                tuple(topics),
            )

    def salvaged(self, topics: Collection[str], losses: Losses) -> Iterator[Record]:
        """Row by row: a damaged page takes only its own rows with it."""
        with closing(self._connect(forgiving=True)) as connection:
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
                    losses.lose(f"{damaged} messages in the middle of {self.name} are damaged")
                missed = damaged = 0
                if names.get(found[0]) in topics:
                    yield names[found[0]], found[1], found[2]
            if damaged:
                losses.lose(f"the end of {self.name} is damaged or missing")


def _until_damage(records: Iterator[Record], damages: list[Exception]) -> Iterator[Record]:
    """Whatever a reader raises on damaged bytes ends it and goes into `damages`."""
    try:
        yield from records
    except InvalidInput:
        raise
    except Exception as error:
        damages.append(error)


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
    return quoted(f"{type(error).__name__}: {error}".rstrip(": "), 150).strip("'\"")
