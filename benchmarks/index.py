"""The vector indexes: look-ups, recall, memory and rebuild at 100,000 entries. `python -m benchmarks.index [--milvus] [--usearch]`.

Vectors are random ones of length 1 in clusters, 384 dimensions, as MiniLM's; queries lie near an entry (cosine about 0.93), as rewordings
do. A look-up is timed from the event loop, the way through the index's thread included; a second loop task ticks meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from connectors.index.in_process import InProcessIndex
from connectors.index.milvus import MilvusIndex
from infra.local.milvus import Milvus
from infra.local.ports import Ports
from infra.local.progress import Silent
from infra.settings import Settings
from streams.semantic.ports import IndexedEntry, VectorIndex, Vectors

RESULT = Path(__file__).with_name("results") / "index.json"
DIMENSIONS, K = 384, 8


def clustered(count: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Entries in clusters of about 25, and 1,000 queries near some of them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 25), DIMENSIONS), np.float32)
    entries = centres[rng.integers(0, len(centres), count)] + 0.7 * rng.standard_normal((count, DIMENSIONS), np.float32)
    entries /= np.linalg.norm(entries, axis=1, keepdims=True)
    queries = entries[rng.integers(0, count, 1000)] + 0.02 * rng.standard_normal((1000, DIMENSIONS), np.float32)
    return entries, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def nearest(vectors: Vectors, queries: Vectors) -> NDArray[np.int64]:
    """Rows of the K nearest, best first, by comparing with all; a hundred queries at a time, which takes 40 MB."""
    rows = []
    for at in range(0, len(queries), 100):
        similarities = queries[at : at + 100] @ vectors.T
        best = np.argpartition(-similarities, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(similarities, best, axis=1), axis=1)
        rows.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(rows)


async def measure(index: VectorIndex, vectors: Vectors, queries: Vectors, batch: int = 2_000) -> dict[str, Any]:
    """Build, then one query at a time, then batches of 32."""
    scope = sha256(b"scope").hexdigest()
    ids = [sha256(str(n).encode()).hexdigest() for n in range(len(vectors))]
    gc.collect()
    memory, began, cpu = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    for at in range(0, len(ids), batch):
        await index.upsert([IndexedEntry(i, scope, v) for i, v in zip(ids[at : at + batch], vectors[at : at + batch], strict=True)])
    built, built_cpu = time.perf_counter() - began, time.process_time() - cpu
    gc.collect()
    grown = psutil.Process().memory_info().rss - memory
    exact = nearest(vectors, queries)
    times, hits, first = [], 0, 0
    for query, best in zip(queries, exact, strict=True):
        began = time.perf_counter()
        found = (await index.search(scope, query[None], K))[0]
        times.append(1e3 * (time.perf_counter() - began))
        hits += len({m.entry_id for m in found} & {ids[b] for b in best})
        first += bool(found) and found[0].entry_id == ids[best[0]]
    began, whole = time.perf_counter(), len(queries) // 32 * 32
    for at in range(0, whole, 32):
        await index.search(scope, queries[at : at + 32], K)
    each = (time.perf_counter() - began) / whole
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "entries": len(ids), "rebuild_s": round(built, 2), "rebuild_cpu_s": round(built_cpu, 2), "bytes_per_entry": round(grown / len(ids)),
        "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "batched_each_ms": round(1e3 * each, 3),
        f"recall_at_{K}": round(hits / K / len(queries), 4), "recall_at_1": round(first / len(queries), 4),
        "load_average": round(psutil.getloadavg()[0], 1),
    }  # fmt: skip


def usearch(vectors: Vectors, queries: Vectors) -> dict[str, Any]:
    """The graph for comparison, called directly, with two threads."""
    from usearch.index import Index

    index = Index(ndim=DIMENSIONS, metric="ip", dtype="f16", connectivity=16, expansion_add=64, expansion_search=64)
    began, cpu = time.perf_counter(), time.process_time()
    index.add(np.arange(len(vectors)), vectors, threads=2)
    built, built_cpu = time.perf_counter() - began, time.process_time() - cpu
    exact, times, hits = nearest(vectors, queries), [], 0
    for query, best in zip(queries, exact, strict=True):
        began = time.perf_counter()
        found = index.search(query, K).keys
        times.append(1e3 * (time.perf_counter() - began))
        hits += len(set(found.tolist()) & set(best.tolist()))
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "entries": len(vectors), "rebuild_s": round(built, 2), "rebuild_cpu_s": round(built_cpu, 2),
        "bytes_per_entry": round(index.memory_usage / len(vectors)), "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3),
        f"recall_at_{K}": round(hits / K / len(queries), 4), "load_average": round(psutil.getloadavg()[0], 1),
    }  # fmt: skip


async def in_process(count: int) -> dict[str, Any]:
    """The index of the agent."""
    index = InProcessIndex(DIMENSIONS)
    try:
        return await measure(index, *clustered(count))
    finally:
        await index.close()


def milvus_lite(count: int) -> dict[str, Any]:
    """Its server on this machine. Memory is the server's."""
    with tempfile.TemporaryDirectory() as folder:
        server = Milvus(Settings(home=Path(folder)), Ports(Path(folder)))
        server.prepare(Silent())
        server.start()
        try:
            server.ready()
            result = asyncio.run(_in_milvus(server.address()["url"], count))
            assert server.child is not None
            # its process group: the launcher becomes the server
            return result | {"bytes_per_entry": round(psutil.Process(server.child.pid).memory_info().rss / count)}
        finally:
            server.stop()


async def _in_milvus(url: str, count: int) -> dict[str, Any]:
    index = MilvusIndex(url, "benchmark", DIMENSIONS, timeout_s=30.0)
    try:
        vectors, queries = clustered(count)
        return await measure(index, vectors, queries[:200])
    finally:
        await index.close()


def main() -> None:
    """Measure what was asked for; what was not keeps its former result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--milvus", type=int, default=0, metavar="ENTRIES")
    parser.add_argument("--usearch", type=int, default=0, metavar="ENTRIES")
    asked = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if asked.entries:
        results["in process"] = asyncio.run(in_process(asked.entries))
        small = asyncio.run(in_process(1_000))
        del small["bytes_per_entry"]  # too few to show in the process's memory
        results["in process, small scope"] = small
    if asked.usearch:
        results["usearch"] = usearch(*clustered(asked.usearch))
    if asked.milvus:
        results["milvus lite"] = milvus_lite(asked.milvus)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
