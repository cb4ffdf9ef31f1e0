"""The schemas, the classes beside them, and the codec between: what is written is read, and garbage is told from it."""

from __future__ import annotations

import io
import json
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec as codec_module
from schemas import events, idempotency, knowledge
from schemas.avro_writer import record_writer
from schemas.codec import AVRO_DIR, Codec, UndecodableRecord, UnknownSchema, schema_json, subject
from schemas.events import EVENTS
from schemas.record import Record

FILES = sorted(AVRO_DIR.glob("*.avsc"))
MODULES = (events.__name__, idempotency.__name__, knowledge.__name__)
CLASSES = {cls.schema_name(): cls for cls in Record.__subclasses__() if cls.__module__ in MODULES}
PLAIN = {"string": str, "int": int, "long": int, "float": float, "double": float, "boolean": bool, "bytes": bytes, "null": types.NoneType}
POSITION = events.Position(topic="inference.requests", partition=3, offset=70_000)
GOLDEN: list[tuple[Record, str]] = [
    (
        events.InferenceRequested(
            request_id="r-1", tenant="acme", model="m", messages=(events.Message(role="user", content="hé?"),),
            parameters=events.Parameters(max_tokens=7, temperature=0.5, seed=-3, stop=("\n",)), requested_at=1_700_000_000_000,
        ),
        "0000000001" "06722d31" "0861636d65" "026d" "1067656e6572617465" "0208757365720868c3a93f00"
        "020e" "000000000000e03f" "000000000000f03f" "0205" "02020a00" "00" "00" "0e64656661756c74" "80a0abfef962" "00" "00" "00",
    ),
    (
        events.InferenceFailed(
            request_id="r-1", tenant="acme", code="c", reason="why", retryable=True, remedy="do", stage="dispatcher", epoch=2,
            requested_at=None, failed_at=1_700_000_000_001, source=POSITION,
        ),
        "0000000001" "06722d31" "0861636d65" "0263" "06776879" "01" "04646f" "1464697370617463686572" "04" "00"
        "82a0abfef962" "24696e666572656e63652e7265717565737473" "06" "e0c508",
    ),
    (
        events.TokensGenerated(request_id="r-1", epoch=1, first_index=64, token_ids=(1, 300, 0), text="a b", generated_at=5),
        "0000000001" "06722d31" "02" "8001" "0602d8040000" "06612062" "0a",
    ),
    (
        events.WorkerReported(
            worker="w-0", slot=0, incarnation=9, model="m", device="cpu", slots=4, tokens_in_flight=10, prefill_tokens_per_s=1.5,
            service_s=0.25, running=(events.RunningRequest(request_id="r-1", epoch=2),), draining=True, reported_at=-1,
        ),
        "0000000001" "06772d30" "00" "12" "026d" "06637075" "08" "14" "000000000000f83f" "000000000000d03f" "0206722d310400" "01" "01",
    ),
]  # fmt: skip


