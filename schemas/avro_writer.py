"""Writes Avro's binary encoding of our records, straight from their attributes.

https://avro.apache.org/docs/1.12.0/specification/#binary-encoding. fastavro looks at the schema anew for each value and tries the
branches of each union, which was 40% of what a known answer cost; these writers are put together once for a schema. Only what our
schemas use is here, and a test holds the bytes equal to fastavro's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any

Writer = Callable[[Any], bytes]


def record_writer(schema: dict[str, Any], named: dict[str, Writer] | None = None) -> Writer:
    """A function from an object with the record's fields as attributes to bytes. Raises ValueError for a type that is not known here."""
    known: dict[str, Writer] = {} if named is None else named
    fields = [(field["name"], _writer(field["type"], known)) for field in schema["fields"]]
    names, writers = [name for name, _ in fields], [writer for _, writer in fields]
    values: Callable[[Any], Any] = attrgetter(*names)

    def write(record: Any) -> bytes:
        return b"".join([writer(value) for writer, value in zip(writers, values(record), strict=True)])

    def write_only(record: Any) -> bytes:  # attrgetter of one name gives no tuple
        return writers[0](values(record))

    writer = known[schema["name"]] = write_only if len(names) == 1 else write
    return writer


def _writer(schema: Any, known: dict[str, Writer]) -> Writer:
    if isinstance(schema, str):
        if schema in _PLAIN:
            return _PLAIN[schema]
        return known[schema]
    if isinstance(schema, list):
        if len(schema) != 2 or schema[0] != "null":
            raise ValueError(f"a union that is not of null and one other type: {schema}")
        return _nullable(_writer(schema[1], known))
    if schema["type"] == "record":
        return record_writer(schema, known)
    if schema["type"] == "array":
        return _array(_writer(schema["items"], known))
    raise ValueError(f"no writer for {schema['type']!r}")


@lru_cache(maxsize=4096)  # lengths, and times that a batch has in common
def _long(value: int) -> bytes:
    """Zigzag, then 7 bits a byte, the lowest first."""
    left = (value << 1) ^ (value >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def _string(value: str) -> bytes:
    encoded = value.encode()
    return _long(len(encoded)) + encoded


def _boolean(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _nullable(write: Writer) -> Writer:
    def write_nullable(value: Any) -> bytes:
        return b"\0" if value is None else b"\2" + write(value)

    return write_nullable


def _array(write: Writer) -> Writer:
    def write_array(values: Any) -> bytes:
        return _long(len(values)) + b"".join([write(value) for value in values]) + b"\0" if values else b"\0"

    return write_array


_PLAIN: dict[str, Writer] = {
    "int": _long, "long": _long, "string": _string, "bytes": _bytes, "boolean": _boolean, "float": struct.Struct("<f").pack,
    "double": struct.Struct("<d").pack,
}  # fmt: skip
