"""What every vector index must do, written once; test_vector_index.py runs it for each adapter."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import numpy as np
import pytest

from streams.errors import PoisonError
from streams.semantic.ports import IndexedEntry, VectorIndex, Vectors

DIMENSIONS = 16


def unit(*seeds: int) -> Vectors:
    """One random vector of length 1 for each seed, shape (n, 16)."""
    rows = np.stack([np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds]).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def scope(name: str) -> str:
    """As scopes look: a digest."""
    return sha256(name.encode()).hexdigest()


def entry(name: str, seed: int, where: str = "a") -> IndexedEntry:
    """A known question."""
    return IndexedEntry(scope(name), scope(where), unit(seed)[0])


class IndexContract:
    """Subclasses give a fixture `index`: empty."""

    async def test_the_nearest_come_first(self, index: VectorIndex) -> None:
        """Several vectors at once, at most k each, with the cosine."""
        await index.upsert([entry(f"q{seed}", seed) for seed in range(40)])
        found = await index.search(scope("a"), unit(3, 7), 5)
        assert [row[0].entry_id for row in found] == [scope("q3"), scope("q7")]
        assert [len(row) for row in found] == [5, 5]
        exact = sorted((float(unit(3)[0] @ unit(seed)[0]) for seed in range(40)), reverse=True)[:5]
        assert [match.similarity for match in found[0]] == pytest.approx(exact, abs=2e-3)

    async def test_scopes_never_mix(self, index: VectorIndex) -> None:
        """The same vector in another scope is not found, nor is a scope that looks like a filter."""
        await index.upsert([entry("here", 1, "a"), entry("there", 1, "b")])
        assert [m.entry_id for m in (await index.search(scope("a"), unit(1), 10))[0]] == [scope("here")]
        for odd in ("", '" || true || scope == "', "a' or 1==1", "\\", "\n", 'x" or scope != "x'):
            assert await index.search(odd, unit(1, 2), 10) == [[], []]

    async def test_odd_scopes_are_scopes(self, index: VectorIndex) -> None:
        """What looks like a filter keeps its own entries."""
        odd = '" || true || scope == "'
        await index.upsert([IndexedEntry("odd", odd, unit(1)[0]), entry("plain", 1)])
        assert [m.entry_id for m in (await index.search(odd, unit(1), 10))[0]] == ["odd"]

    async def test_an_upsert_replaces(self, index: VectorIndex) -> None:
        """By id: the vector, and the scope too; twice in one call the last one counts."""
        await index.upsert([entry("q", 1), entry("q", 2)])
        assert await index.count() == 1
        assert (await index.search(scope("a"), unit(2), 1))[0][0].similarity == pytest.approx(1.0, abs=2e-3)
        await index.upsert([entry("q", 2, "b")])
        assert await index.count() == 1
        assert await index.search(scope("a"), unit(2), 1) == [[]]
        assert (await index.search(scope("b"), unit(2), 1))[0][0].entry_id == scope("q")

    async def test_what_was_removed_is_never_found_again(self, index: VectorIndex) -> None:
        """At once; unknown ids are no error; it can come back."""
        await index.upsert([entry(f"q{seed}", seed) for seed in range(20)])
        for seed in range(0, 20, 2):
            await index.remove([scope(f"q{seed}"), scope("unknown")])
            found = (await index.search(scope("a"), unit(seed), 20))[0]
            assert scope(f"q{seed}") not in {match.entry_id for match in found}
        assert await index.count() == 10
        await index.upsert([entry("q4", 4)])
        assert (await index.search(scope("a"), unit(4), 1))[0][0].entry_id == scope("q4")

    async def test_an_empty_index_has_no_answers(self, index: VectorIndex) -> None:
        """Nor errors."""
        assert await index.search(scope("a"), unit(1), 3) == [[]]
        assert await index.count() == 0
        await index.remove([])
        await index.upsert([])

    async def test_odd_ids_are_refused(self, index: VectorIndex) -> None:
        """They would be part of an expression."""
        for odd in ("", 'x"] or true', "a b", "x" * 129):
            with pytest.raises(PoisonError, match="entry id"):
                await index.upsert([IndexedEntry(odd, scope("a"), unit(1)[0])])

    async def test_calls_at_the_same_time(self, index: VectorIndex) -> None:
        """Upserts, removals and searches interleaved end as they were asked."""
        await asyncio.gather(
            *(index.upsert([entry(f"q{seed}", seed)]) for seed in range(30)),
            *(index.search(scope("a"), unit(seed), 5) for seed in range(30)),
        )
        await asyncio.gather(*(index.remove([scope(f"q{seed}")]) for seed in range(15)))
        assert await index.count() == 15
