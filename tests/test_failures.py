"""Whatever is wrong with a request, or around it, ends as a final event with a reason; nothing stops the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from connectors.registry import ConfluentRegistry
from infra.access import kafka_access
from schemas.codec import Codec
from schemas.events import InferenceCompleted, InferenceFailed, InferenceRejected, InferenceRequested, Message, Parameters
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from streams.kafka_access import KafkaAccess
from streams.routing import partition_for
from streams.topics import DL_REQUESTS, REQUESTS
from tests.checkout import ROOT
from tests.running_stack import RunningStack, answers, eventually, request

pytestmark = pytest.mark.stack


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"model": "nope"}, "unknown_model"),
        ({"tenant": "nobody"}, "unknown_tenant"),
        ({"messages": ()}, "invalid_request"),
        ({"task": "paint"}, "invalid_request"),
        ({"parameters": Parameters(max_tokens=0)}, "invalid_request"),
        ({"parameters": Parameters(temperature=float("nan"))}, "invalid_request"),
        ({"deadline_at": 1}, "deadline_passed"),
        ({"messages": (Message(role="user", content="x" * 300_000),)}, "too_large"),
    ],
)
def test_a_request_that_is_wrong_is_rejected_with_what_to_do(stack: RunningStack, wrong: dict[str, object], code: str) -> None:
    """Admission refuses, says why, and whether to try again."""
    client = stack.client()
    asked = request("hello", **wrong)
    client.submit(asked)
    final = answers(client, 15)[asked.request_id]
    client.close()
    assert isinstance(final, InferenceRejected)
    assert (final.code, final.retryable) == (code, False)
    assert final.remedy


def test_garbage_is_rejected_kept_and_can_be_replayed_while_others_are_answered(stack: RunningStack) -> None:
    """Undecodable records of several kinds among good ones: each good one is answered, each bad one is a dead letter."""
    client = stack.client()
    good = [request(f"good {n}", max_tokens=2) for n in range(20)]
    bad = [b"", b"no avro", b"\0\0\0\0\1", b"\0\x7f\xff\xff\xffgarbage", b"\0\xff\xff\xff\xffgarbage", b"\0\0\0\0\2" + os.urandom(64)]
    bad_ids = [uuid7() for _ in bad]
    for n, asked in enumerate(good):
        client.submit(asked)
        if n < len(bad):
            client.expect(bad_ids[n])
            headers = RecordHeaders(correlation_id=bad_ids[n], tenant="local", reply_to=client.reply_to)
            client.publish_raw(b"key", bad[n], headers)
    finals = answers(client, 60)
    client.close()
    assert all(isinstance(finals[asked.request_id], InferenceCompleted) for asked in good)
    assert {finals[request_id].code for request_id in bad_ids} == {"undecodable"}  # type: ignore[union-attr]  # rejections have one

    listed = json.loads(stack.cli("dead-letters", "list", "--json").stdout)
    ours = [letter for letter in listed if letter["code"] == "undecodable"]
    assert len(ours) >= len(bad)
    shown = stack.cli("dead-letters", "show", str(ours[0]["id"]))
    assert shown.returncode == 0, shown.stderr
    replayed = stack.cli("dead-letters", "replay", str(ours[0]["id"]))
    assert replayed.returncode == 0, replayed.stderr
    eventually(lambda: len(json.loads(stack.cli("dead-letters", "list", "--json").stdout)) > len(listed), 20, "it failed again")


def test_a_header_name_that_is_no_text_is_rejected_and_stops_nobody(stack: RunningStack) -> None:
    """Such a name breaks the parsers of Kafka clients in Python: a request is rejected, garbage is kept, all services go on."""
    services = ("inference-0", "sweeper-0")
    running = [stack.record(name)["pid"] for name in services]
    client, partitions = stack.client(), stack.settings.partitions
    here = (uuid7() for _ in iter(int, 1))  # without headers, the reply goes where the id's digest says
    asked = request("odd", request_id=next(i for i in here if partition_for(i.encode(), partitions) == client.reply_to.partition))
    client.expect(asked.request_id)
    before = _dead_letters(stack)
    codec = Codec(ConfluentRegistry(stack.settings.registry))
    _publish_with_odd_header(stack, [codec.encode(REQUESTS, asked), b"garbage"])
    final = answers(client, 30)[asked.request_id]
    assert isinstance(final, InferenceRejected) and final.code == "unreadable_headers"
    eventually(lambda: _dead_letters(stack) > before, 20, "the garbage is kept")
    later = request("and after it?", max_tokens=2)
    client.submit(later)
    assert isinstance(answers(client, 60)[later.request_id], InferenceCompleted)
    client.close()
    assert all(stack.ready(name) for name in services)
    assert [stack.record(name)["pid"] for name in services] == running


def test_a_request_that_nobody_can_answer_in_time_is_failed_by_the_sweeper(stack: RunningStack) -> None:
    """Dispatcher and worker stand still: within a second of its deadline the request fails, and they go on afterwards."""
    frozen = ("dispatcher-0", "deep-learning-0")
    with stack.frozen(*frozen):
        client = stack.client()
        asked = request("nobody is there", deadline_s=3)
        client.submit(asked)
        final = answers(client, 20)[asked.request_id]
    assert isinstance(final, InferenceFailed)
    assert (final.stage, final.code, final.retryable) == ("sweeper", "deadline_exceeded", True)
    assert asked.deadline_at is not None
    assert final.failed_at - asked.deadline_at <= 1000
    later = request("and now?", max_tokens=2)
    client.submit(later)
    assert isinstance(answers(client, 60)[later.request_id], InferenceCompleted)
    client.close()


def test_the_same_request_published_twice_is_answered_once(stack: RunningStack) -> None:
    """Whether known or not, a reader gets one final event, and all finals on the log have one id."""
    client = stack.client()
    asked = request("twice", max_tokens=2)
    client.submit(asked)
    client.publish(asked)
    first = answers(client, 60)
    eventually(lambda: _tier(stack, "twice") == "exact", 20, "it is known")
    client.publish(asked)
    client.flush()
    eventually(lambda: len(_final_ids(stack, asked)) >= 2, 30, "the third publication was answered from knowledge")
    assert list(first) == [asked.request_id]
    assert len(set(_final_ids(stack, asked))) == 1
    client.close()


def test_redis_away_makes_misses_and_a_flush_is_filled_again(stack: RunningStack) -> None:
    """Known answers go the long way while Redis is gone, and are known again without a restart."""
    client = stack.client()
    known = request("remember me", max_tokens=2)
    client.submit(known)
    answers(client, 60)
    eventually(lambda: _tier(stack, "remember me") == "exact", 20, "it is known")
    stack.kill("redis", signal.SIGSTOP)
    try:
        assert _tier(stack, "remember me") == "deep-learning"
    finally:
        stack.resume("redis")
    eventually(lambda: _tier(stack, "remember me") == "exact", 20, "it is known again")
    _flush(stack)
    eventually(lambda: _tier(stack, "remember me") == "exact", 20, "a flushed Redis was filled again")
    client.close()


def test_what_the_catalogue_does_not_grant_is_refused(stack: RunningStack) -> None:
    """Users can do what their service needs and no more; a wrong password or none gets nowhere."""
    settings = stack.settings
    producer = kafka_access(settings, "producer-local")
    assert _write_error(producer, REQUESTS) is None
    assert _write_error(producer, DL_REQUESTS) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert _read_error(producer, "inference.responses") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert _read_error(kafka_access(settings, "inference"), DL_REQUESTS) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    wrong = KafkaAccess(producer.bootstrap, producer.security, producer.username, "wrong")
    assert _write_error(wrong, REQUESTS) == KafkaError._MSG_TIMED_OUT


# The client in Python is the only one here that takes such a name, and only without its compiled parts.
_ODD = """
import asyncio, sys
from aiokafka import AIOKafkaProducer
from connectors.registry import ConfluentRegistry
from infra.access import kafka_access
from schemas.codec import Codec
from infra.settings import Settings

