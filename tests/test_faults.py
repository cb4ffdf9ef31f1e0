"""kill -9 of each agent at each step, of Kafka, and of groups in the middle: 200 requests, each with exactly one final event."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connectors.kafka.client import RequestClient
from connectors.kafka.log import KafkaLog
from infra.access import kafka_access
from infra.local.ports import is_free
from schemas.events import InferenceCompleted, InferenceFailed
from schemas.headers import RecordHeaders
from streams.ports import LogRecord
from streams.topics import FINALS, RESPONSES
from tests.checkout import ROOT
from tests.running_stack import RunningStack, answers, eventually, request

pytestmark = pytest.mark.stack

REQUESTS = 200
RATE = 100.0  # a second
_FINALS = {cls.__name__ for cls in FINALS}

# Each point is reached in the middle of the requests; the counts leave some before and some after.
STEPS = [
    ("inference-0", "inference.handle", 50),
    ("inference-0", "inference.before_produce", 20),
    ("inference-0", "inference.after_produce", 20),
    ("dispatcher-0", "dispatcher.before_produce", 10),
    ("dispatcher-0", "dispatcher.after_produce", 10),
    ("dispatcher-0", "dispatcher.before_dispatch", 10),
    ("dispatcher-0", "dispatcher.after_dispatch", 10),
    ("deep-learning-0", "deep-learning.take", 20),
    ("deep-learning-0", "deep-learning.token", 30),
    ("deep-learning-0", "deep-learning.before_produce", 20),
    ("deep-learning-0", "deep-learning.after_produce", 20),
    ("learning-0", "learning.before_produce", 5),
    ("learning-0", "learning.after_produce", 5),
]


@pytest.mark.parametrize(("agent", "point", "count"), STEPS, ids=[point for _, point, _ in STEPS])
def test_an_agent_killed_at_this_step_loses_and_doubles_nothing(stack: RunningStack, agent: str, point: str, count: int) -> None:
    """Its successor goes on from the log."""
    stack.restart_with(agent, f"{point}=kill@{count}")
    armed = stack.record(agent)["pid"]
    try:
        all_ends_well(stack, point)
    finally:
        stack.failpoints.unlink()
    assert (stack.home / "failpoints" / agent / f"failpoint-{point}").exists(), "the step was never reached"
    eventually(lambda: stack.record(agent)["pid"] != armed and stack.ready(agent), 60, f"{agent} is back")
    if agent == "learning-0":  # what it was learning when it died is known all the same
        eventually(lambda: _all_known(stack, point), 30, "every answer is known")


@pytest.mark.parametrize("point", ["sweeper.before_produce", "sweeper.after_produce"])
def test_the_sweeper_killed_while_it_fails_overdue_requests(stack: RunningStack, point: str) -> None:
    """Nobody else is there to end them; its successor does, once each."""
    stack.restart_with("sweeper-0", f"{point}=kill@1")
    frozen = ("dispatcher-0", "deep-learning-0")
    for name in frozen:
        stack.kill(name, signal.SIGSTOP)
    try:
        client = stack.client()
        since = time.time_ns() // 1_000_000
        asked = [request(f"{point} {n}", deadline_s=2) for n in range(5)]
        for each in asked:
            client.submit(each)
        finals = answers(client, 30)
        client.close()
    finally:
        for name in frozen:
            stack.resume(name)
        stack.failpoints.unlink()
    assert (stack.home / "failpoints" / "sweeper-0" / f"failpoint-{point}").exists(), "the step was never reached"
    assert {finals[each.request_id].code for each in asked} == {"deadline_exceeded"}  # type: ignore[union-attr]  # failures have one
    ids = _final_ids(stack, client.reply_to.partition, since)
    assert all(len(ids[each.request_id]) == 1 for each in asked)
    for name in ("sweeper-0", *frozen):
        eventually(lambda name=name: stack.ready(name), 60, f"{name} is ready")  # type: ignore[misc]  # a loop variable as default


def test_kafka_killed_in_the_middle(stack: RunningStack) -> None:
    """Producers, agents and readers wait for it, and go on by themselves."""
    all_ends_well(stack, "kafka", lambda: stack.kill("kafka"))
    eventually(lambda: stack.ready("inference-0"), 60, "the agents are ready")


def test_kafka_is_away_when_a_deadline_passes(stack: RunningStack) -> None:
    """Nobody can end the request meanwhile; within 5 s of Kafka's return its final event is there."""
    frozen = ("dispatcher-0", "deep-learning-0")
    with stack.frozen(*frozen):
        client = stack.client()
        asked = request("nobody, and no log", deadline_s=3)
        client.submit(asked)
        client.flush()
        stack.kill("kafka")
        assert asked.deadline_at is not None
        time.sleep(max(0.0, asked.deadline_at / 1000 - time.time()))
        assert not answers(client, 0.1)
        eventually(lambda: _answers_questions(stack), 60, "Kafka is back")
        finals = answers(client, 5)
        client.close()
    final = finals[asked.request_id]
    assert isinstance(final, InferenceFailed) and final.code == "deadline_exceeded"
    for name in ("inference-0", "sweeper-0", *frozen):
        eventually(lambda name=name: stack.ready(name), 60, f"{name} is ready")  # type: ignore[misc]  # a loop variable as default


