"""Ports of the semantic tier: where vectors are searched, and who judges whether two answers say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np


class IndexedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry and the vector (d,) of its question, of unit length."""

    entry_id: str
    scope: str
    vector: np.ndarray


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A known entry that came near, with the cosine of both questions."""

    entry_id: str
    similarity: float


class VectorIndex(Protocol):
    """Finds the nearest entries within one scope. Methods raise RetryableError when the index is away."""

    async def upsert(self, entries: Sequence[IndexedEntry]) -> None: ...
    async def remove(self, entry_ids: Sequence[str]) -> None: ...
    async def search(self, scope: str, vectors: np.ndarray, k: int) -> list[list[Match]]: ...
    async def count(self) -> int: ...
    async def close(self) -> None: ...


class JudgeError(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's measured error: upper bound of what it wrongly calls the same, lower bound of what it wrongly calls different."""

    false_same_upper: float
    false_different: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether both answers say the same, and how sure that is."""

    same: bool
    confidence: float


class SameAnswerJudge(Protocol):
    """Compares a known answer with a fresh one to the same question."""

    version: str
    error: JudgeError

    def judge(self, question: str, known: str, fresh: str) -> Verdict: ...
