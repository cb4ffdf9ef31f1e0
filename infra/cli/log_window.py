"""Reads bounded windows of partitions: from a time or an offset until a time or the end, and never a whole topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka.records import as_log_record
from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord

_CALL_S = 15.0
_SILENCE_S = 15.0  # an end of partition is told within a fetch; a longer silence means that Kafka is away


class LogUnreadable(RetryableError):
    """A topic can't be read: Kafka went away, or the user may not read it. See `headrace doctor`."""

    def __init__(self, what: str) -> None:
        super().__init__("log_unreadable", f"the log cannot be read: {what}", "see: ./headrace doctor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a partition: from `since_ms`, or from `offset` where it is given, until the first record later than `until_ms`."""

    topic: str
    partition: int
    since_ms: int = 0
    until_ms: int | None = None
    offset: int | None = None


class LogReader:
    """One consumer that belongs to no group. A context manager; for one thread."""

    def __init__(self, access: KafkaAccess) -> None:
        self._consumer = Consumer(
            {
                **access.confluent(),
                "group.id": f"{access.username}-reading",  # required by librdkafka; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,  # so that the end of a window is known, not guessed from silence
                "fetch.wait.max.ms": 20,  # an empty partition's end is told only after this
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._consumer.close()

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises LogUnreadable where there is no such topic for us."""
        found = self._consumer.list_topics(topic, timeout=_CALL_S).topics[topic]
        if found.error is not None:
            raise LogUnreadable(f"{topic}: {found.error.str()}")
        return len(found.partitions)

    def last_windows(self, topic: str, most: int) -> list[Window]:
        """The last `most` records of each partition."""
        windows = []
        for partition in range(self.partitions(topic)):
            first, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_CALL_S)
            windows.append(Window(topic=topic, partition=partition, offset=max(first, end - most)))
        return windows

    def record_at(self, topic: str, partition: int, offset: int) -> LogRecord | None:
        """The record at a position, or None where it is gone."""
        window = Window(topic=topic, partition=partition, offset=offset)
        return next(iter(self.read([window], lambda m: m.offset() == offset, most=1, give_up_after=offset)), None)

    def read(
        self, windows: Sequence[Window], wanted: Callable[[Message], bool], most: int = 0, give_up_after: int | None = None
    ) -> list[LogRecord]:
        """The wanted records of all windows, as they come. Stops at `most` of them (0: all), or past offset `give_up_after`.

        Raises LogUnreadable.
        """
        starts = self._starts(windows)
        open_windows = {(w.topic, w.partition): w for w in windows if (w.topic, w.partition) in starts}
        assigned = [TopicPartition(topic, partition, offset) for (topic, partition), offset in starts.items()]
        self._consumer.assign(assigned)
        self._consumer.resume(assigned)  # a pause of an earlier read outlives its assignment
        found: list[LogRecord] = []
        heard = time.monotonic()
        while open_windows:
            messages = self._consumer.consume(1000, 0.02)
            if not messages and time.monotonic() - heard > _SILENCE_S:
                raise LogUnreadable(f"nothing came of {', '.join(sorted({topic for topic, _ in open_windows}))} in {_SILENCE_S:.0f} s")
            for message in messages:
                heard = time.monotonic()
                window = open_windows.get((message.topic(), message.partition()))
                if window is None:
                    _raise_where_hopeless(message)
                elif _is_past(message, window, give_up_after):
                    del open_windows[(window.topic, window.partition)]
                    self._consumer.pause([TopicPartition(window.topic, window.partition)])
                elif wanted(message):
                    found.append(as_log_record(message))
                    if len(found) == most:
                        return found
        return found

    def _starts(self, windows: Sequence[Window]) -> dict[tuple[str, int], int]:
        """Offset of each window's first record. Empty windows are left out: of those no message ever tells the end."""
        starts = {(w.topic, w.partition): w.offset for w in windows if w.offset is not None and self._holds(w, w.offset)}
        by_time = [TopicPartition(w.topic, w.partition, max(0, w.since_ms)) for w in windows if w.offset is None]
        for start in self._consumer.offsets_for_times(by_time, timeout=_CALL_S) if by_time else []:
            if start.error is not None:
                raise LogUnreadable(f"{start.topic}/{start.partition}: {start.error.str()}")
            if start.offset >= 0:
                starts[(start.topic, start.partition)] = start.offset
        return starts

    def _holds(self, window: Window, offset: int) -> bool:
        first, end = self._consumer.get_watermark_offsets(TopicPartition(window.topic, window.partition), timeout=_CALL_S)
        return bool(first <= offset < end)


def _is_past(message: Message, window: Window, give_up_after: int | None) -> bool:
    """Whether a message ends its window: the partition's end, a later time, a later offset. Raises LogUnreadable for errors."""
    error = message.error()
    if error is not None:
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        _raise_where_hopeless(message)
        return False
    if give_up_after is not None and message.offset() > give_up_after:
        return True
    return window.until_ms is not None and message.timestamp()[1] > window.until_ms


def _raise_where_hopeless(message: Message) -> None:
    error = message.error()
    if error is not None and error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
        raise LogUnreadable(f"{message.topic()}: {error.str()}") from KafkaException(error)
