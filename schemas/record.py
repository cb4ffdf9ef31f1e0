"""The base of all event classes: frozen msgspec structs, to and from the plain dicts that Avro knows.

msgspec makes and converts them in C: frozen dataclasses of the same shape measured 5 times slower, which was most of a
known answer's cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

NAMESPACE = "headrace"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events and their parts."""

    @classmethod
    def schema_name(cls) -> str:
        """Full name of the class's schema, for example headrace.InferenceRequested."""
        return f"{NAMESPACE}.{cls.__name__}"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists all the way down, bytes as they are."""
        plain: dict[str, Any] = msgspec.to_builtins(self, builtin_types=(bytes,))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from decoded Avro. Raises msgspec.ValidationError where a field is missing or of the wrong type."""
        return msgspec.convert(values, cls, builtin_types=(bytes,))
