"""Reads topics as a member of a consumer group: librdkafka fetches, and the event loop takes all that is there at once.

Faust's own consumer does its work record by record, in Python and on two threads; that was most of a known answer's cost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka.records import as_log_record
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord, Rebalance

log = logging.getLogger(__name__)

_POLL_S = 0.5
_PAUSED_POLL_S = 0.1
_PATIENCE_S = 1.0  # how long records may lie before fetching pauses: a member has to poll, or the group gives its partitions away


class GroupReader:
    """Adapter of `streams.ports.GroupSource`, a static member: its successor of the same name takes its partitions over at once.

    A thread waits for the first record and wakes the event loop; `take` then collects that and everything behind it, in the loop,
    so that a batch is what is there when its turn comes. Offsets are stored by `acknowledge` and committed each second, when
    partitions are given up, and at the end. An error that ends the membership for good, such as a second process of this name,
    calls `on_broken`, once, from another thread.
    """

    def __init__(self, access: KafkaAccess, group: str, instance: str, session_timeout_s: float) -> None:
        self._settings = {
            **access.confluent(),
            "group.id": group,
            "group.instance.id": instance,
            "session.timeout.ms": int(session_timeout_s * 1000),
            "heartbeat.interval.ms": int(session_timeout_s * 1000 / 3),
            # Also how long a rebalance waits for members: one killed in the middle of its own join holds its successor up for it.
            "max.poll.interval.ms": int(session_timeout_s * 2000),
            "auto.offset.reset": "earliest",  # a group that is new must not skip what was asked before its first start
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1000,
            "fetch.queue.backoff.ms": 20,  # the default of a second would let a full queue run dry
            "queued.max.messages.kbytes": 32 << 10,
            "error_cb": self._told_error,
        }
        self.on_broken: Callable[[str], None] = lambda _reason: None
        self._first: list[Message] = []
        self._rebalances: deque[Rebalance] = deque()
        self._owned: frozenset[tuple[str, int]] = frozenset()
        self._there = asyncio.Event()
        self._done: deque[TopicPartition] = deque()
        # One thread at a time uses the consumer: a second one may wait inside the binding for as long as the first one polls again
        # and again. While records wait to be taken, the reader's thread leaves it to the loop, but for what it does under this lock.
        self._lock = threading.Lock()
        self._taken = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def partitions(self) -> frozenset[tuple[str, int]]:
        """What the group has given to this member. Any thread may ask."""
        return self._owned

    def join(self, topics: Sequence[str]) -> None:
        """Become a member, and begin to fetch. Call it on the event loop that takes."""
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(self._settings)
        self._consumer.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        self._thread = threading.Thread(target=self._run, name="group-reader", daemon=True)
        self._thread.start()

    async def wait(self) -> None:
        """Until there is something to take. Each return asks for one `take`."""
        await self._there.wait()
        self._there.clear()

    def take(self, most: int) -> tuple[list[Rebalance], list[LogRecord]]:
        """What is there now, without waiting: changes of what this member owns, and then at most `most` records, in order."""
        with self._lock:
            messages = self._first
            if len(messages) < most:
                messages = messages + self._consumer.consume(most - len(messages), 0)
            rebalances = [self._rebalances.popleft() for _ in range(len(self._rebalances))]
            self._first = []
            self._taken.set()
        for error in filter(None, (message.error() for message in messages)):
            self._told_error(error)
        return rebalances, [as_log_record(message) for message in messages if message.error() is None]

    def acknowledge(self, topic: str, partition: int, offset: int) -> None:
        """All before `offset` is done with. The thread tells librdkafka, within half a second: see `_lock`."""
        self._done.append(TopicPartition(topic, partition, offset))

    async def close(self) -> None:
        """Commit, and stop fetching. A static member stays in the group until its session ends."""
        self._closing.set()
        self._taken.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._wait_for_records()
            self._store_done()
            self._consumer.close()
        except Exception as error:
            log.exception("group_reader_failed")
            self.on_broken(repr(error))

    def _wait_for_records(self) -> None:
        self._store_done()
        first = self._polled(_POLL_S)
        if not first and not self._rebalances:
            return
        self._first = first
        self._taken.clear()
        self._loop.call_soon_threadsafe(self._there.set)
        if not self._taken.wait(_PATIENCE_S):
            self._stay_a_member()

    def _stay_a_member(self) -> None:
        """The service is held up, by Kafka's absence above all: poll without fetching until it takes what is there."""
        while not self._taken.wait(_PAUSED_POLL_S) and not self._closing.is_set():
            with self._lock:
                self._consumer.pause(self._consumer.assignment())  # again each time: a rebalance may have brought others
                self._first += self._polled(0)
        self._consumer.resume(self._consumer.assignment())

    def _store_done(self) -> None:
        """Have the offsets of what is done committed soon. One that is no longer ours is left to its new owner, who reads it again."""
        while self._done:
            place = self._done.popleft()
            try:
                self._consumer.store_offsets(offsets=[place])
            except KafkaException as error:
                log.info("offset_not_stored place=%s reason=%s", place, error)

    def _polled(self, timeout_s: float) -> list[Message]:
        message = self._consumer.poll(timeout_s)
        if message is not None and message.error() is not None:
            self._told_error(message.error())
            return []
        return [] if message is None else [message]

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._changed("assigned", partitions)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._store_done()  # librdkafka commits when this returns
        self._changed("revoked", partitions)

    def _changed(self, what: str, partitions: list[TopicPartition]) -> None:
        changed = frozenset((p.topic, p.partition) for p in partitions)
        self._owned = self._owned | changed if what == "assigned" else self._owned - changed
        self._rebalances.append(Rebalance(assigned=what == "assigned", partitions=changed))

    def _told_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self.on_broken(error.str())
        elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):  # it connects again by itself
            log.warning("group_reader_error reason=%s", error)
