"""`trace`: the whole story of one request, from the log alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streams.story import Step

_EXAMPLES = """Examples:
  ./headrace trace 01a20b78-0060-74f3-b650-c3e8c1b645ff
  ./headrace trace 01a20b78-0060-74f3-b650-c3e8c1b645ff --json | jq '.. | .worker? // empty'"""
_REPEAT = "repeat (dropped by readers)"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(trace)


def trace(
    request_id: Annotated[str, typer.Argument(help="The request's id, as `ask` and `send` print it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every record with its headers and all its fields.")] = False,
) -> None:
    """Tell what happened to a request: each event with its time, its place on the log, and the reason.

    Ids hold their time, so this reads a few seconds of a few partitions, however long the log is.
    """
    from infra.cli import connecting
    from infra.cli.log_window import LogReader
    from infra.cli.story_reader import StoryReader, started_ms
    from infra.settings import Settings
    from streams.story import tell
    from streams.topics import OPERATOR

    settings = Settings()
    codec = connecting.codec(settings)
    with LogReader(connecting.kafka_access(settings, OPERATOR)) as log:
        found = StoryReader(log, codec, int(settings.max_deadline_s * 1000)).find(request_id)
    steps = tell(found, started_ms(request_id, found), group_tokens=not as_json)
    if as_json:
        from infra.cli.output import print_json

        print_json([as_object(step) for step in steps])
    else:
        _print_story(steps)


def as_object(step: Step) -> dict[str, Any]:
    """A step with everything that its record holds. Bytes are told as text where they are text, or else in base64."""
    from streams.story import event_name

    record, event = step.first, step.records[0].event
    return {
        "since_start_ms": step.since_start_ms,
        "timestamp_ms": record.timestamp_ms,
        "event": event_name(step.records[0]),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "what": step.what,
        "repeat": step.repeat,
        "key": readable(record.key),
        "headers": {name: readable(value) for name, value in record.headers or ()},
        "fields": readable(event.to_dict()) if event is not None else readable(record.value),
    }


def readable(value: Any) -> Any:
    """JSON's types for what Avro holds."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            import base64

            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list | tuple) else value


def _print_story(steps: list[Step]) -> None:
    from infra.cli.output import err, print_table
    from streams.topics import FINALS

    rows = [_row(step) for step in steps]
    styles = ["dim" if step.repeat else "bold" if isinstance(step.records[0].event, FINALS) else "" for step in steps]
    print_table(("ms", "event", "where on the log", "what"), rows, wrapped="what", styles=styles)
    if not any(isinstance(step.records[0].event, FINALS) for step in steps):
        err().print("[yellow]no final event yet: it is under way, or the services are away (./headrace doctor)[/]")


def _row(step: Step) -> tuple[str, str, str, str]:
    first, last = step.first, step.records[-1].record
    offsets = str(first.offset) if first.offset == last.offset else f"{first.offset}…{last.offset}"
    what = f"{_REPEAT}: {step.what}" if step.repeat else step.what
    return str(step.since_start_ms), step.event, f"{first.topic}/{first.partition}/{offsets}", what
