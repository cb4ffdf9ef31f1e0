"""`dead-letters`: what could not be processed, why, and sending it once more."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from infra.cli.dead_letter_box import DeadLetter

_EXAMPLES = """Examples:
  ./headrace dead-letters list -n 5 --since 2h
  ./headrace dead-letters show dead-letters/0/12
  ./headrace dead-letters replay dead-letters/0/12
  ./headrace dead-letters replay --all --since 30m"""
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Show records that could not be processed, and send them once more.")
    group.command("list", epilog=_EXAMPLES)(list_letters)
    group.command("show", epilog=_EXAMPLES)(show)
    group.command("replay", epilog=_EXAMPLES)(replay)
    app.add_typer(group, name="dead-letters", epilog=_EXAMPLES)


def age_ms(text: str) -> int:
    """Milliseconds of 90s, 30m, 2h or 7d."""
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no age: write 90s, 30m, 2h or 7d")
    return int(match[1]) * _UNITS_MS[match[2]]


Since = Annotated[str, typer.Option(help="Only those younger than this: 90s, 30m, 2h, 7d.")]
As_json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_letters(
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many of the newest.")] = 20,
    since: Since = "30d",
    as_json: As_json = False,
) -> None:
    """List the newest dead letters, newest first."""
    from infra.cli.dead_letter_box import DeadLetterBox
    from infra.cli.output import out, print_json, print_table

    age = age_ms(since)
    with DeadLetterBox.open() as box:
        letters = box.newest(number, age)
    if as_json:
        print_json([_as_object(letter) for letter in letters])
    elif letters:
        rows = [(str(x.position), _time(x.event.dead_lettered_at), x.event.code, _origin(x), x.event.reason) for x in letters]
        print_table(("dead letter", "when", "code", "origin", "reason"), rows, wrapped="reason")
    else:
        out().print(f"no dead letters in the last {since}")


def show(
    dead_letter: Annotated[str, typer.Argument(help="dead-letters/PARTITION/OFFSET, or the event's id.")],
    as_json: As_json = False,
) -> None:
    """Show a dead letter: why it is one, its headers, and its bytes or the event in them."""
    from infra.cli.dead_letter_box import DeadLetterBox
    from infra.cli.output import err, out, print_json

    with DeadLetterBox.open() as box:
        letter = box.find(dead_letter)
        decoded = box.decoded(letter)
    if as_json:
        print_json({**_as_object(letter), "decoded": None if decoded is None else decoded.to_dict()})
        return
    event, console = letter.event, out()
    facts = [
        ("dead letter", f"{letter.position}   (event id {letter.event_id})"),
        ("when", f"{_time(event.dead_lettered_at)} by {event.service}, after {event.attempts} attempt(s)"),
        ("why", f"{event.code}: {event.reason}"),
        ("remedy", event.remedy),
        ("origin", f"{_origin(letter)}, written {_time(event.origin_timestamp)}"),
        ("key", repr(event.key)),
        *((f"header {h.name}", repr(h.value)) for h in event.headers),
    ]
    for name, fact in facts:
        console.print(f"{name:<24} {fact}", markup=False)
    value = event.value or b""
    console.print(f"value ({len(value)} bytes){'' if decoded is None else ', which is ' + type(decoded).__name__}:")
    sys.stdout.write((_pretty(decoded.to_dict()) if decoded is not None else hexdump(value)) + "\n")
    if decoded is not None:
        err().print("[dim]its bytes: add --json[/]")


def replay(
    dead_letters: Annotated[list[str] | None, typer.Argument(help="Dead letters, as `list` names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All requests among the newest 1000 within --since.")] = False,
    since: Since = "30d",
) -> None:
    """Publish dead-lettered requests once more: same bytes, key and headers, and a header `replayed-from`.

    Mend the cause first, or they come back. A request whose end was told already keeps that end: its asker has read it. Records of
    other topics are not replayed, since the services make those anew from the requests.
    """
    from infra.cli.dead_letter_box import DeadLetterBox
    from infra.cli.output import mark, out

    if everything == bool(dead_letters):
        raise typer.BadParameter("name the dead letters to replay, or give --all")
    age = age_ms(since)
    with DeadLetterBox.open() as box:
        chosen = box.replayable(age) if everything else [box.find(name) for name in dead_letters or ()]
        for letter in chosen:
            box.require_replayable(letter)
        box.replay(chosen)
    for letter in chosen:
        out().print(f"{mark(True)} {letter.position} → {letter.event.origin.topic}")
    if not chosen:
        out().print(f"no dead-lettered requests in the last {since}")


def _as_object(letter: DeadLetter) -> dict[str, Any]:
    from infra.cli.trace import readable

    fields: dict[str, Any] = readable(letter.event.to_dict())
    return {"id": str(letter.position), "event_id": letter.event_id, **fields}


def _origin(letter: DeadLetter) -> str:
    origin = letter.event.origin
    return f"{origin.topic}/{origin.partition}/{origin.offset}"


def _time(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _pretty(value: Any) -> str:
    import json

    from infra.cli.trace import readable

    return json.dumps(readable(value), ensure_ascii=False, indent=1)


def hexdump(value: bytes, most: int = 512) -> str:
    """Sixteen bytes a line with their offset and what is readable of them."""
    lines = []
    for start in range(0, min(len(value), most), 16):
        part = value[start : min(start + 16, most)]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {text}")
    if len(value) > most:
        lines.append(f"… {len(value) - most} more bytes")
    return "\n".join(lines)
