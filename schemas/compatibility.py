"""FULL_TRANSITIVE compatibility: any version of a schema can read what any other version wrote, both ways, over all history.

The rules are the Avro specification's ("Schema Resolution"), checked by Apache Avro's own library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

_REMEDIES = {
    "reader_field_missing_default_value": "give the field a default, or keep it: only fields with a default can come and go",
    "type_mismatch": "keep the field's type, and add a new field with a default for the new type",
    "missing_enum_symbols": "keep the symbol",
    "missing_union_branch": "keep every branch of the union",
    "name_mismatch": "keep the record's name, or register it as a new event",
    "fixed_size_mismatch": "keep the size, and add a new field with a default",
}


@dataclass(frozen=True, slots=True)
class Breakage:
    """One reason why two versions can't read each other. `where` is a path into the schema, such as /fields/3/type."""

    version: int
    direction: str
    where: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.direction} version {self.version} at {self.where}: {self.reason} -> {self.remedy}"


def breakages(candidate: str, history: Sequence[str]) -> list[Breakage]:
    """All reasons why `candidate` is not FULL_TRANSITIVE with the versions in `history` (JSON, oldest first); [] if it is."""
    new = parse(candidate)
    found: list[Breakage] = []
    for version, text in enumerate(history, 1):
        old = parse(text)
        found += _one_way(new, old, version, "cannot read what was written with")
        found += _one_way(old, new, version, "cannot be read by")
    return found


def _one_way(reader: object, writer: object, version: int, direction: str) -> list[Breakage]:
    result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    kinds = sorted(kind.value for kind in result.incompatibilities)
    remedy = "; ".join(dict.fromkeys(_REMEDIES.get(kind, f"undo the change ({kind})") for kind in kinds))
    where, reason = ", ".join(sorted(result.locations)), ", ".join(sorted(result.messages))
    return [Breakage(version, direction, where, f"{reason} ({', '.join(kinds)})", remedy)]
