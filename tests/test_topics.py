"""The topic catalogue, and how the services stand between topics: batches of what is queued, acknowledged when what follows is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.kafka.admin import TopicAdmin
from schemas.events import EVENTS, Position
from schemas.headers import RecordHeaders
from streams import acknowledging, topics
from streams.acknowledging import Acknowledger
from streams.app import create_app, handle_batches
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import LogRecord, Outgoing, Rebalance
from streams.topics import FINALS, OPERATOR, SERVICES, catalogue, producer_user, reply_topic, users

TENANTS = ("acme", "globex")
CATALOGUE = {topic.name: topic for topic in catalogue(TENANTS, 4, 8)}
# Of https://kafka.apache.org/documentation/#topicconfigs, what the catalogue may use, with what a value has to be.
SETTINGS = {
    "cleanup.policy": {"compact", "delete"}, "retention.ms": int, "segment.ms": int, "delete.retention.ms": int, "max.message.bytes": int,
    "compression.type": {"uncompressed"}, "min.cleanable.dirty.ratio": float, "message.timestamp.type": {"CreateTime", "LogAppendTime"},
}  # fmt: skip


def test_every_event_has_a_topic() -> None:
    """Each is written somewhere, nothing else is, and names are unique and Kafka's."""
    assert {event for topic in CATALOGUE.values() for event in topic.events} == set(EVENTS)
    assert len(CATALOGUE) == len(catalogue(TENANTS, 4, 8))
    named = {value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str)}
    assert CATALOGUE.keys() <= named | {reply_topic(t) for t in TENANTS}
    assert all(topic.key and len(topic.name) < 250 for topic in CATALOGUE.values())


def test_only_known_users_read_and_write() -> None:
    """Everybody named is made a user; each topic has a writer; no user is without a right; the operator replays and corrects knowledge."""
    known = users(TENANTS)
    assert len(known) == len(set(known))
    rights = {user for topic in CATALOGUE.values() for user in (*topic.writers, *topic.readers)}
    assert rights == set(known)
    for topic in CATALOGUE.values():
        assert topic.writers
        assert len(set(topic.writers)) == len(topic.writers) and len(set(topic.readers)) == len(topic.readers)
    assert [t.name for t in CATALOGUE.values() if OPERATOR in t.writers] == [topics.REQUESTS, topics.KNOWLEDGE, topics.KNOWLEDGE_CHECKS]


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_producer_writes_requests_and_reads_its_replies(tenant: str) -> None:
    """And nothing else: not another tenant's replies, not the common topics."""
    user = producer_user(tenant)
    assert [t.name for t in CATALOGUE.values() if user in t.writers] == [topics.REQUESTS]
    assert [t.name for t in CATALOGUE.values() if user in t.readers] == [reply_topic(tenant)]


def grants(tenants: tuple[str, ...], kind: str, pattern: str) -> set[tuple[str, str, str]]:
    """User, operation and name of every right of a kind that follows from the catalogue."""
    wanted = TopicAdmin._wanted_grants(SimpleNamespace(_topics=catalogue(tenants, 4, 8)))  # type: ignore[arg-type]  # it needs no client
    fitting = [acl for acl in wanted if (acl.restype.name, acl.resource_pattern_type.name) == (kind, pattern)]
    return {(acl.principal.removeprefix("User:"), acl.operation.name, acl.name) for acl in fitting}


def test_rights_follow_from_the_catalogue() -> None:
    """The operator reads everything; the others have what the catalogue says, and nobody has more than reading and writing."""
    told = {(user, "READ", t.name) for t in CATALOGUE.values() for user in (*t.readers, OPERATOR)}
    assert grants(TENANTS, "TOPIC", "LITERAL") == told | {(user, "WRITE", t.name) for t in CATALOGUE.values() for user in t.writers}


@pytest.mark.parametrize("tenants", [TENANTS, ("acme", "acme-2")], ids=" and ".join)
def test_nobody_may_join_anothers_consumer_group(tenants: tuple[str, ...]) -> None:
    """Rights to groups go by prefix: one that is the beginning of another user's name would let a tenant take its partitions."""
    assert not grants(tenants, "TOPIC", "PREFIXED")
    for user, _, prefix in grants(tenants, "GROUP", "PREFIXED"):
        assert not [other for other in users(tenants) if other != user and other.startswith(prefix)], user


