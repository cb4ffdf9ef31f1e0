"""A record as librdkafka delivers it, as one of ours."""

from __future__ import annotations

from confluent_kafka import Message

from streams.ports import LogRecord


def as_log_record(message: Message) -> LogRecord:
    """The record of a message that carries no error. Headers whose names are no UTF-8 come out as None.

    The binding raises SystemError for them, and hands out a list with a hole in it when it is asked again: so it is asked once.
    """
    try:
        headers = message.headers() or ()
    except (SystemError, UnicodeDecodeError):
        headers = None
    return LogRecord(
        topic=message.topic(), partition=message.partition(), offset=message.offset(), timestamp_ms=message.timestamp()[1],
        key=message.key(), value=message.value(), headers=headers,
    )  # fmt: skip
