"""Puts together what an inference agent knows by: the embedder, the index and the semantic tier."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agents.semantic_knowledge import SemanticKnowledge
from agents.semantic_tier import SemanticPorts, SemanticTier
from connectors.index.in_process import InProcessIndex
from connectors.index.milvus import MilvusIndex
from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.verifier import OnnxVerifier
from infra import models
from infra.settings import Settings
from infra.trusting import trust
from schemas.codec import Codec
from streams.ports import AnswerStore, Log
from streams.semantic.ports import VectorIndex
from streams.semantic.trust import Trust


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


def shared_index(settings: Settings, codec: Codec, log: Log) -> SemanticKnowledge:
    """What keeps Milvus in line with the log, in the learning service."""
    embedding = embedder(settings)
    return SemanticKnowledge(log, codec, milvus(settings, embedding.version, embedding.dimensions), None, embedding.version)
