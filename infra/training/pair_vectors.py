"""Cosines of question pairs, by vectors that are kept in a folder, since embedding 50,000 texts takes minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infra.training.pairs import Pair, texts_of
from streams.semantic.texts import Embedder


def vectors(embedder: Embedder, texts: Sequence[str], kept: Path) -> np.ndarray:
    """(texts, dimensions) float32; read from `kept` where the same texts were embedded by the same version before."""
    digest = hashlib.sha256("\0".join([embedder.version, *texts]).encode()).hexdigest()[:16]
    path = kept / f"vectors-{digest}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    found = embedder.embed(texts)
    kept.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def similarities(embedder: Embedder, pairs: Sequence[Pair], kept: Path) -> np.ndarray:
    """(pairs,) float32 cosines."""
    texts = texts_of(pairs)
    found = vectors(embedder, texts, kept)
    place = {text: row for row, text in enumerate(texts)}
    known = found[[place[pair.cached] for pair in pairs]]
    asked = found[[place[pair.query] for pair in pairs]]
    return np.asarray(np.einsum("ij,ij->i", known, asked))
