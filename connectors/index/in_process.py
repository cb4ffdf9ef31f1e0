"""The vector index inside the agent: exact in small scopes, faiss inverted lists in large ones. Rebuilt from the log at each start.

Why inverted lists and not a graph: 100,000 vectors are added in about a fifth of the processor time of usearch's HNSW, and an entry is
removed for good at once, where a graph keeps a tombstone. Memory is about the same, 1.8 KB an entry at 384 dimensions with its id.
Measured in `benchmarks/results/index.json`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Protocol, TypeVar

import numpy as np

from streams.semantic.ports import IndexedEntry, Match, Vectors, check_ids

T = TypeVar("T")

_EXACT_UP_TO = 2_048
"""Entries of a scope that are compared one by one: 0.2 ms at 384 dimensions. Most scopes never grow beyond it."""
_GROWTH = 4
"""Lists are made anew when a scope has this many times the entries that they were made for; 32,000 entries take about a second."""
_PROBES = 16
"""Lists that a search reads. See recall in benchmarks/results/index.json."""
_CHUNK = 1_024
"""Entries added in one go: a search waits for no more than this many (but for lists being made anew)."""


class _Rows(Protocol):
    """Vectors of one scope under integer keys."""

    def add(self, keys: Sequence[int], vectors: Vectors) -> None: ...

    def remove(self, keys: Sequence[int]) -> None: ...

    def search(self, vectors: Vectors, k: int) -> tuple[Any, Any]:
        """Keys and similarities, each (n, <= k), best first; key -1 is none."""
        ...

    def all(self) -> tuple[Sequence[int], Vectors]: ...


class InProcessIndex:
    """Adapter of `VectorIndex`. All work is done by one thread of its own, in order: the event loop never waits for arithmetic."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._scopes: dict[str, _Scope] = {}
        self._scope_of: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, "vector-index")

    async def upsert(self, entries: Sequence[IndexedEntry]) -> None:
        """In chunks, between which searches get their turn."""
        check_ids([entry.entry_id for entry in entries])
        for start in range(0, len(entries), _CHUNK):
            await self._run(self._upsert, entries[start : start + _CHUNK])

    async def remove(self, entry_ids: Sequence[str]) -> None:
        await self._run(self._remove, entry_ids)

    async def search(self, scope: str, vectors: Vectors, k: int) -> list[list[Match]]:
        return await self._run(self._search, scope, np.ascontiguousarray(vectors, np.float32), k)

    async def count(self) -> int:
        return len(self._scope_of)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _upsert(self, entries: Sequence[IndexedEntry]) -> None:
        newest = {entry.entry_id: entry for entry in entries}  # an id may come twice: the last one counts
        self._remove(list(newest))
        by_scope: dict[str, list[IndexedEntry]] = {}
        for entry in newest.values():
            by_scope.setdefault(entry.scope, []).append(entry)
            self._scope_of[entry.entry_id] = entry.scope
        for name, members in by_scope.items():
            scope = self._scopes.setdefault(name, _Scope(self._dimensions))
            scope.add([m.entry_id for m in members], np.stack([m.vector for m in members]).astype(np.float32, copy=False))

    def _remove(self, entry_ids: Sequence[str]) -> None:
        by_scope: dict[str, list[str]] = {}
        for entry_id in entry_ids:
            name = self._scope_of.pop(entry_id, None)
            if name is not None:
                by_scope.setdefault(name, []).append(entry_id)
        for name, members in by_scope.items():
            self._scopes[name].remove(members)
            if not self._scopes[name].key_of:
                del self._scopes[name]

    def _search(self, name: str, vectors: Vectors, k: int) -> list[list[Match]]:
        scope = self._scopes.get(name)
        return [[] for _ in vectors] if scope is None else scope.search(vectors, k)


