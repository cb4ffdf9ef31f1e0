"""Ids: UUIDv7 for requests (RFC 9562), and ids of derived events that come out the same however often they are made."""

from __future__ import annotations

import secrets
import time
import uuid

_NAMESPACE = uuid.UUID("5f0d6a1e-8a4b-5c52-9d5e-7f1c2b3a4d5e")


def uuid7(now_ms: int | None = None, random_bits: int | None = None) -> str:
    """A new UUIDv7: 48 bits of time in ms, then 74 random bits. Both can be given, so that a test owns them."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    bits = secrets.randbits(74) if random_bits is None else random_bits
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (bits >> 62 & 0xFFF) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def uuid7_ms(value: str) -> int:
    """When a UUIDv7 was made, in ms since the epoch. Raises ValueError for anything that is no UUIDv7."""
    parsed = uuid.UUID(value)
    if parsed.version != 7:
        raise ValueError(f"{value} is no UUIDv7 (its version is {parsed.version})")
    return parsed.int >> 80


def derived_event_id(topic: str, partition: int, offset: int, ordinal: int = 0) -> str:
    """Id of the ordinal-th event derived from one record: the same after every restart, so that repeats can be told."""
    return str(uuid.uuid5(_NAMESPACE, f"{topic}/{partition}/{offset}/{ordinal}"))


def final_event_id(tenant: str, request_id: str) -> str:
    """Id of a request's final event, whatever tier, worker or sweeper made it: the first on the log is the truth."""
    return str(uuid.uuid5(_NAMESPACE, f"{tenant}/{request_id}/final"))


def named_event_id(request_id: str, *parts: str | int) -> str:
    """Id of an event that a request can have only once per `parts`, such as ("dispatched", epoch)."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(map(str, (request_id, *parts)))))
