"""Idempotency keys as a fold over the log: whatever races, one response to a key, and never to another request or tenant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.events import GenerationFinished, Idempotency, InferenceCompleted, InferenceRequested, Message, Parameters, Position
from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed
from streams.idempotency import GRACE_MS, KEPT_MS, IdempotencyKeys, claim, computed_answer, known_answer
from streams.routing import EntryIds

START, DEADLINE = 1_000_000, 1_060_000
ASKED = Idempotency(key="k", body="b")
HERE = Position(topic="t", partition=0, offset=0)
REQUEST = InferenceRequested(
    request_id="r", tenant="acme", model="m", messages=(Message(role="user", content="hello"),), parameters=Parameters(max_tokens=4),
    requested_at=START, idempotency_key="order-17",
)  # fmt: skip


def claimed(request_id: str, at: int = START, body: str = "b", deadline: int = DEADLINE) -> IdempotencyKeyClaimed:
    """A claim of the key."""
    return claim(replace(ASKED, body=body), "acme", request_id, deadline, at)


def known(request_id: str, at: int = START, body: str = "b") -> IdempotencyKeyAnswered:
    """A known answer that takes the key."""
    final = InferenceCompleted(
        request_id=request_id, tenant="acme", model="m", tier="exact", reason="", text=f"known to {request_id}", finish_reason="stop",
        prompt_tokens=1, completion_tokens=2, requested_at=at, admitted_at=at, completed_at=at, source=HERE, embedding=(0.5,),
        confidence=0.9,
    )  # fmt: skip
    return known_answer(replace(ASKED, body=body), final, DEADLINE, at)


def result(request_id: str, at: int = START, body: str = "b", **changes: Any) -> GenerationFinished:
    """A computation's result."""
    facts = {"outcome": "completed", "idempotency": replace(ASKED, body=body), **changes}
    return GenerationFinished(
        request_id=request_id, tenant="acme", model="m", worker="w", epoch=1, text=f"computed for {request_id}", finish_reason="stop",
        prompt_tokens=1, completion_tokens=2, finished_at=at, **facts,
    )  # fmt: skip


def computed(request_id: str, at: int = START, body: str = "b") -> IdempotencyKeyAnswered:
    """What the learning service makes of a result."""
    answer = computed_answer(result(request_id, at, body))
    assert answer is not None
    return answer


def keys(*folded: IdempotencyKeyClaimed | IdempotencyKeyAnswered) -> IdempotencyKeys:
    """Keys as the log has them."""
    state = IdempotencyKeys()
    for event in folded:
        state.fold(event)
    return state


def test_the_first_on_the_log_has_the_key() -> None:
    """The others of the same body wait for it; another body may not use it; the holder itself goes on after a crash."""
    state = keys(claimed("r1"), claimed("r2"), claimed("r3", body="other"), known("r4"))
    standings = [state.standing(ASKED, r, START) for r in ("r1", "r2", "r4")]
    assert standings == ["mine", "claimed", "claimed"]
    assert state.standing(replace(ASKED, body="other"), "r3", START) == "conflict"
    assert state.standing(replace(ASKED, key="another"), "r1", START) == "free"
    assert state.answer(ASKED) is None, "a known answer that was not first was never given"


def test_a_computed_answer_stays_for_a_day_and_the_first_one_counts() -> None:
    """Whoever of the same key computed it."""
    state = keys(claimed("r1"), computed("r2"), computed("r1"), claimed("r3"))
    assert state.standing(ASKED, "r4", START + KEPT_MS) == "answered"
    answer = state.answer(ASKED)
    assert answer is not None and answer.text == "computed for r2"
    assert state.standing(replace(ASKED, body="x"), "r5", START + KEPT_MS) == "conflict"
    assert state.standing(ASKED, "r4", START + KEPT_MS + 1) == "free"
    state.forget(START + KEPT_MS + 1)
    assert not state.holders


def test_a_known_answer_that_is_first_is_the_answer() -> None:
    """A later computation, by whoever missed it, changes nothing; what was given is given again whole."""
    state = keys(known("r1"), claimed("r2"), computed("r2"))
    answer = state.answer(ASKED)
    assert answer is not None
    assert (answer.text, answer.tier, answer.embedding, answer.confidence) == ("known to r1", "exact", (0.5,), 0.9)


def test_a_claim_without_an_answer_is_void_when_it_is_overdue() -> None:
    """Then the next claim has the key, with another body too; an answer that comes too late for it changes nothing."""
    late = DEADLINE + GRACE_MS
    assert keys(claimed("r1"), claimed("r2", late)).standing(ASKED, "r2", late) == "claimed"
    state = keys(claimed("r1"), claimed("r2", late + 1, "other", late + 60_000), computed("r1", late + 2))
    assert state.standing(replace(ASKED, body="other"), "r2", late + 3) == "mine"
    assert state.standing(ASKED, "r1", late + 3) == "conflict"


