"""A record as librdkafka delivers it, as one of ours."""

from __future__ import annotations

from operator import methodcaller

from confluent_kafka import Message

from streams.ports import LogRecord

# For a name that is no UTF-8 the binding returns a list with a hole in it and leaves an exception behind. Where the interpreter calls
# a method directly, which it does once a call has become frequent, nobody checks for that, and the exception comes up anywhere later.
# A call by methodcaller is always checked.
_headers = methodcaller("headers")


def as_log_record(message: Message) -> LogRecord:
    """The record of a message that carries no error. Headers with a name that is no UTF-8 come out as None."""
    try:
        headers = _headers(message) or ()
    except (SystemError, UnicodeDecodeError):
        headers = None
    return LogRecord(
        topic=message.topic(), partition=message.partition(), offset=message.offset(), timestamp_ms=message.timestamp()[1],
        key=message.key(), value=message.value(), headers=headers,
    )  # fmt: skip
