"""Reads the dead letters with the operator's right, and publishes a request among them once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message, Producer

from infra.cli import connecting
from infra.cli.log_window import LogReader
from infra.settings import Settings
from schemas.codec import Codec, UndecodableRecord
from schemas.events import DeadLettered
from schemas.headers import RecordHeaders
from schemas.record import Record
from streams.errors import PoisonError, RetryableError
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord
from streams.topics import DEAD_LETTERS, OPERATOR, REQUESTS

REPLAYED_FROM = "replayed-from"
_SEARCHED = 1000  # records of each partition: an event id holds no time, so that a search by it has to end somewhere
_FLUSH_S = 15.0


class NoSuchDeadLetter(PoisonError):
    """Nothing is there: take the name from `dead-letters list`. Dead letters are kept for 30 days."""


class NotReplayable(PoisonError):
    """Only requests are replayed: replay the request that the record came from, or let its producer send it anew."""


class NotReplayed(RetryableError):
    """Kafka did not take the record: see `headrace doctor`; the operator needs the right to write requests (topics apply)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dead letter stands."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{DEAD_LETTERS}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter and its place."""

    position: Place
    event_id: str
    event: DeadLettered


class DeadLetterBox:
    """Open it with `DeadLetterBox.open()`, which connects as the operator."""

    def __init__(self, log: LogReader, codec: Codec, access: KafkaAccess) -> None:
        self._log = log
        self._codec = codec
        self._access = access

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[DeadLetterBox]:
        """Connect, and close at the end."""
        settings = Settings()
        codec = connecting.codec(settings)
        access = connecting.kafka_access(settings, OPERATOR)
        with LogReader(access) as log:
            yield cls(log, codec, access)

    def newest(self, number: int, age_ms: int) -> list[DeadLetter]:
        """The newest `number` that are younger than `age_ms`, newest first."""
        since = time.time_ns() // 1_000_000 - age_ms
        records = self._log.read(self._log.last_windows(DEAD_LETTERS, number), lambda _: True)
        letters = [letter for record in records if (letter := self._letter(record)) and letter.event.dead_lettered_at >= since]
        return sorted(letters, key=lambda x: x.event.dead_lettered_at, reverse=True)[:number]

    def find(self, name: str) -> DeadLetter:
        """By dead-letters/PARTITION/OFFSET, PARTITION/OFFSET, or event id. Raises NoSuchDeadLetter."""
        partition, _, offset = name.removeprefix(f"{DEAD_LETTERS}/").partition("/")
        if partition.isdigit() and offset.isdigit():
            known = int(partition) < self._log.partitions(DEAD_LETTERS)
            record = self._log.record_at(DEAD_LETTERS, int(partition), int(offset)) if known else None
        else:
            record = self._by_event_id(name)
        letter = None if record is None else self._letter(record)
        if letter is None:
            raise NoSuchDeadLetter("no_such_dead_letter", f"there is no dead letter {name}", "see: ./headrace dead-letters list")
        return letter

    def _by_event_id(self, event_id: str) -> LogRecord | None:
        def wanted(message: Message) -> bool:
            return RecordHeaders.parse(message.headers()).event_id == event_id

        windows = self._log.last_windows(DEAD_LETTERS, _SEARCHED)
        return next(iter(self._log.read(windows, wanted, most=1)), None)

    def decoded(self, letter: DeadLetter) -> Record | None:
        """The event in its bytes, if there is one."""
        try:
            return self._codec.decode(letter.event.value)
        except UndecodableRecord:
            return None

    def replayable(self, age_ms: int) -> list[DeadLetter]:
        """The requests among the newest, oldest first. One whose replay is a dead letter itself is represented by that."""
        letters = self.newest(_SEARCHED, age_ms)[::-1]
        superseded = {h.value for letter in letters for h in letter.event.headers if h.name == REPLAYED_FROM}
        return [x for x in letters if x.event.origin.topic == REQUESTS and str(x.position).encode() not in superseded]

    @staticmethod
    def require_replayable(letter: DeadLetter) -> None:
        """Raises NotReplayable."""
        if letter.event.origin.topic != REQUESTS:
            reason = f"{letter.position} came from {letter.event.origin.topic}, and only {REQUESTS} is replayed"
            raise NotReplayable("not_replayable", reason, "replay the request it belongs to; its id is in the header correlation-id")

    def replay(self, letters: Sequence[DeadLetter]) -> None:
        """Publish them as they were. Raises NotReplayed unless Kafka acknowledged all."""
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error.str())

        producer = Producer({**self._access.confluent(), "acks": "all", "enable.idempotence": True, "partitioner": "murmur2"})
        for letter in letters:
            event = letter.event
            headers = [(h.name, h.value) for h in event.headers if h.name != REPLAYED_FROM]
            headers.append((REPLAYED_FROM, str(letter.position).encode()))
            producer.produce(event.origin.topic, event.value, event.key, headers=headers, on_delivery=delivered)
        left = producer.flush(_FLUSH_S)
        if failures or left:
            reason = failures[0] if failures else f"no answer in {_FLUSH_S:.0f} s"
            raise NotReplayed("not_replayed", f"{len(failures) + left} of {len(letters)} not taken: {reason}", "see: ./headrace doctor")

    def _letter(self, record: LogRecord) -> DeadLetter | None:
        try:
            event = self._codec.decode(record.value)
        except UndecodableRecord:
            return None
        if not isinstance(event, DeadLettered):
            return None
        return DeadLetter(Place(record.partition, record.offset), RecordHeaders.parse(record.headers).event_id, event)