class MemoryRegistry:
    """A registry in memory: ids from 1 by subject and text; counts the questions, and can be away."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.asked: list[int] = []
        self.away = False

    def add(self, text: str) -> int:
        self.texts[len(self.texts) + 1] = text
        return len(self.texts)

    def schema_by_id(self, schema_id: int) -> str:
        self.asked.append(schema_id)
        if self.away:
            raise OSError("away")
        if schema_id not in self.texts:
            raise UnknownSchema(f"no schema {schema_id}")
        return self.texts[schema_id]

    def id_of(self, _subject: str, schema: str) -> int:
        return next((i for i, text in self.texts.items() if text == schema), None) or self.add(schema)


def full_name(name: str) -> str:
    """Of a record that a schema of our namespace refers to."""
    return name if "." in name else f"headrace.{name}"


def fits(hint: Any, node: Any) -> bool:
    """Whether a field's type in the class is its type in the schema. An optional field's default is null, so null comes first."""
    args = typing.get_args(hint)
    if isinstance(node, list):
        return node[0] == "null" and len(args) == len(node) and all(any(fits(arg, branch) for arg in args) for branch in node)
    if isinstance(node, dict):
        return typing.get_origin(hint) is tuple and args[1] is ... and fits(args[0], node["items"])
    return hint is (PLAIN[node] if node in PLAIN else CLASSES[full_name(node)])


@cache
def values_of(name: str) -> st.SearchStrategy[Any]:
    """Instances of a class, with values in the ranges that its schema allows."""
    fields = json.loads((AVRO_DIR / f"{name}.avsc").read_text())["fields"]
    return st.builds(CLASSES[name], **{f["name"]: values(f["type"]) for f in fields})


def values(node: Any) -> st.SearchStrategy[Any]:
    """Values of one type of a schema."""
    if isinstance(node, list):
        return st.one_of(*map(values, node))
    if isinstance(node, dict):
        return st.lists(values(node["items"]), max_size=3).map(tuple)
    plain: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "string": lambda: st.text(max_size=12),
        "int": lambda: st.integers(-(2**31), 2**31 - 1),
        "long": lambda: st.integers(-(2**63), 2**63 - 1),
        "float": lambda: st.floats(allow_nan=False, width=32),
        "double": lambda: st.floats(allow_nan=False),
        "boolean": st.booleans, "bytes": lambda: st.binary(max_size=12), "null": st.none,
    }  # fmt: skip
    return plain[node]() if node in plain else values_of(full_name(node))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_schema_is_documented_and_its_class_is_equal_to_it(path: Any) -> None:
    """Doc on the record and every field; names, order, types and defaults are those of the class; a new field would show here."""
    schema = json.loads(path.read_text())
    assert path.stem == f"{schema['namespace']}.{schema['name']}"
    cls = CLASSES[path.stem]
    assert schema["doc"].strip() and all(f["doc"].strip() for f in schema["fields"])
    hints, fields = typing.get_type_hints(cls), msgspec.structs.fields(cls)
    assert [f.name for f in fields] == [f["name"] for f in schema["fields"]]
    assert not [f["name"] for f in schema["fields"] if not fits(hints[f["name"]], f["type"])]
    told = [msgspec.NODEFAULT if f.required else json.loads(msgspec.json.encode(f.default)) for f in fields]
    assert told == [f.get("default", msgspec.NODEFAULT) for f in schema["fields"]]


def test_every_class_has_a_schema_and_every_event_is_listed() -> None:
    """EVENTS holds each class that no other one is made of, once; a part is not an event, except where one carries the other whole."""
    assert {p.stem for p in FILES} == set(CLASSES)
    parts = {
        "Message", "Parameters", "Position", "RunningRequest", "Header", "Question", "SemanticCheck", "Guess", "Idempotency", "Observation",
    }  # fmt: skip
    assert sorted(c.__name__ for c in EVENTS) == sorted(c.__name__ for c in CLASSES.values() if c.__name__ not in parts)


@pytest.mark.parametrize("cls", EVENTS, ids=lambda c: c.__name__)
def test_what_is_encoded_is_decoded(cls: type[Record]) -> None:
    """Any instance of any event comes back equal, through a writer and a reader that share only the registry; fastavro writes the same."""
    registry = MemoryRegistry()
    parsed = fastavro.parse_schema(json.loads(schema_json(cls.schema_name())))
    writer, reader = Codec(registry), Codec(registry)

    @settings(max_examples=40, deadline=None)
    @given(values_of(cls.schema_name()))
    def round_trip(event: Record) -> None:
        encoded, theirs = writer.encode("t", event), io.BytesIO()
        fastavro.schemaless_writer(theirs, parsed, event.to_dict())
        assert encoded[5:] == theirs.getvalue()
        assert reader.decode(encoded) == event

    round_trip()
    assert len(registry.asked) == 1, "the reader asks for a schema once"


@pytest.mark.parametrize("type_", [["string", "null"], ["null", "int", "string"], {"type": "map", "values": "int"}])
def test_a_type_without_a_writer_is_refused_when_the_writer_is_made(type_: object) -> None:
    """A new schema that uses more of Avro fails at the first use, and never writes something else."""
    with pytest.raises(ValueError, match=r"writer|union"):
        record_writer({"type": "record", "name": "R", "fields": [{"name": "a", "type": type_}]})


@pytest.mark.parametrize(("event", "golden"), GOLDEN, ids=lambda v: type(v).__name__ if isinstance(v, Record) else "")
def test_wire_format_is_pinned(event: Record, golden: str) -> None:
    """The very bytes and the subject's name (TopicRecordNameStrategy): what lies on the log must stay readable, by others too."""
    assert Codec(MemoryRegistry()).encode("t", event).hex() == golden
    assert subject("inference.requests", event.schema_name()) == f"inference.requests-headrace.{type(event).__name__}"


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_decoded_or_undecodable(tail: bytes) -> None:
    """Garbage under a known schema never raises anything else, and is never taken for a shorter record."""
    registry = MemoryRegistry()
    codec = Codec(registry)
    for cls in EVENTS:
        schema_id = registry.id_of("", schema_json(cls.schema_name()))
        try:
            event = codec.decode(b"\0" + schema_id.to_bytes(4, "big") + tail)
        except UndecodableRecord:
            continue
        assert isinstance(event, cls)