def test_whatever_ends_requests_may_write_all_places_for_replies() -> None:
    """A final event that its maker may not write would be a request that hangs; the sweeper reads all of them."""
    replies = [CATALOGUE[name] for name in (topics.RESPONSES, *map(reply_topic, TENANTS))]
    for topic in replies:
        assert set(FINALS) <= set(topic.events)
        assert {topics.INFERENCE, topics.DISPATCHER, topics.DEEP_LEARNING, topics.SWEEPER} <= set(topic.writers)
        assert topics.SWEEPER in topic.readers
        assert topic.partitions == CATALOGUE[topics.REQUESTS].partitions
    assert set(CATALOGUE[topics.DEAD_LETTERS].writers) == set(SERVICES)


def test_partitions_and_what_is_kept() -> None:
    """Requests and results share their number, so that a dispatcher's shard is one partition of both; slots are partitions."""
    partitions = {name: topic.partitions for name, topic in CATALOGUE.items()}
    assert partitions[topics.DL_REQUESTS] == partitions[topics.DL_RESULTS] == 4
    assert partitions[topics.DL_DISPATCH] == 8
    sizes = {name: int(topic.settings().get("max.message.bytes", 0)) for name, topic in CATALOGUE.items()}
    carriers = (topics.DL_REQUESTS, topics.DL_DISPATCH, topics.DL_RESULTS, topics.DEAD_LETTERS)
    assert 0 < 2 * sizes[topics.REQUESTS] < min(sizes[name] for name in carriers), "what carries a request has room for any"
    assert {name for name, topic in CATALOGUE.items() if topic.compacted} == {topics.DL_WORKERS, topics.KNOWLEDGE, topics.KNOWLEDGE_TRUST}


@pytest.mark.parametrize("topic", CATALOGUE.values(), ids=lambda t: t.name)
def test_settings_are_kafkas(topic: topics.Topic) -> None:
    """Only settings that Kafka has, with values of their kind; what is compacted is not deleted by age."""
    settings = topic.settings()
    for name, value in settings.items():
        kind = SETTINGS[name]
        assert value in kind if isinstance(kind, set) else kind(value) > 0
    assert settings["cleanup.policy"] == ("compact" if topic.compacted else "delete")
    assert ("retention.ms" in settings) != topic.compacted


class ByHand:
    """A publisher whose acknowledgements come when the test says so."""

    def __init__(self) -> None:
        self.published: list[tuple[list[Outgoing], asyncio.Future[None]]] = []

    def publish(self, records: Sequence[Outgoing]) -> asyncio.Future[None]:
        self.published.append((list(records), asyncio.get_running_loop().create_future()))
        return self.published[-1][1]

    def answer(self, at: int, error: Exception | None = None) -> None:
        """Acknowledge a publish, or fail it."""
        done = self.published[at][1]
        done.set_result(None) if error is None else done.set_exception(error)


def record(name: str) -> Outgoing:
    """A record to publish."""
    return Outgoing(topic="t", key=name.encode(), event=Position(topic=name, partition=0, offset=0), headers=RecordHeaders())


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Source:
    """A partition that remembers how far it was acknowledged."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self._next = 0

    def acknowledge(self, topic: str, partition: int, offset: int) -> None:
        assert (topic, partition) == ("source", 0)
        self.acked.append(offset)

    def records(self, count: int, since: int | None = None) -> list[LogRecord]:
        """The next records, or those from an offset that were delivered before."""
        self._next = self._next if since is None else since
        offsets = range(self._next, self._next + count)
        self._next += count
        return [LogRecord(topic="source", partition=0, offset=o, timestamp_ms=0, key=b"", value=b"", headers=()) for o in offsets]


def derived(taken: Sequence[LogRecord]) -> list[tuple[LogRecord, list[Outgoing]]]:
    """Each record with one that follows from it."""
    return [(source, [record(str(source.offset))]) for source in taken]


@pytest.fixture
def publisher() -> ByHand:
    return ByHand()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def acks(publisher: ByHand, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acknowledger:
    """Under test; it pauses for nothing."""
    monkeypatch.setattr(acknowledging, "_PAUSE_S", 0)
    return Acknowledger(publisher, source, Failpoints("", tmp_path), "s")


async def publish(acks: Acknowledger, taken: Sequence[LogRecord]) -> None:
    """Take records and publish what follows from them."""
    acks.take(taken)
    await acks.publish_then_ack(derived(taken))


async def test_a_source_is_acknowledged_after_what_was_derived(acks: Acknowledger, publisher: ByHand, source: Source) -> None:
    """All records of a batch go out together, in order, at once; the offset moves when the broker has them, and not before."""
    await publish(acks, source.records(2))
    assert [[r.key for r in records] for records, _ in publisher.published] == [[b"0", b"1"]]
    await settle()
    assert source.acked == []
    publisher.answer(0)
    await settle()
    assert source.acked == [2]


async def test_a_failed_publish_is_tried_until_it_is_done(acks: Acknowledger, publisher: ByHand, source: Source) -> None:
    """The same records again, and no acknowledgement in between."""
    await publish(acks, source.records(1))
    for attempt in range(3):
        publisher.answer(attempt, RetryableError("away", "Kafka is away", "wait"))
        await settle()
        assert source.acked == []
    assert [records for records, _ in publisher.published] == [[record("0")]] * 4
    publisher.answer(3)
    await settle()
    assert source.acked == [1]


async def test_an_unexpected_error_ends_the_process(
    acks: Acknowledger, publisher: ByHand, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is acknowledged: the successor does it again."""
    exits: list[int] = []
    monkeypatch.setattr("streams.ending.os._exit", exits.append)
    await publish(acks, source.records(1))
    publisher.answer(0, RuntimeError("a bug"))
    await settle()
    assert exits == [70]
    assert source.acked == []


