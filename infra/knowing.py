"""Puts together what the inference and learning services know by: the embedder, the semantic tier, and what checks it."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agents.semantic_knowledge import SemanticKnowledge
from agents.semantic_tier import SemanticPorts, SemanticTier
from connectors.index.in_process import InProcessIndex
from connectors.index.milvus import MilvusIndex
from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.verifier import OnnxVerifier
from infra import models
from infra.settings import Settings
from schemas.codec import Codec
from streams.errors import PoisonError
from streams.ports import AnswerStore, Log
from streams.semantic.assurance import AssuranceRules
from streams.semantic.decision import DecisionRule, Prior
from streams.semantic.judging import RuleJudge
from streams.semantic.ports import SameAnswerJudge, VectorIndex
from streams.semantic.trust import Trust, TrustSettings

SHIPPED = Path(__file__).parent / "shipped"
_DECISION = SHIPPED / "verifier" / "decision.json"


@dataclass(slots=True)
class Semantic:
    """The semantic tier of an inference agent, and what keeps it in line with the log."""

    tier: SemanticTier
    knowledge: SemanticKnowledge
    index: VectorIndex
    threads: ThreadPoolExecutor

    async def close(self) -> None:
        await self.index.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


def embedder(settings: Settings, threads: int = 1) -> OnnxEmbedder:
    """The embedding model of the settings. Raises ModelNotPulled."""
    return OnnxEmbedder(models.folder(settings, settings.embedder), settings.embedder_precision, threads, settings.device)


def semantic(settings: Settings, embedding: OnnxEmbedder, answers: AnswerStore, codec: Codec, log: Log) -> Semantic | None:
    """The semantic tier, or None where it is off. The index in process is this agent's own; Milvus is kept by the learning service."""
    if settings.semantic == "off":
        return None
    trusted = Trust(trust(settings))
    in_process = settings.index == "in-process"
    index = InProcessIndex(embedding.dimensions) if in_process else milvus(settings, embedding.version, embedding.dimensions)
    verifier = OnnxVerifier(models.folder(settings, settings.verifier), settings.embedder_precision, 1, settings.device)
    threads = ThreadPoolExecutor(1, "semantic")  # one batch at a time is under way
    ports = SemanticPorts(
        embedder=embedding, index=index, verifier=verifier, answers=answers, codec=codec, threads=threads, draw=random.SystemRandom().random
    )  # fmt: skip
    knowledge = SemanticKnowledge(log, codec, index if in_process else None, trusted, embedding.version)
    return Semantic(SemanticTier(ports, trusted), knowledge, index, threads)


def milvus(settings: Settings, embedding_version: str, dimensions: int) -> MilvusIndex:
    """The shared index."""
    return MilvusIndex(settings.milvus, embedding_version, dimensions)


def shared_index(settings: Settings, codec: Codec, log: Log) -> SemanticKnowledge | None:
    """What keeps Milvus in line with the log, in the learning service; None where each agent keeps an index of its own."""
    if settings.semantic == "off" or settings.index == "in-process":
        return None
    version, dimensions = embedder(settings).version, embedder(settings).dimensions
    return SemanticKnowledge(log, codec, milvus(settings, version, dimensions), None, version)


def judge(settings: Settings) -> SameAnswerJudge | None:
    """Who compares a known answer with a fresh one; None where semantic answers are off."""
    return RuleJudge() if settings.semantic == "on" else None


def trust(settings: Settings) -> TrustSettings:
    """How entries decide and what a scope has to hold, by the error bound of the settings and the judge's measured error."""
    error = RuleJudge().error
    rules = AssuranceRules(
        limit=settings.semantic_error_bound, trusted_share=settings.semantic_check_share, judge_misses=error.false_same_upper,
        judge_false_flags=error.false_different,
    )  # fmt: skip
    facts = json.loads(_DECISION.read_text())
    # The prior was estimated, which is not in it: the shipped margin tightens a bound so that it held on pairs that nobody had seen.
    known = [float(bound) for bound in facts["bounds"] if float(bound) <= settings.semantic_error_bound]
    if not known:
        least = min(facts["bounds"], key=float)
        reason = f"no operating point was learnt for an error bound of {settings.semantic_error_bound}"
        raise PoisonError("bound_too_small", reason, f"set HEADRACE_SEMANTIC_ERROR_BOUND to {least} or more, or HEADRACE_SEMANTIC=off")
    bound = max(known)
    rule = DecisionRule(Prior.from_rows(facts["prior"]), facts["bounds"][str(bound)]["margin"] * bound)
    return TrustSettings(rule, rules)