@pytest.mark.parametrize("value", [None, b"", b"\0", b"\0\0\0\0", b"\x01\0\0\0\x01\0", b'{"request_id": 1}', b"\xff" * 9])
def test_what_is_not_framed_is_undecodable_without_a_question(value: bytes | None) -> None:
    """Short, or another magic byte: known without the registry."""
    registry = MemoryRegistry()
    codec = Codec(registry)
    assert codec.knows(value)
    with pytest.raises(UndecodableRecord):
        codec.decode(value)
    assert not registry.asked


def test_damaged_records_are_undecodable() -> None:
    """Every truncation, a byte too many, and a union index that the schema lacks."""
    codec = Codec(MemoryRegistry())
    for event, _ in GOLDEN:
        whole = codec.encode("t", event)
        for broken in (*(whole[:n] for n in range(5, len(whole))), whole + b"\0"):
            with pytest.raises(UndecodableRecord):
                codec.decode(broken)
    whole = codec.encode("t", GOLDEN[0][0])
    for index in (b"\x04", b"\x01", b"\x7f"):  # its last byte says that deadline_at is null
        with pytest.raises(UndecodableRecord):
            codec.decode(whole[:-1] + index)


def test_an_unknown_id_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered as unknown, so garbage doesn't occupy the registry; what is remembered is little, and not for long."""
    monkeypatch.setattr(codec_module, "_UNKNOWN_IDS_KEPT", 3)
    registry, now_s = MemoryRegistry(), [0.0]
    codec = Codec(registry, lambda: now_s[0])
    for now_s[0], ids in ((0.0, (7, 7, 8, 8, 9, 9)), (60.0, (7, 7, *range(10, 40)))):
        for schema_id in ids:
            with pytest.raises(UndecodableRecord, match=f"schema id {schema_id}"):
                codec.decode(b"\0" + schema_id.to_bytes(4, "big"))
            assert sum(codec.knows(b"\0" + i.to_bytes(4, "big")) for i in range(50)) <= 3
    assert registry.asked == [7, 8, 9, 7, *range(10, 40)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "record", "name": "Order", "namespace": "shop", "fields": []}),
        json.dumps({"type": "record", "name": "InferenceRequested", "fields": []}),
        json.dumps("string"), json.dumps(["null", "string"]), json.dumps({"type": "map", "values": "long"}),
        json.dumps({"type": "record", "name": "headrace.Message", "fields": [{"name": "a", "type": "nowhere.B"}]}),
        json.dumps({"type": "record", "name": "headrace.Position", "fields": []}), "", "null", "not json", '{"type": "record"}',
    ],
)  # fmt: skip
def test_schemas_of_other_people_are_undecodable(text: str) -> None:
    """A record of another name, a part instead of an event, no record at all, or no schema at all: asked once, never read."""
    registry = MemoryRegistry()
    codec, frame = Codec(registry), b"\0" + registry.add(text).to_bytes(4, "big")
    for _ in range(2):
        with pytest.raises(UndecodableRecord):
            codec.decode(frame)
    assert registry.asked == [1]


def test_a_registry_that_is_away_makes_nothing_unknown() -> None:
    """The error is passed on, and the same record is decoded when the registry is back."""
    registry = MemoryRegistry()
    event = GOLDEN[2][0]
    value = Codec(registry).encode("t", event)
    codec, registry.away = Codec(registry), True
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            codec.decode(value)
        assert not codec.knows(value)
    registry.away = False
    assert codec.decode(value) == event
