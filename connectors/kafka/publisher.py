"""Publishes events with librdkafka: durable (acks=all, idempotent), one wake-up of the event loop per batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import Codec
from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.ports import Outgoing

_BY_KEY = -1  # librdkafka's RD_KAFKA_PARTITION_UA


class PublishFailed(RetryableError):
    """The broker did not acknowledge in time: see `headrace doctor` for whether Kafka is up and the user may write the topic."""

    def __init__(self, reason: str) -> None:
        super().__init__("publish_failed", f"Kafka did not acknowledge: {reason}", "see: headrace doctor")


class KafkaPublisher:
    """Adapter of `streams.ports.Publisher`. One per process; `close` flushes.

    An idempotent producer can break for good (librdkafka's fatal errors): `on_broken` is then called, once, from another thread,
    and the process should end: its successor starts from what was acknowledged.

    `linger_ms` 0 sends at once: under load, batches form by themselves while a request is under way.
    """

    def __init__(self, access: KafkaAccess, codec: Codec, *, linger_ms: float = 0.0, timeout_s: float = 30.0) -> None:
        self._codec = codec
        self.on_broken: Callable[[str], None] = lambda _reason: None
        self._producer = Producer(
            {
                **access.confluent(),
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": linger_ms,
                # One request under way lets the next batch form meanwhile: less work for us and the broker than five small ones.
                "max.in.flight.requests.per.connection": 1,
                "partitioner": "murmur2",  # as the Java clients, so that a key's partition is the same for everybody
                "message.max.bytes": 8 << 20,
                "delivery.timeout.ms": int(timeout_s * 1000),
                "queue.buffering.max.messages": 200_000,
                "error_cb": self._told_error,
            }
        )
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="publisher-poll", daemon=True)
        self._poller.start()

    def publish(self, records: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Enqueue in order now; the future is done when all are acknowledged, or fails with PublishFailed."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not records:
            done.set_result(None)
            return done
        pending = _Pending(len(records), loop, done)
        for record in records:
            self._produce(record, pending.delivered)
        return done

    def _produce(self, record: Outgoing, on_delivery: Any) -> None:
        value = self._codec.encode(record.topic, record.event)
        partition = _BY_KEY if record.partition is None else record.partition
        try:
            self._producer.produce(record.topic, value, record.key, partition, on_delivery, headers=record.headers.raw())
        except (BufferError, KafkaException) as error:  # a full queue, or a record that librdkafka refuses
            on_delivery(error, None)

    def _told_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self.on_broken(error.str())

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.5)

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait for what is under way, then stop."""
        self._producer.flush(timeout_s)
        self._closing.set()
        self._poller.join(2.0)


class _Pending:
    """Counts the acknowledgements of one batch. Only librdkafka's poll thread and the enqueuing loop call it, one record each."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        self._left = count
        self._lock = threading.Lock()
        self._loop = loop
        self._done = done
        self._error: str = ""

    def delivered(self, error: KafkaError | Exception | None, _message: object) -> None:
        with self._lock:
            self._left -= 1
            if error is not None:
                self._error = str(error)
            last = self._left == 0
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self._done.done():
            return
        if self._error:
            self._done.set_exception(PublishFailed(self._error))
        else:
            self._done.set_result(None)