class Odd(str):
    def encode(self, *_):
        return bytes([0xFF, 0xFE])

async def main():
    producer = AIOKafkaProducer(**kafka_access(Settings(), "producer-local").aiokafka())
    await producer.start()
    for value in sys.argv[2:]:
        await producer.send_and_wait(sys.argv[1], bytes.fromhex(value), headers=[(Odd("odd"), b"value"), ("tenant", b"local")])
    await producer.stop()

asyncio.run(main())
"""


def _publish_with_odd_header(stack: RunningStack, values: list[bytes]) -> None:
    """Records on the request topic with a header whose name is no UTF-8."""
    command = [sys.executable, "-c", _ODD, REQUESTS, *(value.hex() for value in values)]
    environment = {**stack.environment, "AIOKAFKA_NO_EXTENSIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _dead_letters(stack: RunningStack) -> int:
    return len(json.loads(stack.cli("dead-letters", "list", "--json").stdout))


def _tier(stack: RunningStack, prompt: str) -> str:
    client = stack.client()
    asked = request(prompt, max_tokens=2)
    client.submit(asked)
    final = answers(client, 60)[asked.request_id]
    client.close()
    assert isinstance(final, InferenceCompleted), final
    return final.tier


def _flush(stack: RunningStack) -> None:
    import redis

    redis.Redis.from_url(stack.settings.redis).flushall()


def _final_ids(stack: RunningStack, asked: InferenceRequested) -> list[str]:
    """Event ids of a request's finals on the log, repeats included."""
    traced = json.loads(stack.cli("trace", asked.request_id, "--json").stdout)
    return [str(entry["headers"]["event-id"]) for entry in traced if str(entry["event"]) == "InferenceCompleted"]


def _write_error(access: KafkaAccess, topic: str) -> int | None:
    errors: list[KafkaError | None] = []
    producer = Producer({**access.confluent(), "message.timeout.ms": 4000, "log_level": 0})
    producer.produce(topic, b"garbage", on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    return None if errors[0] is None else errors[0].code()


def _read_error(access: KafkaAccess, topic: str) -> int | None:
    consumer = Consumer({**access.confluent(), "group.id": f"{access.username}.test", "auto.offset.reset": "earliest", "log_level": 0})
    consumer.subscribe([topic])
    until = time.monotonic() + 10
    try:
        while time.monotonic() < until:
            message = consumer.poll(0.5)
            if message is not None and message.error() is not None:
                return int(message.error().code())
        return None
    finally:
        consumer.close()