async def test_batches_finish_in_any_order_and_are_bounded(acks: Acknowledger, publisher: ByHand, source: Source) -> None:
    """Two are under way; a third is handed over when one is done. An offset never jumps over a batch that isn't durable."""
    await publish(acks, source.records(1))
    await publish(acks, source.records(1))
    third = asyncio.create_task(publish(acks, source.records(1)))
    await settle()
    assert len(publisher.published) == 2 and not third.done()
    publisher.answer(1)
    await settle()
    assert source.acked == [] and third.done() and len(publisher.published) == 3
    publisher.answer(2)
    publisher.answer(0)
    await settle()
    assert source.acked == [3]


async def test_a_record_that_went_apart_holds_its_partition_back(acks: Acknowledger, publisher: ByHand, source: Source) -> None:
    """Of three taken together one is published later: none of what came with it or after it is acknowledged before."""
    first, apart, last = source.records(3)
    acks.take([first, apart, last])
    await acks.publish_then_ack(derived([first, last]))
    await publish(acks, source.records(2))
    publisher.answer(0)
    publisher.answer(1)
    await settle()
    assert source.acked == []
    await acks.publish_then_ack(derived([apart]))
    publisher.answer(2)
    await settle()
    assert source.acked == [5]


async def test_what_is_delivered_again_after_a_rebalance_counts_by_itself(acks: Acknowledger, publisher: ByHand, source: Source) -> None:
    """The same offsets twice under way: the end of the first delivery does not stand for the second."""
    await publish(acks, source.records(2))
    again = source.records(3, since=0)
    acks.take(again)
    await acks.publish_then_ack(derived(again[:1]))
    publisher.answer(0)
    publisher.answer(1)
    await settle()
    assert source.acked == [2]
    await acks.publish_then_ack(derived(again[1:]))
    publisher.answer(2)
    await settle()
    assert source.acked == [2, 3]


class Waiting:
    """A group source with records 0 … count-1 to take, after a rebalance."""

    def __init__(self, source: Source, count: int) -> None:
        self._left = source.records(count)
        self._rebalances = [Rebalance(assigned=True, partitions=frozenset({("source", 0)}))]

    def take(self, most: int) -> tuple[list[Rebalance], list[LogRecord]]:
        taken, self._left = self._left[:most], self._left[most:]
        told, self._rebalances = self._rebalances, []
        return told, taken


async def test_a_batch_is_what_is_there_when_its_turn_comes(source: Source) -> None:
    """At most so many, in order; a rebalance is told before the records that follow it; nothing to take is no batch."""
    app = create_app("s")
    seen: list[object] = []

    @app.on_partitions_assigned.connect
    async def assigned(_app: Any, assigned: Any, **_kwargs: Any) -> None:
        seen.append(set(assigned))

    async def handle(records: Sequence[LogRecord]) -> None:
        seen.append([r.offset for r in records])

    async def stream() -> AsyncIterator[Waiting]:
        waiting = Waiting(source, 5)
        for _ in range(3):
            yield waiting

    await handle_batches(app, stream(), 3, handle)
    assert seen == [{("source", 0)}, [0, 1, 2], [3, 4]]
