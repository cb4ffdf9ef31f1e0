"""Open-loop load through Kafka: records leave at their intended times whatever comes back, and latency counts from those times.

A closed loop waits for an answer before it asks again, and so hides the waiting that it causes ("coordinated omission").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.kafka_access import KafkaAccess

_DRAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """Records to send, already encoded, so that the sender's own work is small.

    `ids[i]` is what the reply to i is known by: it travels as the correlation-id header, beside `headers`.
    """

    topic: str
    keys: Sequence[bytes]
    values: Sequence[bytes]
    ids: Sequence[bytes]
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one cell measured. Latencies in ms, from the intended send time; `drift` is the lag's growth in records per second."""

    rate: float
    sent: int
    answered: int
    seconds: float
    p50: float
    p95: float
    p99: float
    max: float
    drift: float
    late_sends_p99: float

    @property
    def sustained(self) -> bool:
        """Everything answered, the lag not growing by more than 1% of the rate, p99 under a second."""
        return self.answered == self.sent and self.p99 < 1000 and self.drift < 0.01 * self.rate

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sustained": self.sustained}


class OpenLoop:
    """Sends a load at a fixed rate, and times the replies on one partition by their correlation-id header."""

    def __init__(self, access: KafkaAccess, reply_topic: str, reply_partition: int) -> None:
        self._access = access
        self._reply = (reply_topic, reply_partition)

    def run(self, load: Load, rate: float, drain_s: float = _DRAIN_S) -> Outcome:
        """One cell: all of the load at `rate` records a second, then up to `drain_s` for the last replies."""
        count = len(load.values)
        answered = np.full(count, np.nan)
        index = {request_id: i for i, request_id in enumerate(load.ids)}
        stop = threading.Event()
        consumer = self._consumer()
        reader = threading.Thread(target=_read, args=(consumer, index, answered, stop), daemon=True)
        reader.start()
        start = time.perf_counter() + 0.2
        late = self._send(load, rate, start)
        _wait_for_all(answered, stop, drain_s)
        reader.join()
        consumer.close()
        return _outcome(rate, start, answered, late)

    def _consumer(self) -> Consumer:
        group = {"group.id": f"{self._access.username}.bench", "enable.auto.commit": False}
        consumer = Consumer({**self._access.confluent(), **group, "fetch.wait.max.ms": 100})
        _, end = consumer.get_watermark_offsets(TopicPartition(*self._reply), timeout=10)
        consumer.assign([TopicPartition(*self._reply, end)])
        consumer.poll(0.5)  # the first fetch is under way before the clock starts
        return consumer

    def _send(self, load: Load, rate: float, start: float) -> np.ndarray:
        durable = {"acks": "all", "enable.idempotence": True, "linger.ms": 0, "partitioner": "murmur2"}
        producer = Producer({**self._access.confluent(), **durable, "queue.buffering.max.messages": 1_000_000})
        late = np.zeros(len(load.values))
        for i, value in enumerate(load.values):
            due = start + i / rate
            while (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            late[i] = -ahead
            producer.produce(load.topic, value, load.keys[i], headers=[*load.headers, ("correlation-id", load.ids[i])])
            if i % 64 == 0:
                producer.poll(0)
        producer.flush(_DRAIN_S)
        return late


def _read(consumer: Consumer, index: dict[bytes, int], answered: np.ndarray, stop: threading.Event) -> None:
    left = len(index)
    while left and not stop.is_set():
        first = consumer.poll(0.1)
        for message in [] if first is None else [first, *consumer.consume(1000, 0)]:
            now = time.perf_counter()
            i = index.get(dict(message.headers() or ()).get("correlation-id", b""))
            if i is not None and np.isnan(answered[i]):
                answered[i] = now
                left -= 1


def _wait_for_all(answered: np.ndarray, stop: threading.Event, drain_s: float) -> None:
    deadline = time.perf_counter() + drain_s
    while np.isnan(answered).any() and time.perf_counter() < deadline:
        time.sleep(0.05)
    stop.set()


def _outcome(rate: float, start: float, answered: np.ndarray, late: np.ndarray) -> Outcome:
    count = len(answered)
    intended = start + np.arange(count) / rate
    latency = (answered - intended) * 1000
    got = latency[~np.isnan(latency)]
    p50, p95, p99 = (float(v) for v in np.percentile(got, (50, 95, 99))) if len(got) else (float("nan"),) * 3
    worst = float(got.max()) if len(got) else float("nan")
    return Outcome(
        rate=rate, sent=count, answered=len(got), seconds=count / rate, p50=p50, p95=p95, p99=p99, max=worst,
        drift=_drift(intended, answered, rate), late_sends_p99=float(np.percentile(late, 99) * 1000),
    )  # fmt: skip


def _drift(intended: np.ndarray, answered: np.ndarray, rate: float) -> float:
    """Growth of the number of unanswered records over the second half of the run, per second, by least squares."""
    span = intended[-1] - intended[0]
    if span < 2:
        return 0.0
    times = np.linspace(intended[0] + span / 2, intended[-1], 50)
    done = np.sort(np.where(np.isnan(answered), np.inf, answered))
    lag = np.searchsorted(intended, times) - np.searchsorted(done, times)
    return max(0.0, float(np.polyfit(times, lag, 1)[0])) if rate else 0.0
