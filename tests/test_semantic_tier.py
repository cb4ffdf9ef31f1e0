"""The semantic tier over a real index: never an answer of another scope, misses where something is away, checks where they are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.semantic_tier import Asked, Finding, SemanticPorts, SemanticTier
from connectors.index.in_process import InProcessIndex
from schemas.codec import Codec
from schemas.events import InferenceRequested, Message, Parameters
from schemas.ids import uuid7
from schemas.knowledge import AnswerLearned, Question, SemanticHitChecked
from streams.errors import RetryableError
from streams.routing import EntryIds
from streams.semantic.assurance import AssuranceRules
from streams.semantic.decision import DecisionRule, Prior
from streams.semantic.ports import IndexedEntry, Match
from streams.semantic.questions import check_request_id, packed, unpacked, why_not
from streams.semantic.texts import QuestionPair
from streams.semantic.trust import Trust, TrustSettings
from streams.topics import KNOWLEDGE
from tests.test_schemas import MemoryRegistry

SURE = TrustSettings(DecisionRule(Prior(np.array([0.3]), np.array([200.0]), np.array([1.0])), 0.02), AssuranceRules())
ENTRY_IDS = EntryIds("a secret", {"m": "1"})
QUESTIONS = ("how do I reset my password", "how can I reset my password", "how do I reset a password")


class LettersEmbedder:
    """Counts of letters: texts of the same letters are alike, so that every question here comes near every other."""

    version = "letters/1"
    dimensions = 26

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[t.lower().count(chr(97 + i)) for i in range(26)] for t in texts], np.float32) + 0.01
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Eager:
    """A verifier that is always sure: what keeps scopes apart may not be luck."""

    version = "eager"

    def __init__(self, probability: float = 0.999) -> None:
        self.probability = probability

    def probabilities(self, pairs: Sequence[QuestionPair]) -> np.ndarray:
        return np.full(len(pairs), self.probability, np.float32)


class Away(RetryableError):
    """The server of a test does not answer."""


class Answers:
    """The store of known answers, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.away = False

    async def get_many(self, entry_ids: Sequence[str]) -> Mapping[str, bytes]:
        if self.away:
            raise Away("answers_away", "away", "wait")
        return {entry: self.values[entry] for entry in entry_ids if entry in self.values}


class World:
    """A tier with what it stands on."""

    def __init__(self, verifier: Eager | None = None, draw: float = 0.5) -> None:
        self.codec, self.answers = Codec(MemoryRegistry()), Answers()
        self.index, self.trust, self.embedder = InProcessIndex(26), Trust(SURE), LettersEmbedder()
        self.threads = ThreadPoolExecutor(1)
        self.tier = SemanticTier(
            SemanticPorts(
                embedder=self.embedder, index=self.index, verifier=verifier or Eager(), answers=self.answers, codec=self.codec,
                threads=self.threads, draw=lambda: draw,
            ),
            self.trust,
        )  # fmt: skip

    async def learn(self, request: InferenceRequested) -> str:
        """Make an answer known, as the learning service does and the index follows."""
        text = request.messages[-1].content
        vector = self.embedder.embed([text])[0]
        entry, scope = ENTRY_IDS.entry_id(request), ENTRY_IDS.scope(request)
        question = Question(scope=scope, text=text, embedding_version="letters/1", vector=packed(vector))
        learned = AnswerLearned(
            entry_id=entry, tenant=request.tenant, model=request.model, text=f"of {request.tenant}", finish_reason="stop", prompt_tokens=1,
            completion_tokens=1, learned_from=request.request_id, cause="a test", learned_at=0, question=question,
        )  # fmt: skip
        self.answers.values[entry] = self.codec.encode(KNOWLEDGE, learned)
        await self.index.upsert([IndexedEntry(entry_id=entry, scope=scope, vector=unpacked(question))])
        return entry

    async def find(self, *requests: InferenceRequested) -> list[Finding]:
        asked = [Asked(request=r, scope=ENTRY_IDS.scope(r), entry_id=ENTRY_IDS.entry_id(r)) for r in requests]
        return await self.tier.find(asked)

    async def close(self) -> None:
        await self.index.close()
        self.threads.shutdown()


def ask(
    question: str, *, tenant: str = "acme", system: str = "", model: str = "m", max_tokens: int = 9, version: str = ""
) -> InferenceRequested:  # fmt: skip
    """A request that differs from others in what makes a scope."""
    messages = (*((Message(role="system", content=system),) if system else ()), Message(role="user", content=question))
    return InferenceRequested(
        request_id=uuid7(), tenant=tenant, model=model, messages=messages, parameters=Parameters(max_tokens=max_tokens), requested_at=0,
        prompt_version=version,
    )  # fmt: skip


