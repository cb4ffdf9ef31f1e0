"""Nothing is computed twice on the real stack: identical requests in flight, idempotency keys, and agents that die in the middle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from connectors.kafka.client import RequestClient
from connectors.kafka.log import KafkaLog
from connectors.registry import ConfluentRegistry
from infra.access import kafka_access
from schemas.codec import Codec
from schemas.events import Final, GenerationStarted, InferenceCompleted, InferenceFailed, InferenceRejected, InferenceRequested, Parameters
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from streams.topics import LIFECYCLE, REQUESTS
from tests.running_stack import RunningStack, answers, eventually, request

pytestmark = pytest.mark.stack
WARM = Parameters(max_tokens=12, temperature=1.0)
WORKER, DISPATCHER, INFERENCE = "deep-learning-0", "dispatcher-0", "inference-0"


@pytest.fixture
def client(stack: RunningStack) -> Iterator[RequestClient]:
    """A client of its own for each test."""
    made = stack.client()
    yield made
    made.close()


@contextmanager
def frozen(stack: RunningStack, name: str) -> Iterator[None]:
    """While an agent stands still; another test may have killed it, so that it is ready first."""
    eventually(lambda: stack.ready(name), 60, f"{name} is ready")
    with stack.frozen(name):
        yield


def submit(stack: RunningStack, client: RequestClient, *requests: InferenceRequested) -> None:
    """Publish each to another partition, so that whichever agents there are get some of them."""
    codec = Codec(ConfluentRegistry(stack.settings.registry))
    for number, asked in enumerate(requests):
        client.expect(asked.request_id)
        headers = RecordHeaders(
            event="InferenceRequested", event_id=uuid7(), correlation_id=asked.request_id, tenant=asked.tenant, reply_to=client.reply_to
        )
        client.publish_raw(b"key %d" % number, codec.encode(REQUESTS, asked), headers)
    client.flush()


def computations(stack: RunningStack, *requests: InferenceRequested) -> set[str]:
    """Ids of those that a worker began to generate. One that moved from a worker that stood still is one computation."""
    codec, ids = Codec(ConfluentRegistry(stack.settings.registry)), {r.request_id for r in requests}
    since = min(r.requested_at for r in requests) - 1000
    records = asyncio.run(KafkaLog(kafka_access(stack.settings, "client")).read(LIFECYCLE, None, since))
    events = (codec.decode(record.value) for record in records)
    return {e.request_id for e in events if isinstance(e, GenerationStarted) and e.request_id in ids}


def queued(stack: RunningStack, *requests: InferenceRequested) -> bool:
    """Whether the dispatcher holds all of them."""
    ids, since = {r.request_id for r in requests}, min(r.requested_at for r in requests) - 1000
    records = asyncio.run(KafkaLog(kafka_access(stack.settings, "client")).read(LIFECYCLE, None, since))
    told = [RecordHeaders.parse(r.headers) for r in records]
    return ids <= {h.correlation_id for h in told if h.event == "RequestQueued"}


def texts(finals: dict[str, Final], *requests: InferenceRequested) -> set[str]:
    """The texts of completed requests. All of them must be."""
    told = [finals[r.request_id] for r in requests]
    assert all(isinstance(final, InferenceCompleted) for final in told), told
    return {final.text for final in told if isinstance(final, InferenceCompleted)}


def keyed(prompt: str, key: str, **more: Any) -> InferenceRequested:
    """A request with an idempotency key, sampled, so that two computations would differ."""
    return request(prompt, **{"parameters": WARM, "idempotency_key": key, **more})


def anew(prompt: str, **more: Any) -> InferenceRequested:
    """A request that no known answer serves, however alike its question is."""
    return request(prompt, **{"max_tokens": 8, "cache": "no-cache", **more})


def test_identical_requests_of_two_agents_are_answered_by_one_computation(stack: RunningStack, client: RequestClient) -> None:
    """Twenty at once through two agents: one is computed, each gets a final event of its own that says whose computation it was."""
    alike = [anew("all the same") for _ in range(20)]
    with stack.another("inference", 1):
        with frozen(stack, WORKER):
            submit(stack, client, *alike)
            eventually(lambda: queued(stack, *alike), 30, "all are held")
        finals = answers(client, 60)
    assert len(texts(finals, *alike)) == 1
    (leader,) = computations(stack, *alike)
    shared = {r.request_id: getattr(finals[r.request_id], "shared_with", "") for r in alike}
    assert shared == {r.request_id: None if r.request_id == leader else leader for r in alike}


def test_a_follower_goes_on_when_its_leader_fails(stack: RunningStack, client: RequestClient) -> None:
    """The leader's deadline ends while no worker is there; the follower, which has longer, is computed on its own."""
    leader, follower = anew("who leads", deadline_s=3), anew("who leads", deadline_s=50)
    with frozen(stack, WORKER):
        submit(stack, client, leader, follower)
        time.sleep(3.5)
    finals = answers(client, 60)
    assert isinstance(finals[leader.request_id], InferenceFailed)
    assert len(texts(finals, follower)) == 1
    assert follower.request_id in computations(stack, leader, follower)


