"""`feedback`: says whether an answer was right. What is confirmed or corrected may be learned from; what is not never is."""

from __future__ import annotations

import getpass
import sys
import time
from typing import Annotated

import typer

from streams.errors import PoisonError

_EXAMPLES = """Examples:
  ./headrace feedback REQUEST_ID --right
  ./headrace feedback REQUEST_ID --wrong
  ./headrace feedback REQUEST_ID --wrong --correction balance"""


class BadFeedback(PoisonError):
    """The feedback says nothing, or contradicts itself: correct the command as the message says."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(feedback)


def feedback(
    request_id: Annotated[str, typer.Argument(help="The id that `ask` and `send` print with the answer.")],
    *,
    right: Annotated[bool, typer.Option("--right/--wrong", help="Whether the answer was right.", show_default=False)],
    correction: Annotated[str, typer.Option(help="With --wrong: what would have been right, as the label it should be.")] = "",
    by: Annotated[str, typer.Option(help="Who says so; empty for your user name.")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the request; empty for the first one of the settings.")] = "",
) -> None:
    """Say whether the answer to a request was right."""
    from infra.cli import connecting
    from infra.settings import Settings
    from schemas.ids import uuid7_ms
    from schemas.knowledge import FeedbackGiven

    try:
        uuid7_ms(request_id)
    except ValueError as error:
        raise BadFeedback("bad_request_id", f"{request_id!r} is no request id: {error}", "copy the id that ask printed") from error
    if right and correction:
        raise BadFeedback("contradiction", "what was right needs no correction", "leave out --correction, or say --wrong")
    settings = Settings()
    event = FeedbackGiven(
        request_id=request_id, tenant=tenant or settings.tenants[0], right=right, correction=correction.strip() or None,
        given_by=by or getpass.getuser(), given_at=time.time_ns() // 1_000_000,
    )  # fmt: skip
    client = connecting.request_client(settings, event.tenant)
    try:
        client.give_feedback(event)
        client.flush()
    finally:
        client.close()
    corrected = f", right would be {event.correction!r}" if event.correction else ""
    sys.stdout.write(f"noted for {request_id}: {'right' if right else 'wrong'}{corrected}\n")
