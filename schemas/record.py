"""The base of all event classes: from and to the plain dicts that Avro knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

NAMESPACE = "headrace"


class Record:
    """Base of all events and their parts. Subclasses are frozen dataclasses."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def schema_name(cls) -> str:
        """Full name of the class's schema, for example headrace.InferenceRequested."""
        return f"{NAMESPACE}.{cls.__name__}"

    def to_dict(self) -> dict[str, Any]:
        kind: Any = type(self)  # Any, since mypy takes the instances' hash for the class's
        return {name: plain(getattr(self, name)) for name, plain in _plainers(kind)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from decoded Avro. Raises TypeError or KeyError where a field is missing or of the wrong shape."""
        kind: Any = cls
        return cls(**{name: build(values[name]) for name, build in _builders(kind) if name in values})


def _same(value: Any) -> Any:
    return value


@cache
def _plainers(cls: type[Record]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """For each field, how its value becomes plain; worked out once per class, since this runs for every record."""
    hints = get_type_hints(cls)
    return tuple((f.name, _plainer(hints[f.name])) for f in fields(cls))


def _plainer(hint: Any) -> Callable[[Any], Any]:
    inner = _record_in(hint)
    if inner is None:
        return list if get_origin(hint) is tuple else _same
    if get_origin(hint) is tuple:
        return lambda items: [item.to_dict() for item in items]
    return lambda item: None if item is None else item.to_dict()


@cache
def _builders(cls: type[Record]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = get_type_hints(cls)
    return tuple((f.name, _builder(hints[f.name])) for f in fields(cls))


def _builder(hint: Any) -> Callable[[Any], Any]:
    inner = _record_in(hint)
    if inner is None:
        return tuple if get_origin(hint) is tuple else _same
    if get_origin(hint) is tuple:
        return lambda items: tuple(inner.from_dict(item) for item in items)
    return lambda item: None if item is None else inner.from_dict(item)


def _record_in(hint: Any) -> type[Record] | None:
    """The record class that a field's type holds, alone, optional or in a tuple."""
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and issubclass(candidate, Record):
            return candidate
    return None