def test_a_key_gets_one_response_while_it_is_computed_and_afterwards(stack: RunningStack, client: RequestClient) -> None:
    """Sampled and never stored, through two agents: one computation. Another body is refused at once, with what to do."""
    alike = [keyed("thank them", "order 1", cache="no-store") for _ in range(8)]
    other = keyed("thank him", "order 1")
    with stack.another("inference", 1):
        with frozen(stack, WORKER):
            submit(stack, client, *alike)
            eventually(lambda: queued(stack, *alike), 30, "all are held")
            submit(stack, client, other)
            refused = next(told.final for told in client.listen(20) if told.final is not None)
        finals = answers(client, 60)
        assert isinstance(refused, InferenceRejected)
        assert (refused.request_id, refused.code, refused.retryable) == (other.request_id, "idempotency_conflict", False)
        assert len(texts(finals, *alike)) == len(computations(stack, *alike)) == 1
        at_once = [keyed("thank them", "order 1") for _ in range(4)]
        submit(stack, client, *at_once)
        assert texts(answers(client, 60), *at_once) == texts(finals, *alike)
        eventually(lambda: _answered_again(stack, "thank them", "order 1") == texts(finals, *alike).pop(), 20, "the log has the answer")
    assert not computations(stack, *at_once)


def test_a_known_answer_takes_a_key_too(stack: RunningStack, client: RequestClient) -> None:
    """Then it is given again although a request asks for a new one."""
    first = request("known before", max_tokens=4)
    submit(stack, client, first)
    text = texts(answers(client, 60), first)
    eventually(lambda: _tier(stack, request("known before", max_tokens=4)) == "exact", 20, "it is known")
    again = [request("known before", max_tokens=4, idempotency_key="order 2", cache=cache) for cache in ("default", "no-store")]
    for asked, tier in zip(again, ("exact", "idempotency"), strict=True):
        submit(stack, client, asked)
        final = answers(client, 30)[asked.request_id]
        assert isinstance(final, InferenceCompleted)
        assert ({final.text}, final.tier) == (text, tier)


@pytest.mark.parametrize(
    ("agent", "point"),
    [
        (INFERENCE, "inference.before_claim"), (INFERENCE, "inference.after_claim"), (INFERENCE, "inference.after_produce"),
        (DISPATCHER, "dispatcher.before_share"), (DISPATCHER, "dispatcher.after_share"), (DISPATCHER, "dispatcher.after_dispatch"),
    ],
)  # fmt: skip
def test_killed_at_this_step_each_key_has_one_response(stack: RunningStack, client: RequestClient, agent: str, point: str) -> None:
    """Four keys and one entry, several requests each: all are answered, those of a group alike, and none of them is computed twice."""
    groups = [[keyed(f"{point} {n}", f"{point} {n}") for _ in range(4)] for n in range(4)]
    # Not `anew`: an agent's successor takes seconds to load its models, and who takes no known answer is computed again after two.
    groups.append([request(f"{point} alike", max_tokens=8) for _ in range(4)])
    everything = [asked for group in groups for asked in group]
    stack.restart_with(agent, f"{point}=kill@{1 if 'share' in point else 2}")  # several answers may be shared at once
    submit(stack, client, *everything)
    finals = answers(client, 90)
    assert (stack.home / "failpoints" / agent / f"failpoint-{point}").exists(), "it was killed there"
    for group in groups:
        assert len(texts(finals, *group)) == 1
        assert len(computations(stack, *group)) == 1
    stack.failpoints.write_text("")


def test_agents_that_join_and_leave_compute_nothing_twice(stack: RunningStack, client: RequestClient) -> None:
    """The group rebalances twice while requests come: each key has one response and one computation."""
    groups = [[keyed(f"moving {n}", f"moving {n}") for _ in range(6)] for n in range(8)]
    turns = [list(turn) for turn in zip(*groups, strict=True)]
    with stack.another("inference", 1, wait=False):  # it starts, joins and is given partitions meanwhile
        for turn in turns[:4]:
            submit(stack, client, *turn)
            time.sleep(3)
    for turn in turns[4:]:
        submit(stack, client, *turn)
        time.sleep(1)
    finals = answers(client, 90)
    for group in groups:
        assert len(texts(finals, *group)) == len(computations(stack, *group)) == 1


def _tier(stack: RunningStack, asked: InferenceRequested) -> str:
    client = stack.client()
    client.submit(asked)
    final = answers(client, 60)[asked.request_id]
    client.close()
    assert isinstance(final, InferenceCompleted), final
    return final.tier


def _answered_again(stack: RunningStack, prompt: str, key: str) -> str:
    client = stack.client()
    asked = keyed(prompt, key)
    client.submit(asked)
    final = answers(client, 60)[asked.request_id]
    client.close()
    return final.text if isinstance(final, InferenceCompleted) and final.tier == "idempotency" else ""