class _Scope:
    """Ids of one scope over its rows."""

    def __init__(self, dimensions: int) -> None:
        self._rows: _Rows = _Exact(dimensions)
        self._made_for = _EXACT_UP_TO // _GROWTH
        self._next_key = 0
        self._dimensions = dimensions
        self.key_of: dict[str, int] = {}
        self._id_of: dict[int, str] = {}

    def add(self, entry_ids: Sequence[str], vectors: Vectors) -> None:
        """New ids only."""
        keys = list(range(self._next_key, self._next_key + len(entry_ids)))
        self._next_key += len(entry_ids)
        self.key_of.update(zip(entry_ids, keys, strict=True))
        self._id_of.update(zip(keys, entry_ids, strict=True))
        self._rows.add(keys, vectors)
        if len(self.key_of) > _GROWTH * self._made_for:
            self._made_for = len(self.key_of)
            self._rows = _Lists(self._dimensions, *self._rows.all())

    def remove(self, entry_ids: Sequence[str]) -> None:
        """Known ids only."""
        keys = [self.key_of.pop(entry_id) for entry_id in entry_ids]
        for key in keys:
            del self._id_of[key]
        self._rows.remove(keys)

    def search(self, vectors: Vectors, k: int) -> list[list[Match]]:
        keys, similarities = self._rows.search(vectors, k)
        return [
            [Match(self._id_of[key], max(-1.0, min(1.0, s))) for key, s in zip(row, values, strict=True) if key >= 0]
            for row, values in zip(keys.tolist(), similarities.tolist(), strict=True)
        ]


class _Exact:
    """A matrix, compared whole."""

    def __init__(self, dimensions: int) -> None:
        self._matrix = np.empty((4, dimensions), np.float32)
        self._keys: list[int] = []
        self._row_of: dict[int, int] = {}

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        used, needed = len(self._keys), len(self._keys) + len(keys)
        if needed > len(self._matrix):
            grown = np.empty((max(needed, 2 * len(self._matrix)), self._matrix.shape[1]), np.float32)
            grown[:used] = self._matrix[:used]
            self._matrix = grown
        self._matrix[used:needed] = vectors
        self._row_of.update(zip(keys, range(used, needed), strict=True))
        self._keys.extend(keys)

    def remove(self, keys: Sequence[int]) -> None:
        for key in keys:
            row, last = self._row_of.pop(key), self._keys.pop()
            if last != key:  # the last row takes its place
                self._matrix[row] = self._matrix[len(self._keys)]
                self._keys[row] = last
                self._row_of[last] = row

    def search(self, vectors: Vectors, k: int) -> tuple[Any, Any]:
        similarities = vectors @ self._matrix[: len(self._keys)].T
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        return np.asarray(self._keys, np.int64)[best], np.take_along_axis(similarities, best, axis=1)

    def all(self) -> tuple[Sequence[int], Vectors]:
        return self._keys, self._matrix[: len(self._keys)]


class _Lists:
    """Inverted lists over about 4 sqrt(n) centroids; components of 16 bits. A table by key makes removing quick."""

    def __init__(self, dimensions: int, keys: Sequence[int], vectors: Vectors) -> None:
        # its own types leave out a class and say IDSelector where arrays are taken, so that they are of no use here
        faiss: Any = import_module("faiss")  # 0.2 s, which only a large scope has to pay

        faiss.omp_set_num_threads(1)  # of this thread: waking others costs more than a search
        lists = int(4 * math.sqrt(len(keys)))
        self._centroids = faiss.IndexFlatIP(dimensions)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._centroids, dimensions, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        self._index.own_fields = False
        self._index.nprobe = _PROBES
        # few rounds over few points: centroids only have to cut the space up evenly
        self._index.cp.niter, self._index.cp.max_points_per_centroid, self._index.cp.min_points_per_centroid = 6, 32, 1
        self._index.train(np.ascontiguousarray(vectors))
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self._keys = set[int]()
        self.add(keys, vectors)

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        self._keys.update(keys)
        self._index.add_with_ids(np.ascontiguousarray(vectors), np.asarray(keys, np.int64))

    def remove(self, keys: Sequence[int]) -> None:
        self._keys.difference_update(keys)
        self._index.remove_ids(np.asarray(keys, np.int64))

    def search(self, vectors: Vectors, k: int) -> tuple[Any, Any]:
        similarities, keys = self._index.search(vectors, k)
        return keys, similarities

    def all(self) -> tuple[Sequence[int], Vectors]:
        keys = list(self._keys)
        return keys, self._index.reconstruct_batch(np.asarray(keys, np.int64))