def test_a_second_agent_that_joins_and_leaves_in_the_middle(stack: RunningStack) -> None:
    """Two rebalances while requests are under way."""
    port = next(p for p in range(23000, 24000) if is_free(p))
    command = [sys.executable, "-m", "infra.service", "inference", "--index", "1", "--port", str(port)]
    second = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def leave() -> None:
        eventually(lambda: _is_ready(port), 60, "the second agent took partitions")
        second.send_signal(signal.SIGTERM)

    try:
        all_ends_well(stack, "rebalance", leave)
        assert second.wait(30) == 0
    finally:
        second.kill()


def test_a_worker_frozen_past_detection_and_woken_again(stack: RunningStack) -> None:
    """SIGSTOP until it is taken for dead: what it held is placed anew, and what it says late is dropped by readers."""

    def freeze() -> None:
        stack.kill("deep-learning-0", signal.SIGSTOP)
        time.sleep(4)  # three heartbeats of half a second, and some
        stack.resume("deep-learning-0")

    all_ends_well(stack, "frozen", freeze)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round_", range(20))
def test_agents_killed_at_random_times(stack: RunningStack, round_: int) -> None:
    """Any three agents, at any three moments; the seed is the round."""
    chance = random.Random(round_)
    names = ["inference-0", "dispatcher-0", "deep-learning-0", "learning-0", "sweeper-0"]

    def kill_three() -> None:
        for _ in range(3):
            time.sleep(chance.uniform(0, 1.5))
            name = chance.choice(names)
            if stack.ready(name):
                stack.kill(name)

    all_ends_well(stack, f"round-{round_}", kill_three)
    for name in names:
        eventually(lambda name=name: stack.ready(name), 90, f"{name} is back")  # type: ignore[misc]  # a loop variable as default


def all_ends_well(stack: RunningStack, label: str, disturb: Callable[[], object] | None = None) -> None:
    """Send 200 requests at a fixed rate, a third of them alike, disturb in the middle, and hold each to exactly one final event."""
    client = stack.client()
    since = time.time_ns() // 1_000_000
    delivered: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    sender = threading.Thread(target=_send, args=(client, label, disturb))
    sender.start()
    until = time.monotonic() + 100
    while (sender.is_alive() or client.open_requests()) and time.monotonic() < until:
        for told in client.listen(0.5):
            if told.final is not None:
                delivered[told.request_id] += 1
                completed[told.request_id] += isinstance(told.final, InferenceCompleted)
    sender.join()
    client.flush()
    missing = client.open_requests()
    client.close()
    assert not missing, f"{len(missing)} requests have no final event: {missing[:3]}"
    assert len(delivered) == REQUESTS
    assert set(delivered.values()) == {1}, "a reader was given a final event twice"
    assert sum(completed.values()) == REQUESTS, f"{REQUESTS - sum(completed.values())} requests were failed or rejected"
    ids = _final_ids(stack, client.reply_to.partition, since)
    assert all(len(ids[request_id]) == 1 for request_id in delivered), "a request has final events of different ids"


def _send(client: RequestClient, label: str, disturb: Callable[[], object] | None) -> None:
    start = time.monotonic()
    disturbing: threading.Thread | None = None
    for n in range(REQUESTS):
        time.sleep(max(0.0, start + n / RATE - time.monotonic()))
        prompt = f"{label}: the same" if n % 3 == 0 else f"{label}: number {n}"
        client.submit(request(prompt, max_tokens=2 + n % 3))
        if n == REQUESTS // 3 and disturb is not None:
            disturbing = threading.Thread(target=disturb)
            disturbing.start()
    if disturbing is not None:
        disturbing.join()


def _all_known(stack: RunningStack, label: str) -> bool:
    """Whether each of the different questions of a run is answered from knowledge now."""
    client = stack.client()
    for n in range(REQUESTS):
        if n % 3:
            client.submit(request(f"{label}: number {n}", max_tokens=2 + n % 3))
    finals = answers(client, 60)
    client.close()
    return all(isinstance(final, InferenceCompleted) and final.tier == "exact" for final in finals.values())


def _final_ids(stack: RunningStack, partition: int, since_ms: int) -> dict[str, set[str]]:
    """Event ids of all final events on a reply partition, by request."""

    async def read() -> list[LogRecord]:
        return await KafkaLog(kafka_access(stack.settings, "operator")).read(RESPONSES, [partition], since_ms)

    ids: dict[str, set[str]] = defaultdict(set)
    for record in asyncio.run(read()):
        headers = RecordHeaders.parse(record.headers)
        if headers.event in _FINALS:
            ids[headers.correlation_id].add(headers.event_id)
    return ids


def _answers_questions(stack: RunningStack) -> bool:
    try:
        AdminClient({**kafka_access(stack.settings, "operator").confluent(), "log_level": 0}).list_topics(timeout=1)
    except KafkaException:
        return False
    return True


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
