"""Ports of the models that read texts: one gives vectors, one says whether two questions may share an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np


class Embedder(Protocol):
    """Turns texts into vectors whose dot product is their likeness."""

    version: str  # changes whenever a text would get another vector, so that vectors of two versions never meet
    dimensions: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimensions) float32, each row of length 1, in the order of `texts`. Blocks, without the GIL: call it in a thread."""


class QuestionPair(msgspec.Struct, frozen=True, kw_only=True):
    """A question whose answer is known, and one that was asked just now."""

    known: str
    asked: str
    similarity: float  # cosine of their vectors


class PairVerifier(Protocol):
    """Says how sure it is that the known question's answer also answers the asked one."""

    version: str  # changes whenever a pair would get another probability

    def probabilities(self, pairs: Sequence[QuestionPair]) -> np.ndarray:
        """(n,) float32 in [0, 1], in the order of `pairs`. Blocks, without the GIL: call it in a thread."""
