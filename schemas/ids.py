"""Ids: UUIDv7 for requests (RFC 9562), and ids of derived events that come out the same however often they are made."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid

_NAMESPACE = uuid.UUID("5f0d6a1e-8a4b-5c52-9d5e-7f1c2b3a4d5e").bytes
_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)


def uuid7(now_ms: int | None = None, random_bits: int | None = None) -> str:
    """A new UUIDv7: 48 bits of time in ms, then 74 random bits. Both can be given, so that a test owns them."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    bits = secrets.randbits(74) if random_bits is None else random_bits
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (bits >> 62 & 0xFFF) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def uuid7_ms(value: str) -> int:
    """When a UUIDv7 was made, in ms since the epoch. Raises ValueError for anything that is no UUIDv7."""
    match = _UUID7.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:80]!r} is no UUIDv7")
    return int(match[1] + match[2], 16)


def derived_event_id(topic: str, partition: int, offset: int, ordinal: int = 0) -> str:
    """Id of the ordinal-th event derived from one record: the same after every restart, so that repeats can be told."""
    return _uuid5(f"{topic}/{partition}/{offset}/{ordinal}")


def final_event_id(tenant: str, request_id: str) -> str:
    """Id of a request's final event, whatever tier, worker or sweeper made it: the first on the log is the truth."""
    return _uuid5(f"{tenant}/{request_id}/final")


def named_event_id(request_id: str, *parts: str | int) -> str:
    """Id of an event that a request can have only once per `parts`, such as ("dispatched", epoch)."""
    return _uuid5("/".join(map(str, (request_id, *parts))))


def _uuid5(name: str) -> str:
    """uuid.uuid5 as text (RFC 9562, 5.5), without the objects in between: it runs once or more for every record."""
    digest = hashlib.sha1(_NAMESPACE + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