REQUESTS = st.builds(
    ask, st.sampled_from(QUESTIONS), tenant=st.sampled_from(["acme", "globex"]), system=st.sampled_from(["", "be brief", "be kind"]),
    model=st.sampled_from(["m", "n"]), max_tokens=st.sampled_from([9, 10]), version=st.sampled_from(["", "v2"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(known=st.lists(REQUESTS, max_size=12), asked=st.lists(REQUESTS, min_size=1, max_size=8))
async def test_not_one_answer_crosses_a_scope(known: list[InferenceRequested], asked: list[InferenceRequested]) -> None:
    """Over generated scopes: what is served was learned in the very scope of who asks, and a known question of the scope is found."""
    world = World()
    for request in known:
        await world.learn(request)
    learned = {(ENTRY_IDS.scope(r), ENTRY_IDS.entry_id(r)) for r in known}
    for request, finding in zip(asked, await world.find(*asked), strict=True):
        scope, own = ENTRY_IDS.scope(request), ENTRY_IDS.entry_id(request)
        others = {entry for s, entry in learned if s == scope and entry != own}
        if finding.served is None:
            assert not others, finding.reason
        else:
            assert finding.served.entry_id in others
            assert finding.served.question is not None and finding.served.question.scope == scope
            assert finding.served.tenant == request.tenant
    await world.close()


async def test_a_hit_in_a_new_scope_is_checked_and_one_in_a_scope_that_is_shut_off_is_none() -> None:
    """The order to check carries what was served; wrong verdicts end it."""
    world = World()
    entry = await world.learn(ask(QUESTIONS[0]))
    request = ask(QUESTIONS[1])
    (finding,) = await world.find(request)
    assert finding.served is not None and finding.check is not None and finding.check.served
    assert (finding.check.entry_id, finding.check.known_text) == (entry, "of acme")
    for number in range(20):
        wrong = SemanticHitChecked(
            request_id=f"r{number}", met_by="m", tenant="acme", scope=ENTRY_IDS.scope(request), entry_id=f"e{number}", similarity=0.9,
            score=0.9, served=True, same=False, confidence=0.9, judge="j", checked_at=number,
        )  # fmt: skip
        world.trust.count(wrong, "m")
    (finding,) = await world.find(request)
    assert finding.served is None and "shut off" in finding.reason and finding.question.text == QUESTIONS[1]
    await world.close()


async def test_a_request_that_takes_no_known_answer_keeps_its_question() -> None:
    """With no-cache nothing is served or tried out, and the answer can be found by its question afterwards."""
    world = World()
    await world.learn(ask(QUESTIONS[0]))
    request = ask(QUESTIONS[1])
    asked = Asked(request=request, scope=ENTRY_IDS.scope(request), entry_id=ENTRY_IDS.entry_id(request), serve=False)
    (finding,) = await world.tier.find([asked])
    assert (finding.served, finding.check) == (None, None) and finding.question.text == QUESTIONS[1]
    await world.close()


async def test_an_unsure_candidate_is_tried_out_against_the_fresh_answer() -> None:
    """Not served, and compared where it is more likely right than wrong."""
    world = World(Eager(0.045))  # log odds of 0.305 on [0, 1]: 73% under the prior
    await world.learn(ask(QUESTIONS[0]))
    (finding,) = await world.find(ask(QUESTIONS[1]))
    assert finding.served is None and finding.check is not None and not finding.check.served
    await world.close()


async def test_gates_hold_back_what_the_verifier_would_serve() -> None:
    """A negation is another question, however alike the words are."""
    world = World()
    await world.learn(ask("turn on dark mode"))
    (finding,) = await world.find(ask("turn off dark mode"))
    assert finding.served is None and "asks something else" in finding.reason
    await world.close()


async def test_what_is_away_or_was_retracted_is_a_miss() -> None:
    """Never an error, never an old answer; and it is known again when the store is back."""
    world = World()
    entry = await world.learn(ask(QUESTIONS[0]))
    world.answers.away = True
    (finding,) = await world.find(ask(QUESTIONS[1]))
    assert finding.served is None and "away" in finding.reason and finding.question.vector
    world.answers.away = False
    (finding,) = await world.find(ask(QUESTIONS[1]))
    assert finding.served is not None
    del world.answers.values[entry]  # retracted: the index has not heard of it yet
    (finding,) = await world.find(ask(QUESTIONS[1]))
    assert finding.served is None
    await world.close()


class BrokenIndex(InProcessIndex):
    """An index whose server is away."""

    async def search(self, _scope: str, _vectors: np.ndarray, _k: int) -> list[list[Match]]:
        raise Away("index_away", "away", "wait")


async def test_an_index_that_is_away_makes_misses() -> None:
    """As with the store."""
    world = World()
    world.tier._ports = SemanticPorts(
        embedder=world.embedder, index=BrokenIndex(26), verifier=Eager(), answers=world.answers, codec=world.codec, threads=world.threads,
        draw=lambda: 0.5,
    )  # fmt: skip
    (finding,) = await world.find(ask(QUESTIONS[0]))
    assert finding.served is None and "index_away" in finding.reason
    await world.close()


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ask("q"), ""),
        (replace(ask("q"), cache="no-store"), "cache"),
        (replace(ask("q"), parameters=Parameters(temperature=0.7)), "temperature"),
        (replace(ask("q"), task="classify"), "free text"),
        (replace(ask("q"), messages=tuple(Message(role=role, content=role) for role in ("user", "assistant", "user"))), "turns"),
    ],
)  # fmt: skip
def test_who_is_answered_semantically(request_: InferenceRequested, why: str) -> None:
    """One turn, greedy, free text, and a caller that takes known answers."""
    told = why_not(request_, 0.0)
    assert (told == "") == (why == "") and why in told


def test_the_id_of_a_check_comes_out_the_same_and_is_of_the_requests_time() -> None:
    """So that a repeated request orders the same check."""
    request_id = uuid7(123_456)
    assert check_request_id(request_id, "e") == check_request_id(request_id, "e") != check_request_id(request_id, "f")
    assert check_request_id(request_id, "e")[:13] == request_id[:13]
