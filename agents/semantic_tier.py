"""The semantic tier: finds a known question that asks the same, and decides whether its answer may be served.

embed ► candidates in scope ► gates ► verifier ► the entry's decision rule ► a share of the hits is checked by the deep-learning service.
Whatever is away here makes misses: the request goes the long way, slow and right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from schemas.codec import Codec, UndecodableRecord
from schemas.events import InferenceRequested, SemanticCheck
from schemas.knowledge import AnswerLearned, Question
from streams.errors import RetryableError
from streams.ports import AnswerStore
from streams.semantic.gates import gate
from streams.semantic.ports import Match, VectorIndex
from streams.semantic.questions import packed
from streams.semantic.texts import Embedder, PairVerifier, QuestionPair
from streams.semantic.trust import Trust
from streams.semantic.wording import same_wording

log = logging.getLogger(__name__)

Item = TypeVar("Item")
CANDIDATES = 4  # the nearest in scope that are looked at: each that passes the gates costs the verifier 5 ms
FLOOR = 0.75  # cosine: the verifier was trained on pairs above it, and below it few ask the same


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticPorts:
    """What the tier needs of the world. `draw` gives uniform numbers in [0, 1); `threads` runs what computes for long."""

    embedder: Embedder
    index: VectorIndex
    verifier: PairVerifier
    answers: AnswerStore
    codec: Codec
    threads: Executor
    draw: Callable[[], float]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be answered semantically, or, without `serve`, whose answer may be found so later."""

    request: InferenceRequested
    scope: str
    entry_id: str
    serve: bool = True


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request: always the question for learning, and the known answer where it is to be served.

    `check` orders a comparison with a fresh answer: beside the served one, or with the one that is generated instead.
    """

    question: Question
    reason: str
    served: AnswerLearned | None = None
    check: SemanticCheck | None = None
    similarity: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    match: Match
    learned: AnswerLearned
    score: float


class SemanticTier:
    """Handles batches of requests. `trust` is kept in line with the log by somebody else."""

    def __init__(self, ports: SemanticPorts, trust: Trust) -> None:
        self._ports = ports
        self._trust = trust

    async def find(self, asked: Sequence[Asked]) -> list[Finding]:
        """One finding for each request, in order."""
        texts = [a.request.messages[-1].content for a in asked]
        vectors = await self._in_thread(self._ports.embedder.embed, texts)
        questions = [self._question(a, text, vector) for a, text, vector in zip(asked, texts, vectors, strict=True)]
        try:
            near = await self._candidates(asked, vectors)
            known = await self._known(near)
        except RetryableError as error:
            log.warning("semantic_tier_away reason=%s", error)
            return [Finding(question=q, reason=f"semantic answers are away: {error.code}") for q in questions]
        gated = [_through_gates(a, text, matches, known) for a, text, matches in zip(asked, texts, near, strict=True)]
        scores = await self._verified([(text, kept) for text, (kept, _) in zip(texts, gated, strict=True)])
        findings = []
        for a, question, (kept, why), of_kept in zip(asked, questions, gated, scores, strict=True):
            best = max((_Candidate(m, k, s) for (m, k), s in zip(kept, of_kept, strict=True)), key=lambda c: c.score, default=None)
            findings.append(self._decide(a, question, best) if best else Finding(question=question, reason=why or self._why_none(a)))
        return findings

    def _question(self, asked: Asked, text: str, vector: np.ndarray) -> Question:
        return Question(scope=asked.scope, text=text, embedding_version=self._ports.embedder.version, vector=packed(vector))

    async def _candidates(self, asked: Sequence[Asked], vectors: np.ndarray) -> list[list[Match]]:
        """The nearest entries of each request's own scope; none where the scope is shut off."""
        near: list[list[Match]] = [[] for _ in asked]
        by_scope: dict[str, list[int]] = {}
        for i, a in enumerate(asked):
            if a.serve and not self._trust.is_shut_off(a.scope):
                by_scope.setdefault(a.scope, []).append(i)
        for scope, rows in by_scope.items():
            for i, matches in zip(rows, await self._ports.index.search(scope, vectors[rows], CANDIDATES), strict=True):
                near[i] = [m for m in matches if m.entry_id != asked[i].entry_id]
        return near

    async def _known(self, near: Sequence[Sequence[Match]]) -> dict[str, AnswerLearned]:
        """The answers as they are now: what was retracted or forgotten since it was indexed is not among them."""
        wanted = dict.fromkeys(m.entry_id for matches in near for m in matches)
        values = await self._ports.answers.get_many(list(wanted))
        found = {}
        for entry_id, value in values.items():
            try:
                event = self._ports.codec.decode(value) if self._ports.codec.knows(value) else None
            except (UndecodableRecord, OSError) as error:
                log.warning("known_answer_unreadable entry=%s reason=%s", entry_id, error)
                continue
            if isinstance(event, AnswerLearned):
                found[entry_id] = event
        return found

    async def _verified(self, kept: Sequence[tuple[str, Sequence[tuple[Match, AnswerLearned]]]]) -> list[list[float]]:
        """Probability that each candidate asks the same, all of the batch together."""
        pairs = [
            QuestionPair(known=learned.question.text, asked=text, similarity=match.similarity)
            for text, candidates in kept
            for match, learned in candidates
            if learned.question is not None
        ]
        if not pairs:
            return [[] for _ in kept]
        scores = iter((await self._in_thread(self._ports.verifier.probabilities, pairs)).tolist())
        return [[next(scores) for _ in candidates] for _, candidates in kept]

    def _decide(self, asked: Asked, question: Question, best: _Candidate) -> Finding:
        entry = best.learned.entry_id
        decision = self._trust.decide(entry, best.score, self._ports.draw())
        told = f"cosine {best.match.similarity:.3f}, probability {best.score:.3f}"
        if not decision.serve and not decision.explore:
            return Finding(question=question, reason=f"the nearest known question is not sure enough to ask the same ({told})")
        checked = decision.explore or self._ports.draw() < self._trust.check_share(asked.scope)
        check = SemanticCheck(
            entry_id=entry, similarity=best.match.similarity, score=best.score, served=decision.serve, known_text=best.learned.text,
            request_id=asked.request.request_id,
        )  # fmt: skip
        if decision.explore:
            return Finding(question=question, reason=f"a known answer is tried out against a fresh one ({told})", check=check)
        reason = f"a known question asks the same ({told}; scope {self._trust.told(asked.scope)})"
        return Finding(
            question=question, reason=reason, served=best.learned, check=check if checked else None, similarity=best.match.similarity,
            score=best.score,
        )  # fmt: skip

    def _why_none(self, asked: Asked) -> str:
        if not asked.serve:
            return "its answer can be found by its question"
        if self._trust.is_shut_off(asked.scope):
            return "semantic answers of this scope are shut off"
        return "no known question of this scope comes near"

    async def _in_thread(self, call: Callable[[Sequence[Item]], np.ndarray], items: Sequence[Item]) -> np.ndarray:
        return await asyncio.get_running_loop().run_in_executor(self._ports.threads, call, items)


def _through_gates(
    asked: Asked, text: str, matches: Sequence[Match], known: Mapping[str, AnswerLearned]
) -> tuple[list[tuple[Match, AnswerLearned]], str]:
    """The candidates that no gate holds back, and why the nearest that was held back was."""
    kept, why = [], ""
    for match in matches:
        learned = known.get(match.entry_id)
        if learned is None or learned.question is None or learned.question.scope != asked.scope or match.similarity < FLOOR:
            continue
        if same_wording(text, learned.question.text):
            return [(match, learned)], ""  # nothing can be surer, so the others need not be verified
        if held_back := gate(text, learned.question.text):
            why = why or f"the nearest known question asks something else: {held_back}"
        else:
            kept.append((match, learned))
    return kept, why
