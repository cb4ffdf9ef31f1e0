"""What is known, read from the log with the operator's right: entries, what was observed of them, scopes; and correcting it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka.publisher import KafkaPublisher
from infra.cli import connecting
from infra.cli.log_window import LogReader
from infra.settings import Settings
from schemas.codec import Codec, UndecodableRecord
from schemas.headers import RecordHeaders
from schemas.ids import named_event_id
from schemas.knowledge import AnswerLearned, AnswerRetracted, EntryObserved, Observation, Question, ScopeAssessed, ScopeReopened
from schemas.record import Record
from streams.errors import PoisonError
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord, Outgoing
from streams.routing import text_digest
from streams.topics import KNOWLEDGE, KNOWLEDGE_CHECKS, KNOWLEDGE_TRUST, OPERATOR, is_retraction_key, retraction_key

_EVERYTHING = 1 << 62  # records of a partition: compacted topics are read whole


class NoSuchEntry(PoisonError):
    """Nothing is known under that id: take it from `knowledge list`; a prefix is enough where it is the only one."""


class OtherSecret(PoisonError):
    """Ids of entries are keyed digests: import into the installation that exported, or give this one the same digest secret."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is now: learned or retracted."""

    event: AnswerLearned | AnswerRetracted
    partition: int
    offset: int
    observations: tuple[Observation, ...] = ()


@dataclass(slots=True)
class Shelf:
    """All that is known. Open it with `open_shelf`."""

    access: KafkaAccess
    codec: Codec
    entries: dict[str, Entry] = field(default_factory=dict)
    scopes: dict[str, ScopeAssessed] = field(default_factory=dict)
    retracted: set[tuple[str, str]] = field(default_factory=set)  # entry and digest of each text that was ever taken away

    def find(self, name: str) -> Entry:
        """By id, or the beginning of one. Raises NoSuchEntry."""
        found = [entry for entry_id, entry in self.entries.items() if entry_id.startswith(name)] if name else []
        if len(found) == 1:
            return found[0]
        many = f"{len(found)} entries begin with {name}" if found else f"there is no entry {name}"
        raise NoSuchEntry("no_such_entry", many, "see: ./headrace knowledge list")

    def scope(self, name: str) -> ScopeAssessed:
        """By digest, or the beginning of one. Raises NoSuchEntry."""
        found = [scope for digest, scope in self.scopes.items() if digest.startswith(name)] if name else []
        if len(found) == 1:
            return found[0]
        many = f"{len(found)} scopes begin with {name}" if found else f"there is no scope {name}"
        raise NoSuchEntry("no_such_scope", many, "see: ./headrace knowledge scopes")

    def retract(self, entry: Entry, reason: str, by: str) -> AnswerRetracted:
        """Publish the retraction, durably. The entry's text is never learned for it again."""
        learned, now = entry.event, _now_ms()
        if isinstance(learned, AnswerRetracted):
            return learned
        event = AnswerRetracted(
            entry_id=learned.entry_id, tenant=learned.tenant, text_digest=text_digest(learned.text), reason=reason, retracted_by=by,
            retracted_at=now,
        )  # fmt: skip
        keys = (event.entry_id, retraction_key(event.entry_id, event.text_digest))
        self._publish([self._outgoing(KNOWLEDGE, key, event) for key in keys])
        return event

    def add(self, learned: Sequence[AnswerLearned]) -> int:
        """Publish entries, but for those that were retracted with this very text; how many were published."""
        kept = [event for event in learned if not self.is_retracted(event)]
        self._publish([self._outgoing(KNOWLEDGE, event.entry_id, event) for event in kept])
        return len(kept)

    def is_retracted(self, learned: AnswerLearned) -> bool:
        """Whether a person took this text away from this entry."""
        return (learned.entry_id, text_digest(learned.text)) in self.retracted

    def reopen(self, scope: ScopeAssessed, reason: str, by: str) -> ScopeReopened:
        """Ask the learning service to begin anew with a scope."""
        event = ScopeReopened(scope=scope.scope, tenant=scope.tenant, reason=reason, reopened_by=by, reopened_at=_now_ms())
        self._publish([self._outgoing(KNOWLEDGE_CHECKS, event.scope, event)])
        return event

    def _outgoing(self, topic: str, key: str, event: AnswerLearned | AnswerRetracted | ScopeReopened) -> Outgoing:
        event_id = named_event_id(key, type(event).__name__, topic, _now_ms())
        headers = RecordHeaders(event=type(event).__name__, event_id=event_id, tenant=event.tenant)
        return Outgoing(topic=topic, key=key.encode(), event=event, headers=headers)

    def _publish(self, records: Sequence[Outgoing]) -> None:
        async def publish() -> None:
            publisher = KafkaPublisher(self.access, self.codec)
            try:
                await publisher.publish(records)
            finally:
                publisher.close()

        asyncio.run(publish())

    def fold(self, record: LogRecord) -> None:
        """Take one record in: the last one of a key counts."""
        key = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            self.entries.pop(key, None)
            return
        event = self._decoded(record)
        if isinstance(event, AnswerRetracted):
            self.retracted.add((event.entry_id, event.text_digest))
        if is_retraction_key(key):
            return
        if isinstance(event, AnswerLearned | AnswerRetracted):
            held = self.entries.get(event.entry_id)
            self.entries[event.entry_id] = Entry(event, record.partition, record.offset, held.observations if held else ())
        elif isinstance(event, EntryObserved) and (entry := self.entries.get(event.entry_id)) is not None:
            self.entries[event.entry_id] = Entry(entry.event, entry.partition, entry.offset, event.observations)
        elif isinstance(event, ScopeAssessed):
            self.scopes[event.scope] = event

    def _decoded(self, record: LogRecord) -> Record | None:
        try:
            return self.codec.decode(record.value)
        except UndecodableRecord:
            return None


@contextmanager
def open_shelf(settings: Settings) -> Iterator[Shelf]:
    """Connect as the operator and read all knowledge."""
    codec = connecting.codec(settings)
    access = connecting.kafka_access(settings, OPERATOR)
    shelf = Shelf(access, codec)
    with LogReader(access) as log:
        for topic in (KNOWLEDGE, KNOWLEDGE_TRUST):  # entries before what was observed of them
            for record in log.read(log.last_windows(topic, _EVERYTHING), lambda _: True):
                shelf.fold(record)
    yield shelf


def secret_mark(settings: Settings) -> str:
    """Tells whether two installations key their digests alike, and nothing of the secret."""
    return hashlib.blake2b(settings.credentials().get("digest-secret", "").encode(), person=b"headrace-mark", digest_size=8).hexdigest()


def as_line(learned: AnswerLearned) -> dict[str, Any]:
    """An entry as a JSON object: bytes in base64."""
    fields = learned.to_dict()
    if fields["question"] is not None:
        fields["question"] = {**fields["question"], "vector": base64.b64encode(fields["question"]["vector"]).decode()}
    return fields


def from_line(fields: Mapping[str, Any], cause: str) -> AnswerLearned:
    """The entry of a JSON object. Raises msgspec.ValidationError, KeyError or ValueError where it is none."""
    question = fields.get("question")
    vector = None if question is None else base64.b64decode(question["vector"], validate=True)
    whole = {**fields, "cause": cause, "learned_at": _now_ms(), "question": None}
    learned = AnswerLearned.from_dict(whole)
    if question is None:
        return learned
    return AnswerLearned.from_dict({**learned.to_dict(), "question": Question.from_dict({**question, "vector": vector}).to_dict()})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
