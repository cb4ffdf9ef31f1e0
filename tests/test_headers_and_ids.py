"""Record headers and ids: what is written is read, what is hostile counts as absent, and ids come out the same every time."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from schemas.events import Position
from schemas.headers import RecordHeaders
from schemas.ids import derived_event_id, final_event_id, named_event_id, uuid7, uuid7_ms

NAMESPACE = uuid.UUID("5f0d6a1e-8a4b-5c52-9d5e-7f1c2b3a4d5e")
NAMES = ("event", "event-id", "causation-id", "correlation-id", "tenant", "traceparent", "deadline", "reply-to")
HEX = "0123456789abcdef"
WORDS = st.text(min_size=0, max_size=20)
TRACES = st.builds(
    lambda trace, span: f"00-{trace}-{span}-01", st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16)
)
TOPICS = st.text(min_size=1, max_size=20)
POSITIONS = st.builds(Position, topic=TOPICS, partition=st.integers(0, 99_999), offset=st.just(-1))
HEADERS = st.builds(
    RecordHeaders,
    event=WORDS, event_id=WORDS, causation_id=WORDS, correlation_id=WORDS, tenant=WORDS, traceparent=st.just("") | TRACES,
    deadline_ms=st.none() | st.integers(0, 10**15 - 1), reply_to=st.none() | POSITIONS,
)  # fmt: skip
VALUES = st.none() | st.binary(max_size=70)
NAMED = st.sampled_from(NAMES) | st.text(max_size=10)
PLACES = st.tuples(st.text(max_size=20), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), st.integers(-2, 10))


@settings(deadline=None)
@given(HEADERS)
def test_headers_come_back_as_they_were(headers: RecordHeaders) -> None:
    """From pairs, as the clients give them, and from a mapping, as Faust does."""
    raw = headers.raw()
    assert RecordHeaders.parse(raw) == headers
    assert RecordHeaders.parse(dict(raw)) == headers


@settings(deadline=None)
@given(HEADERS)
def test_what_is_empty_is_left_out(headers: RecordHeaders) -> None:
    """Each header is written at most once, none of them empty, and only those that are known."""
    raw = headers.raw()
    assert len(raw) == sum(value not in ("", None) for value in asdict(headers).values())
    assert all(value for _, value in raw)
    assert [name for name, _ in raw] == [name for name in NAMES if name in dict(raw)]


@pytest.mark.parametrize("nothing", [None, [], (), {}, [("other", b"x")], [("event", None)], {"deadline": b""}])
def test_no_headers_are_no_error(nothing: object) -> None:
    """A bare producer may leave out everything."""
    assert RecordHeaders.parse(nothing) == RecordHeaders()  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.tuples(NAMED, VALUES), max_size=12))
def test_any_bytes_are_read_without_an_error(pairs: list[tuple[str, bytes | None]]) -> None:
    """Headers come from anybody: what is broken counts as absent, and what was read can be written again."""
    headers = RecordHeaders.parse(pairs)
    assert headers == RecordHeaders.parse(headers.raw())
    once = dict(pairs)
    assert RecordHeaders.parse(once) == RecordHeaders.parse(list(once.items()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadline", b"-5"), ("deadline", b"1.5"), ("deadline", b" 7"), ("deadline", b"1_000"), ("deadline", "٣".encode()),
        ("deadline", "²".encode()), ("deadline", b"9" * 16), ("deadline", b"9" * 5000), ("deadline", b"0x10"), ("deadline", b"\xff"),
        ("reply-to", b"topic"), ("reply-to", b"/1"), ("reply-to", b"topic/"), ("reply-to", b"topic/-1"), ("reply-to", b"topic/x"),
        ("reply-to", b"topic/100000"), ("reply-to", "topic/٣".encode()), ("reply-to", b"/"), ("reply-to", b"topic/1/"),
        ("traceparent", b"00-" + b"A" * 32 + b"-" + b"1" * 16 + b"-01"), ("traceparent", b"00-1-1-01"), ("traceparent", b"x" * 5000),
        ("traceparent", b"00-" + b"a" * 32 + b"-" + b"1" * 16 + b"-01\n"),
    ],
)  # fmt: skip
def test_broken_headers_count_as_absent(name: str, value: bytes) -> None:
    """Numbers in other notations or sizes, replies to nowhere, contexts that are none."""
    assert RecordHeaders.parse([(name, value), ("tenant", b"acme")]) == RecordHeaders(tenant="acme")


def test_a_topic_may_hold_a_slash() -> None:
    """The partition is what follows the last one."""
    assert RecordHeaders.parse([("reply-to", b"a/b/007")]).reply_to == Position(topic="a/b", partition=7, offset=-1)


@settings(deadline=None)
@given(st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1))
def test_uuid7_is_valid_and_tells_its_time(now_ms: int, bits: int) -> None:
    """RFC 9562: version 7, its variant, and the first 48 bits are the time, whatever the case it is written in."""
    made = uuid7(now_ms, bits)
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert uuid7_ms(made) == uuid7_ms(made.upper()) == now_ms
    assert parsed.int == now_ms << 80 | 7 << 76 | (bits >> 62) << 64 | 2 << 62 | bits & (1 << 62) - 1


@settings(deadline=None)
@given(st.integers(0, 2**48 - 2), st.integers(0, 2**74 - 1), st.integers(0, 2**74 - 1))
def test_uuid7_sorts_by_time(now_ms: int, bits: int, other: int) -> None:
    """As text too; within a millisecond by the random bits."""
    assert uuid7(now_ms, bits) < uuid7(now_ms + 1, other)
    assert (uuid7(now_ms, bits) < uuid7(now_ms, other)) == (bits < other)


def test_uuid7_is_new_each_time() -> None:
    """Left to itself it takes the clock and 74 random bits."""
    assert len({uuid7() for _ in range(1000)}) == 1000


@settings(deadline=None)
@given(st.text(max_size=40) | st.uuids(version=4).map(str) | st.uuids(version=1).map(str))
def test_what_is_no_uuid7_is_refused(value: str) -> None:
    """Other versions, and other text; the error does not repeat a text of any length."""
    with pytest.raises(ValueError, match="is no UUIDv7"):
        uuid7_ms(value)
    for wrapped in (f"{{{uuid7(1, 1)}}}", f"urn:uuid:{uuid7(1, 1)}", uuid7(1, 1).replace("-", ""), uuid7(1, 1) + "\n", "x" * 100_000):
        with pytest.raises(ValueError, match=r"(?s)^.{,110}$"):
            uuid7_ms(wrapped)


@settings(deadline=None)
@given(PLACES, st.text(max_size=20), st.text(max_size=20))
def test_ids_are_uuid5(place: tuple[str, int, int, int], tenant: str, request_id: str) -> None:
    """The quick way gives what the standard library gives, so that anybody can compute them."""
    topic, partition, offset, ordinal = place
    assert derived_event_id(*place) == str(uuid.uuid5(NAMESPACE, f"{topic}/{partition}/{offset}/{ordinal}"))
    assert final_event_id(tenant, request_id) == str(uuid.uuid5(NAMESPACE, f"{tenant}/{request_id}/final"))
    assert named_event_id(request_id, "queued", offset) == str(uuid.uuid5(NAMESPACE, f"{request_id}/queued/{offset}"))


def test_ids_are_stable() -> None:
    """Pinned: another id for the same event would make repeats look new."""
    assert derived_event_id("inference.requests", 3, 70_000) == "bdee13aa-0d2c-5abe-a15f-10e0816e7040"
    assert final_event_id("acme", "r-1") == "588db15c-12ab-543d-b93e-d58eeb9dcdc8"
    assert named_event_id("r-1", "dispatched", 2) == "353f2220-07fc-5f73-9098-c17c1000bd18"


@settings(deadline=None)
@given(st.sets(PLACES, min_size=2, max_size=8))
def test_ids_of_different_places_differ(places: set[tuple[str, int, int, int]]) -> None:
    """Topic, partition, offset and ordinal each count; the ordinal is 0 where none is given."""
    assert len({derived_event_id(*place) for place in places}) == len(places)
    assert derived_event_id("t", 1, 2) == derived_event_id("t", 1, 2, 0)


def test_a_final_id_depends_on_tenant_and_request_alone() -> None:
    """So completed, rejected and failed, from any service and epoch, are one event to a reader; other tenants' are not."""
    ids = {final_event_id(tenant, request) for tenant in ("a", "b") for request in ("r-1", "r-2") for _ in range(3)}
    assert len(ids) == 4
    assert named_event_id("r-1", "tokens", 1, 23) != named_event_id("r-1", "tokens", 12, 3)