@pytest.mark.parametrize("changes", [{"outcome": "failed"}, {"outcome": "returned"}, {"idempotency": None}])
def test_only_a_completed_result_with_a_key_answers_it(changes: dict[str, Any]) -> None:
    """A failure gives nothing to repeat."""
    assert computed_answer(result("r1", **changes)) is None


def test_digests_are_keyed_by_tenant_and_tell_bodies_apart() -> None:
    """Neither key nor body can be tested without the secret; what doesn't change the response doesn't change the body."""
    ids = EntryIds("a secret", {})
    mine = ids.idempotency(REQUEST)
    assert mine is not None and ids.idempotency(replace(REQUEST, idempotency_key=None)) is None
    assert mine == ids.idempotency(replace(REQUEST, request_id="r2", priority=3, requested_at=5, cache="no-store"))
    theirs = ids.idempotency(replace(REQUEST, tenant="globex"))
    secret = EntryIds("another", {}).idempotency(REQUEST)
    other = ids.idempotency(replace(REQUEST, parameters=Parameters(max_tokens=4, temperature=1.0)))
    assert theirs is not None and secret is not None and other is not None
    assert len({mine.key, theirs.key, secret.key}) == 3 == len({mine.body, theirs.body, other.body})
    assert mine.key == other.key and mine.body != ids.entry_id(REQUEST)


@dataclass
class Agent:
    """One request on its way through an agent, as agents.idempotency does it, each step when the schedule says so."""

    request_id: str
    body: str
    knows: bool
    view: IdempotencyKeys = field(default_factory=IdempotencyKeys)
    read: int = 0
    own_record: int | None = None  # how far the log must be read, once it has published
    done: bool = False
    refused: bool = False
    texts: list[str] = field(default_factory=list)

    @property
    def asked(self) -> Idempotency:
        return replace(ASKED, body=self.body)


class Race:
    """Agents that read one log at their own pace and crash between any two steps. One computation at a time, as the dispatcher sees to."""

    def __init__(self, asked: list[tuple[str, bool]]) -> None:
        self.log: list[IdempotencyKeyClaimed | IdempotencyKeyAnswered] = []
        self.agents = [Agent(f"r{n}", body, knows) for n, (body, knows) in enumerate(asked)]
        self.waiting: list[Agent] = []  # for the computation
        self.computed = ""

    def reads(self, agent: Agent) -> None:
        if agent.read < len(self.log):
            agent.view.fold(self.log[agent.read])
            agent.read += 1

    def crashes(self, agent: Agent) -> None:
        agent.view, agent.read, agent.own_record, agent.done = IdempotencyKeys(), 0, None, False

    def ends(self, _: Agent) -> None:
        """The computation ends, if there is one."""
        assert len({agent.body for agent in self.waiting}) <= 1, "two bodies are computed under one key"
        if self.waiting:
            answer = computed(self.waiting[0].request_id, body=self.waiting[0].body)
            self.computed = answer.text
            self.log.append(answer)
            for agent in self.waiting:
                agent.texts.append(answer.text)
            self.waiting = []

    def goes_on(self, agent: Agent) -> None:
        standing = agent.view.standing(agent.asked, agent.request_id, START)
        if agent.done or (agent.own_record is not None and agent.read <= agent.own_record):
            return
        if standing == "free":
            agent.own_record = len(self.log)
            self.log.append(known(agent.request_id, body=agent.body) if agent.knows else claimed(agent.request_id, body=agent.body))
            return
        agent.done, answer = True, agent.view.answer(agent.asked)
        if standing == "conflict":
            agent.refused = True
        elif standing == "answered" and answer is not None:
            agent.texts.append(answer.text)
        elif self.computed:  # which the dispatcher remembers for the key
            agent.texts.append(self.computed)
        elif agent not in self.waiting:
            self.waiting.append(agent)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("bc"), st.booleans()), min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["goes_on", "reads", "crashes", "ends"])), max_size=80),
)
def test_one_response_to_a_key_whatever_races(asked: list[tuple[str, bool]], schedule: list[tuple[int, str]]) -> None:
    """Known to some and not to others, two bodies: one of them gets one response, however often, and the other none."""
    race = Race(asked)
    for n, step in schedule:
        getattr(race, step)(race.agents[n % len(race.agents)])
    for step in ["goes_on", *["reads"] * (len(race.log) + len(asked)), "goes_on", "ends", "goes_on"]:
        for agent in race.agents:
            getattr(race, step)(agent)
    assert all(agent.texts or agent.refused for agent in race.agents)
    assert len({text for agent in race.agents for text in agent.texts}) == 1
    assert len({agent.body for agent in race.agents if agent.texts}) == 1
    assert not any(agent.texts and agent.refused for agent in race.agents)
