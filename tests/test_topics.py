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
from streams.app import batches
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import Outgoing
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
    """Source events of one partition that remember in which order they were acknowledged."""

    def __init__(self, acks: Acknowledger) -> None:
        self.acked: list[str] = []
        self._acks = acks

    def derived(self, *names: str) -> list[tuple[Any, list[Outgoing]]]:
        """Events that the acknowledger has taken, each with one record derived from it."""
        where = SimpleNamespace(topic="source", partition=0)
        events = [SimpleNamespace(message=where, ack=lambda name=name: self.acked.append(name)) for name in names]
        self._acks.take(events)
        return [(event, [record(name)]) for event, name in zip(events, names, strict=True)]


@pytest.fixture
def publisher() -> ByHand:
    return ByHand()


@pytest.fixture
def acks(publisher: ByHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acknowledger:
    """Under test; it pauses for nothing."""
    monkeypatch.setattr(acknowledging, "_PAUSE_S", 0)
    return Acknowledger(publisher, Failpoints("", tmp_path), "s")


async def test_a_source_is_acknowledged_after_what_was_derived(acks: Acknowledger, publisher: ByHand) -> None:
    """All records of a batch go out together, in order, at once; their sources follow when the broker has them, and not before."""
    source = Source(acks)
    await acks.publish_then_ack(source.derived("a", "b"))
    assert [[r.key for r in records] for records, _ in publisher.published] == [[b"a", b"b"]]
    await settle()
    assert source.acked == []
    publisher.answer(0)
    await settle()
    assert source.acked == ["a", "b"]


async def test_a_failed_publish_is_tried_until_it_is_done(acks: Acknowledger, publisher: ByHand) -> None:
    """The same records again, and no acknowledgement in between."""
    source = Source(acks)
    await acks.publish_then_ack(source.derived("a"))
    for attempt in range(3):
        publisher.answer(attempt, RetryableError("away", "Kafka is away", "wait"))
        await settle()
        assert source.acked == []
    assert [records for records, _ in publisher.published] == [[record("a")]] * 4
    publisher.answer(3)
    await settle()
    assert source.acked == ["a"]


async def test_an_unexpected_error_ends_the_process(acks: Acknowledger, publisher: ByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged: the successor does it again."""
    exits: list[int] = []
    monkeypatch.setattr("streams.ending.os._exit", exits.append)
    source = Source(acks)
    await acks.publish_then_ack(source.derived("broken"))
    publisher.answer(0, RuntimeError("a bug"))
    await settle()
    assert exits == [70]
    assert source.acked == []


async def test_batches_finish_in_any_order_and_are_bounded(acks: Acknowledger, publisher: ByHand) -> None:
    """Two are under way; a third is handed over when one is done. A source waits for those before it: Faust would jump the gap."""
    source = Source(acks)
    await acks.publish_then_ack(source.derived("a"))
    await acks.publish_then_ack(source.derived("b"))
    third = asyncio.create_task(acks.publish_then_ack(source.derived("c")))
    await settle()
    assert len(publisher.published) == 2 and not third.done()
    publisher.answer(1)
    await settle()
    assert source.acked == [] and third.done() and len(publisher.published) == 3
    publisher.answer(2)
    publisher.answer(0)
    await settle()
    assert source.acked == ["a", "b", "c"]


class Stream:
    """What `batches` needs of a Faust stream: unacknowledged events, the first of each batch by iteration, the others queued."""

    def __init__(self) -> None:
        self.channel = SimpleNamespace(queue=asyncio.Queue[str]())

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[str]:
        while True:
            yield await self.channel.queue.get()


async def test_a_batch_is_what_is_queued_now() -> None:
    """At most so many, in order; and never a wait for a second one."""
    stream = Stream()
    for name in "abcde":
        stream.channel.queue.put_nowait(name)
    batch = batches(stream, 3)
    assert [await anext(batch), await anext(batch)] == [["a", "b", "c"], ["d", "e"]]
    waiting = asyncio.ensure_future(anext(batch))
    await settle()
    assert not waiting.done()
    stream.channel.queue.put_nowait("f")
    await settle()
    assert waiting.result() == ["f"]
