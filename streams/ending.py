"""An error that nobody expected ends the process: its successor starts from the log, which is better than half a service."""

from __future__ import annotations

import asyncio
import logging
import os

log = logging.getLogger(__name__)

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h


def end_process(error: BaseException) -> None:
    """Say why, and leave at once: whatever was not acknowledged is done again by the successor."""
    log.critical("unexpected_error_ends_process", exc_info=error)
    os._exit(EXIT_STATUS)


def end_process_on_error(task: asyncio.Task[None]) -> None:
    """As a task's done-callback: an exception that would otherwise be lost ends the process."""
    if not task.cancelled() and (error := task.exception()) is not None:
        end_process(error)
