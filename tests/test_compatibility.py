"""Schemas may change only so that every version reads what every other one wrote; and what that means for the codec."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings

from schemas.codec import Codec, UndecodableRecord, schema_json
from schemas.compatibility import breakages
from schemas.events import EVENTS
from schemas.record import Record
from tests.test_schemas import MemoryRegistry, values_of


def record(*fields: dict[str, Any], name: str = "headrace.Event") -> str:
    """A record's schema."""
    return json.dumps({"type": "record", "name": name, "fields": list(fields)})


def fixed(size: int) -> dict[str, Any]:
    """A field of so many bytes."""
    return {"name": "f", "type": {"type": "fixed", "name": "Digest", "size": size}}


def enum(*symbols: str) -> dict[str, Any]:
    """A field with so many symbols."""
    return {"name": "e", "type": {"type": "enum", "name": "Tier", "symbols": list(symbols)}}


A = {"name": "a", "type": "string"}
B = {"name": "b", "type": "int"}
B_DEFAULT = {**B, "default": 0}
C_DEFAULT = {"name": "c", "type": {"type": "array", "items": "string"}, "default": []}
OPTIONAL = {**A, "type": ["null", "string"]}
MORE = {**A, "type": ["null", "string", "int"]}
NO_DEFAULT = "reader_field_missing_default_value"
READ, BE_READ = "cannot read what was written with", "cannot be read by"


@pytest.mark.parametrize(
    ("old", "new", "directions", "told"),
    [
        (record(A), record(A, B), [READ], (NO_DEFAULT, "/fields/1", "give the field a default")),
        (record(A, B), record(A), [BE_READ], (NO_DEFAULT, "/fields/1", "only fields with a default can come and go")),
        (record(A, B), record(A, {**B, "name": "bb"}), [READ, BE_READ], (NO_DEFAULT, "/fields/1", "keep it")),
        (record(A), record({**A, "type": "int"}), [READ, BE_READ], ("type_mismatch", "/fields/0/type", "keep the field's type")),
        (record(A, B), record(A, {**B, "type": "long"}), [BE_READ], ("type_mismatch", "/fields/1/type", "add a new field with a default")),
        (record(OPTIONAL), record(A), [READ], ("type_mismatch", "/", "keep the field's type")),
        (record(OPTIONAL), record(MORE), [BE_READ], ("missing_union_branch", "/fields/0/type/2", "keep every branch")),
        (record(enum("X", "Y")), record(enum("X")), [READ], ("missing_enum_symbols", "/fields/0/type/symbols", "keep the symbol")),
        (record(fixed(16)), record(fixed(20)), [READ, BE_READ], ("fixed_size_mismatch", "/fields/0/type/size", "keep the size")),
        (record(A), record(A, name="headrace.Other"), [READ, BE_READ], ("name_mismatch", "/name", "keep the record's name")),
    ],
    ids=["added", "removed", "renamed", "retyped", "widened", "no longer null", "branch", "symbol", "size", "name"],
)
def test_each_breaking_change_is_told_with_its_place_reason_and_remedy(
    old: str, new: str, directions: list[str], told: tuple[str, str, str]
) -> None:
    """Which way it breaks, where in the schema, why, and what to do instead."""
    found = breakages(new, [old])
    assert [b.direction for b in found] == directions
    for breakage in found:
        assert breakage.version == 1
        kind, where, remedy = told
        assert kind in breakage.reason
        assert where in breakage.where.split(", ")
        assert remedy in breakage.remedy
        assert str(breakage).startswith(f"{breakage.direction} version 1 at {breakage.where}: {breakage.reason}")


def test_fields_with_a_default_come_and_go() -> None:
    """Added, removed and brought back: each version against all before it."""
    versions = [record(A), record(A, B_DEFAULT), record(A, B_DEFAULT, C_DEFAULT), record(C_DEFAULT, A), record(A)]
    for at, version in enumerate(versions):
        assert breakages(version, versions[:at]) == []


def test_history_counts_as_a_whole() -> None:
    """A version that suits its predecessor but not the first one is refused, and the first one is named."""
    first, second = record(A, B), record(A, B_DEFAULT)
    assert breakages(second, [first]) == []
    found = breakages(record(A), [first, second])
    assert [(b.version, b.direction) for b in found] == [(1, BE_READ)]
    assert breakages(record(A), [second]) == []
    assert breakages(record(A), []) == []


def test_several_breaks_are_told_at_once() -> None:
    """So that nobody has to try again and again."""
    found = breakages(record({**A, "type": "int"}, B), [record(A)])
    assert {b.direction for b in found} == {READ, BE_READ}
    both = next(b for b in found if b.direction == READ)
    assert "/fields/0/type" in both.where
    assert "/fields/1" in both.where
    assert "keep the field's type" in both.remedy
    assert "give the field a default" in both.remedy


@pytest.mark.parametrize("cls", EVENTS, ids=lambda c: c.__name__)
def test_present_schemas_suit_themselves(cls: type[Record]) -> None:
    """Registering the same again is no change; without its fields that have defaults it still suits."""
    text = schema_json(cls.schema_name())
    schema = json.loads(text)
    fewer = json.dumps({**schema, "fields": [f for f in schema["fields"] if "default" not in f]})
    assert breakages(text, [text, fewer, text]) == []


def written(schema: str, values: dict[str, Any], schema_id: int) -> bytes:
    """A record as a writer with that schema frames it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(json.loads(schema)), values)
    return b"\0" + schema_id.to_bytes(4, "big") + buffer.getvalue()


@pytest.mark.parametrize("cls", EVENTS, ids=lambda c: c.__name__)
def test_other_versions_are_read_by_the_present_class(cls: type[Record]) -> None:
    """A writer that lacks every field with a default, and has one we don't know, is understood: defaults fill in."""
    registry = MemoryRegistry()
    schema = json.loads(schema_json(cls.schema_name()))
    extra = {"name": "later", "type": "string", "default": "", "doc": "Not known here."}
    other = {**schema, "fields": [extra, *(f for f in schema["fields"] if "default" not in f)]}
    schema_id = registry.add(json.dumps(other))

    @settings(max_examples=10, deadline=None)
    @given(values_of(cls.schema_name()))
    def is_read(event: Record) -> None:
        read = Codec(registry).decode(written(json.dumps(other), {**event.to_dict(), "later": "x"}, schema_id))
        required = {f.name for f in msgspec.structs.fields(cls) if f.required}
        assert read == cls(**{name: value for name, value in msgspec.structs.asdict(event).items() if name in required})

    is_read()


def test_another_schema_of_the_same_name_is_undecodable() -> None:
    """Somebody's own headrace.GenerationMoved with other fields can't be resolved to ours: it is refused, not guessed at."""
    registry = MemoryRegistry()
    other = json.dumps({"type": "record", "name": "headrace.GenerationMoved", "fields": [{"name": "request_id", "type": "long"}]})
    with pytest.raises(UndecodableRecord, match="not a valid GenerationMoved"):
        Codec(registry).decode(written(other, {"request_id": 1}, registry.add(other)))


