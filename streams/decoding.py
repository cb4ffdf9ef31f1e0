"""Decodes records of our own topics, whose schemas the registry must know: while it is away, they wait instead of being skipped."""

from __future__ import annotations

import asyncio
import logging

from schemas.codec import Codec, UndecodableRecord
from schemas.record import Record
from streams.ports import LogRecord

log = logging.getLogger(__name__)

_PAUSE_S = 1.0


async def decode_when_possible(codec: Codec, value: bytes | None) -> Record:
    """The event in the bytes. A question to the registry goes to a thread, and is asked until it answers. Raises UndecodableRecord."""
    while not codec.knows(value):
        try:
            return await asyncio.to_thread(codec.decode, value)
        except OSError as error:
            log.warning("registry_away reason=%s", error)
            await asyncio.sleep(_PAUSE_S)
    return codec.decode(value)


async def own_event(codec: Codec, record: LogRecord) -> Record | None:
    """The event of a record that only our own services and tools write; None, with a line in the log, where there is none: a bug."""
    try:
        return await decode_when_possible(codec, record.value)
    except UndecodableRecord as error:
        log.error("undecodable_internal_record place=%s/%s/%s reason=%s", record.topic, record.partition, record.offset, error)
        return None
