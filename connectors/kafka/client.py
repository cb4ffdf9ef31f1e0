"""A client in Kafka: publishes requests, and yields what comes back, each token and each final event once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import Codec, UndecodableRecord
from schemas.events import Final, InferenceRequested, Position, TokensGenerated
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from schemas.knowledge import FeedbackGiven
from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.replies import ReplyReader
from streams.routing import routing_key
from streams.topics import FEEDBACK, FINALS, REQUESTS, RESPONSES, TOKENS

_START_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Told:
    """Something that came back for a request: text to show, or its final event."""

    request_id: str
    text: str = ""
    final: Final | None = None


class RequestClient:
    """Reads one reply partition of its own choosing, from now on. For one thread."""

    def __init__(self, access: KafkaAccess, codec: Codec, partitions: int, reply_topic: str = RESPONSES) -> None:
        self._codec = codec
        self._reader = ReplyReader()
        self.reply_to = Position(topic=reply_topic, partition=secrets.randbelow(partitions), offset=-1)
        settings = access.confluent()
        self._producer = Producer({**settings, "acks": "all", "enable.idempotence": True, "linger.ms": 0, "partitioner": "murmur2"})
        self._consumer = Consumer(
            {**settings, "group.id": f"{access.username}.replies", "enable.auto.commit": False, "fetch.wait.max.ms": 100}
        )
        topics = {reply_topic, TOKENS} if reply_topic == RESPONSES else {reply_topic}
        self._consumer.assign([self._end_of(topic) for topic in topics])
        self._connect(reply_topic)

    def _connect(self, reply_topic: str) -> None:
        """Make connections and schema look-ups now, so that they don't count as the first request's waiting."""
        self._codec.prepare(REQUESTS, InferenceRequested)
        self._codec.prepare(reply_topic, *FINALS)
        self._codec.prepare(TOKENS if reply_topic == RESPONSES else reply_topic, TokensGenerated)
        self._producer.list_topics(REQUESTS, timeout=_START_TIMEOUT_S)
        self._consumer.poll(0)

    def _end_of(self, topic: str) -> TopicPartition:
        here = TopicPartition(topic, self.reply_to.partition)
        try:
            _, end = self._consumer.get_watermark_offsets(here, timeout=_START_TIMEOUT_S)
        except KafkaException as error:
            raise ClientCannotRead(topic, error) from error
        return TopicPartition(topic, self.reply_to.partition, end)

    def submit(self, request: InferenceRequested, traceparent: str = "") -> None:
        """Publish a request; its replies come out of `listen`. Call `flush` before leaving."""
        self._reader.expect(request.request_id)
        self.publish(request, traceparent)

    def publish(self, request: InferenceRequested, traceparent: str = "") -> None:
        """Publish only: for a request whose replies are followed already."""
        headers = RecordHeaders(
            event="InferenceRequested", event_id=uuid7(), correlation_id=request.request_id, tenant=request.tenant,
            traceparent=traceparent, deadline_ms=request.deadline_at, reply_to=self.reply_to,
        )  # fmt: skip
        self.publish_raw(routing_key(request), self._codec.encode(REQUESTS, request), headers)

    def give_feedback(self, feedback: FeedbackGiven) -> None:
        """Publish what somebody says of an answer. Nothing comes back for it; `flush` says whether it is on the log."""
        headers = RecordHeaders(
            event="FeedbackGiven", event_id=uuid7(), correlation_id=feedback.request_id, tenant=feedback.tenant,
        )  # fmt: skip
        self.publish_raw(feedback.request_id.encode(), self._codec.encode(FEEDBACK, feedback), headers, FEEDBACK)

    def publish_raw(self, key: bytes, value: bytes, headers: RecordHeaders, topic: str = REQUESTS) -> None:
        """Publish bytes as they are."""
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers.raw(), on_delivery=_raise_undelivered)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:  # above all, a record over a megabyte
                reason = f"the request was not taken: {error.args[0]}"
                raise Undelivered("undelivered", reason, "shorten it where it is too large, else see: headrace doctor") from error

    def expect(self, request_id: str) -> None:
        """Follow the replies of a request that was published raw."""
        self._reader.expect(request_id)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until the broker has acknowledged everything. Raises Undelivered where it did not in time."""
        if left := self._producer.flush(timeout_s):
            raise Undelivered("undelivered", f"{left} requests are not acknowledged after {timeout_s:.0f} s", "see: headrace doctor")

    def listen(self, timeout_s: float) -> Iterator[Told]:
        """What comes within the time, token texts and final events; ends early when nothing is expected any more."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0 and self._reader.unanswered:
            self._producer.poll(0)
            first = self._consumer.poll(min(0.05, left))  # consume() alone would wait its whole time-out for the 500th
            for message in [] if first is None else [first, *self._consumer.consume(500, 0)]:
                told = self._told(message)
                if told is not None:
                    yield told

    def open_requests(self) -> list[str]:
        """Requests without a final event."""
        return [request_id for request_id, reply in self._reader.replies.items() if reply.final is None]

    def forget(self, request_id: str) -> None:
        """Drop what is held of a request, so that a long run stays small; what comes later for it is dropped too."""
        self._reader.forget(request_id)

    def _told(self, message: Message) -> Told | None:
        if message.error() is not None:
            if message.error().code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
                raise ClientCannotRead(str(message.topic()), KafkaException(message.error()))
            return None  # librdkafka reconnects by itself
        try:
            event = self._codec.decode(message.value())
        except UndecodableRecord:  # somebody else's garbage on a shared partition
            return None
        if isinstance(event, TokensGenerated):
            text = self._reader.tokens(event)
            return Told(event.request_id, text=text) if text else None
        if isinstance(event, FINALS) and self._reader.final(event):
            return Told(event.request_id, final=event)
        return None

    def shown(self, request_id: str) -> str:
        """Text that the tokens of a request have given so far."""
        return self._reader.expect(request_id).text

    def close(self) -> None:
        self._producer.flush(5.0)
        self._consumer.close()


class ClientCannotRead(RetryableError):
    """The reply topic can't be read: start the stack, or use a user that the topic's catalogue lets read it."""

    def __init__(self, topic: str, error: KafkaException) -> None:
        super().__init__("cannot_read", f"{topic} cannot be read: {error.args[0]}", "see: headrace doctor")


class Undelivered(RetryableError):
    """A request did not reach the log: it will not be answered. Send it again."""


def _raise_undelivered(error: KafkaError | None, _message: Message) -> None:
    if error is not None:
        raise Undelivered("undelivered", f"Kafka did not take the request: {error.str()}", "see: headrace doctor; then send it again")
