"""Confluent wire format: a zero byte, the schema's id in the registry (4 bytes, big-endian), then the Avro record.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
confluent-kafka's own deserialiser takes one reader schema; our topics carry several events, so the framing is ours
and the registry client and Avro are libraries.
"""

from __future__ import annotations

import io
import json
import struct
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import fastavro
import fastavro.schema

from schemas.avro_writer import Writer, record_writer
from schemas.events import EVENTS
from schemas.record import Record

AVRO_DIR = Path(__file__).parent / "avro"
_FRAME = struct.Struct(">bI")
_UNKNOWN_IDS_KEPT = 10_000  # garbage can name any id; what is remembered of it stays bounded,
_UNKNOWN_FOR_S = 10.0  # and not for long, since an id that garbage named may be given to a schema later


class UndecodableRecord(ValueError):
    """The bytes are no record of ours: encode with the Confluent Avro format and a schema that the registry knows."""


class UnknownSchema(LookupError):
    """The registry does not know a schema: register it with `headrace schemas register`."""


class Registry(Protocol):
    """What the codec needs of a schema registry. Both raise UnknownSchema where there is none, and OSError when it is away."""

    def schema_by_id(self, schema_id: int) -> str: ...
    def id_of(self, subject: str, schema: str) -> int: ...


@cache
def schema_json(name: str) -> str:
    """The schema of that full name, whole: the parts that it refers to are written in."""
    loaded = fastavro.schema.load_schema(AVRO_DIR / f"{name}.avsc")
    return json.dumps(_without_marks(loaded), separators=(",", ":"))


def _without_marks(node: Any) -> Any:
    """A schema without the marks of fastavro's parser."""
    if isinstance(node, dict):
        return {k: _without_marks(v) for k, v in node.items() if not k.startswith("__")}
    return [_without_marks(item) for item in node] if isinstance(node, list) else node


@cache
def _reader(name: str) -> Any:
    return fastavro.parse_schema(json.loads(schema_json(name)))


@cache
def _writer(cls: type[Record]) -> Writer:
    return record_writer(json.loads(schema_json(cls.schema_name())))


class Codec:
    """Encodes and decodes all events. Safe to share among threads.

    `decode` may ask the registry about an id that it meets for the first time: that blocks, so call it where blocking is
    allowed or after `knows(value)`.
    """

    def __init__(self, registry: Registry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._classes = {cls.schema_name(): cls for cls in EVENTS}
        self._frames: dict[tuple[str, type[Record]], bytes] = {}
        self._writers: dict[int, tuple[type[Record], Any, Any]] = {}
        self._unknown: dict[int, tuple[str, float]] = {}  # why, and until when that is remembered
        self._lock = threading.Lock()

    def prepare(self, topic: str, *classes: type[Record]) -> None:
        """Look up the ids of what will be written to a topic, so that the first record doesn't wait."""
        for cls in classes:
            self._frame(topic, cls)

    def encode(self, topic: str, record: Record) -> bytes:
        """Bytes of a record for a topic. Raises UnknownSchema where the subject was never registered."""
        cls = type(record)
        frame = self._frames.get((topic, cls)) or self._frame(topic, cls)
        return frame + _writer(cls)(record)

    def knows(self, value: bytes | None) -> bool:
        """Whether decoding needs no question to the registry."""
        if value is None or len(value) < _FRAME.size or value[0] != 0:
            return True
        schema_id = _FRAME.unpack_from(value)[1]
        return schema_id in self._writers or self._why_unknown(schema_id) is not None

    def decode(self, value: bytes | None) -> Record:
        """The event in the bytes, in our own version of its schema.

        Raises UndecodableRecord, or OSError when the registry has to be asked and is away.
        """
        if value is None or len(value) < _FRAME.size or value[0] != 0:
            raise UndecodableRecord("not in the Confluent wire format: the first byte is not 0, or there are under 5 bytes")
        schema_id = _FRAME.unpack_from(value)[1]
        cls, writer, reader = self._writers.get(schema_id) or self._look_up(schema_id)
        buffer = io.BytesIO(value)
        buffer.seek(_FRAME.size)
        try:
            decoded = cls.from_dict(fastavro.schemaless_reader(buffer, writer, reader))
        except Exception as error:  # the bytes are anybody's: fastavro answers garbage with nearly any exception
            told = f"{type(error).__name__}: {str(error)[:200]}"  # some errors hold the whole text, which is not theirs to tell
            raise UndecodableRecord(f"not a valid {cls.__name__}: {told}") from error
        if buffer.read(1):
            raise UndecodableRecord(f"bytes are left over after a {cls.__name__}")
        return decoded

    def _look_up(self, schema_id: int) -> tuple[type[Record], Any, Any]:
        if (why := self._why_unknown(schema_id)) is not None:
            raise UndecodableRecord(why)
        try:
            writer = fastavro.parse_schema(json.loads(self._registry.schema_by_id(schema_id)))
            cls = self._classes[writer["name"]]
        except (UnknownSchema, KeyError, TypeError, ValueError, RecursionError, fastavro.schema.SchemaParseException) as error:
            why = f"schema id {schema_id} is no event of ours: {error!r}"
            with self._lock:
                if len(self._unknown) >= _UNKNOWN_IDS_KEPT:
                    self._unknown.clear()
                self._unknown[schema_id] = (why, self._monotonic() + _UNKNOWN_FOR_S)
            raise UndecodableRecord(why) from error
        entry = (cls, writer, _reader(cls.schema_name()))
        self._writers[schema_id] = entry
        return entry

    def _why_unknown(self, schema_id: int) -> str | None:
        why, until = self._unknown.get(schema_id, (None, 0.0))
        return why if why is not None and self._monotonic() < until else None

    def _frame(self, topic: str, cls: type[Record]) -> bytes:
        schema_id = self._registry.id_of(subject(topic, cls.schema_name()), schema_json(cls.schema_name()))
        frame = _FRAME.pack(0, schema_id)
        self._frames[(topic, cls)] = frame
        self._writers.setdefault(schema_id, (cls, _reader(cls.schema_name()), _reader(cls.schema_name())))
        return frame


def subject(topic: str, schema_name: str) -> str:
    """Confluent's TopicRecordNameStrategy: a topic may carry several events, each with a history of its own."""
    return f"{topic}-{schema_name}"
