"""The group reader against librdkafka's own mock broker: what is there is one batch, and only what was acknowledged is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer

from connectors.kafka.group import GroupReader
from streams.ports import LogRecord

TOPIC, PARTITION = "source", 0


class Broker:
    """A broker in this process, as long as its producer lives."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
        first = next(iter(self._producer.list_topics(timeout=10).brokers.values()))
        self.access = SimpleNamespace(confluent=lambda: {"bootstrap.servers": f"{first.host}:{first.port}"})

    def publish(self, *values: bytes) -> None:
        for value in values:
            self._producer.produce(TOPIC, value, partition=PARTITION)
        self._producer.flush(10)

    def reader(self) -> GroupReader:
        """The one member of the group, or its successor."""
        reader = GroupReader(self.access, "group", "member-0", 6.0)  # type: ignore[arg-type]  # all that a reader needs of its access
        reader.join([TOPIC])
        return reader


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """With the topic, which the first record makes."""
    running = Broker()
    running.publish(b"first")
    yield running


async def taken(reader: GroupReader, count: int, most: int = 100) -> list[list[bytes | None]]:
    """Values of the batches that the next `count` records come in; empty ones, which tell of rebalances, are left out."""
    batches: list[list[LogRecord]] = []
    async with asyncio.timeout(60):
        while sum(map(len, batches)) < count:
            await reader.wait()
            batches.append(reader.take(most)[1])
    return [[record.value for record in batch] for batch in batches if batch]


async def test_a_successor_begins_behind_what_was_acknowledged(broker: Broker) -> None:
    """Acknowledging never waits, though the reader's thread waits for records meanwhile; closing commits."""
    reader = broker.reader()
    assert await taken(reader, 1) == [[b"first"]]
    reader.acknowledge(TOPIC, PARTITION, 1)
    broker.publish(b"second")
    assert await taken(reader, 1) == [[b"second"]]
    await reader.close()
    successor = broker.reader()
    assert await taken(successor, 1) == [[b"second"]]
    await successor.close()


async def test_what_gathers_while_the_service_is_held_up_is_one_batch(broker: Broker) -> None:
    """Past its patience the reader pauses fetching, stays a member, and loses and doubles nothing."""
    reader = broker.reader()
    await taken(reader, 1)
    broker.publish(b"0")
    await reader.wait()
    broker.publish(*(b"%d" % n for n in range(1, 10)))
    await asyncio.sleep(1.5)  # past its patience
    first = reader.take(4)[1]
    rest = await taken(reader, 10 - len(first), most=4)
    assert [record.value for record in first] + [value for batch in rest for value in batch] == [b"%d" % n for n in range(10)]
    assert len(first) <= 4 and max(map(len, rest)) <= 4
    assert {place for place in reader.partitions() if place[1] == PARTITION} == {(TOPIC, PARTITION)}
    await reader.close()
