"""Reads a prompts file: one prompt a line, as a JSON string or an object. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from infra.cli.ask import Asked
from streams.errors import PoisonError

_PARAMETERS: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,), "temperature": (int, float), "top_p": (int, float), "seed": (int,), "stop": (str, list),
    "labels": (list,),
}  # fmt: skip
_FIELDS = {"id", "prompt", "messages", "task", "model", "system", "cache", "tenant", "deadline_s", "parameters", "idempotency_key"}


class BadLine(PoisonError):
    """A line of a prompts file can't be a request: correct it as the message says, or leave out --strict to skip such lines."""

    def __init__(self, number: int, reason: str) -> None:
        remedy = 'write {"prompt": "…"}, {"messages": [{"role": "user", "content": "…"}]} or a JSON string on each line'
        super().__init__("bad_line", f"line {number}: {reason}", remedy)
        self.number = number


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line that can be sent. `id` is its own, or else the line's number."""

    number: int
    id: str
    asked: Asked
    turns: tuple[tuple[str, str], ...]


def read_prompts(lines: Iterable[str], defaults: Asked) -> Iterator[Prompt | BadLine]:
    """Each line as a prompt or as what is wrong with it; empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield read_prompt(number, line, defaults)
        except BadLine as error:
            yield error


def read_prompt(number: int, line: str, defaults: Asked) -> Prompt:
    """One line; what it doesn't say comes from the defaults. Raises BadLine."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadLine(number, f"no valid JSON: {error}") from error
    fields: dict[str, Any] = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        raise BadLine(number, "neither a JSON object nor a string")
    if unknown := fields.keys() - _FIELDS:
        raise BadLine(number, f"unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(_FIELDS))}")
    return Prompt(number, str(fields.get("id", number)), _asked(number, fields, defaults), _turns(number, fields))


def _turns(number: int, fields: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if ("prompt" in fields) == ("messages" in fields):
        raise BadLine(number, "one of prompt and messages is needed, not both")
    if "prompt" in fields:
        if not isinstance(fields["prompt"], str):
            raise BadLine(number, "prompt is no string")
        return (("user", fields["prompt"]),)
    turns = []
    for message in fields["messages"] if isinstance(fields["messages"], list) else [None]:
        match message:
            case {"role": str(role), "content": str(content)}:
                turns.append((role, content))
            case _:
                raise BadLine(number, 'messages is no list of {"role": "…", "content": "…"}')
    if not turns:
        raise BadLine(number, "messages is empty")
    return tuple(turns)


def _asked(number: int, fields: dict[str, Any], defaults: Asked) -> Asked:
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadLine(number, "parameters is no object")
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        kinds = _PARAMETERS.get(name)
        if kinds is None:
            raise BadLine(number, f"unknown parameter {name!r}; known are {', '.join(_PARAMETERS)}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise BadLine(number, f"parameter {name} is of the wrong type: {value!r}")
        values[name] = value
    if "stop" in values:
        values["stop"] = (values["stop"],) if isinstance(values["stop"], str) else tuple(map(str, values["stop"]))
    if "labels" in values:
        values["labels"] = tuple(map(str, values["labels"]))
    for name in ("task", "model", "system", "cache", "tenant", "idempotency_key"):
        if name in fields:
            if not isinstance(fields[name], str):
                raise BadLine(number, f"{name} is no string")
            values[name] = fields[name]
    if "deadline_s" in fields:
        if not isinstance(fields["deadline_s"], int | float):
            raise BadLine(number, "deadline_s is no number")
        values["deadline_s"] = float(fields["deadline_s"])
    return replace(defaults, **values)
