"""The vector index in Milvus (or Milvus Lite's server): one collection for each embedding version, the entry id as primary key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from streams.errors import RetryableError
from streams.semantic.ports import IndexedEntry, Match, Vectors, check_ids

T = TypeVar("T")

_CHUNK = 1_000
"""Entries of one upsert: 1.5 MB at 384 dimensions; Milvus takes messages up to 64 MB."""
_THREADS = 4


class IndexAway(RetryableError):
    """Milvus does not answer: semantic answers are missed meanwhile. See `headrace status`, or the server at HEADRACE_MILVUS_URL."""


class MilvusIndex:
    """Adapter of `VectorIndex`. The collection is made at first use; after an error the next call connects anew.

    Consistency is Strong: a removed entry is never found again. A scope is stored and asked for as its SHA-256 in hex, so that no text
    can change a filter's meaning.
    """

    def __init__(self, url: str, embedding_version: str, dimensions: int, timeout_s: float = 2.0) -> None:
        """`timeout_s`: of each call, connecting included. No connection is made here."""
        self._url = url
        self._collection = "known_" + re.sub(r"\W", "_", embedding_version)
        self._dimensions = dimensions
        self._timeout_s = timeout_s
        self._client: MilvusClient | None = None
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(_THREADS, "milvus")

    async def upsert(self, entries: Sequence[IndexedEntry]) -> None:
        check_ids([entry.entry_id for entry in entries])
        newest = list({entry.entry_id: entry for entry in entries}.values())  # Milvus refuses a key twice in one call
        for start in range(0, len(newest), _CHUNK):
            await self._run(self._upsert, newest[start : start + _CHUNK], tries=10.0)

    async def remove(self, entry_ids: Sequence[str]) -> None:
        check_ids(entry_ids)
        if entry_ids:
            await self._run(lambda client, s: client.delete(self._collection, ids=list(entry_ids), timeout=s))

    async def search(self, scope: str, vectors: Vectors, k: int) -> list[list[Match]]:
        if not len(vectors):
            return []
        return await self._run(self._search, scope, vectors, k)

    async def count(self) -> int:
        rows = await self._run(
            lambda client, s: client.query(
                self._collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=s
            )
        )
        return int(rows[0]["count(*)"])

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._drop()

    def _upsert(self, client: MilvusClient, timeout_s: float, entries: Sequence[IndexedEntry]) -> None:
        rows = [{"entry_id": e.entry_id, "scope": _digest(e.scope), "vector": e.vector.astype(np.float32).tolist()} for e in entries]
        client.upsert(self._collection, rows, timeout=timeout_s)

    def _search(self, client: MilvusClient, timeout_s: float, scope: str, vectors: Vectors, k: int) -> list[list[Match]]:
        found = client.search(
            self._collection,
            data=vectors.astype(np.float32).tolist(),
            anns_field="vector",
            filter=f'scope == "{_digest(scope)}"',
            limit=k,
            consistency_level="Strong",
            timeout=timeout_s,
        )
        return [[Match(str(hit["entry_id"]), max(-1.0, min(1.0, float(hit["distance"])))) for hit in hits] for hits in found]

    async def _run(self, work: Callable[..., T], *args: object, tries: float = 1.0) -> T:
        loop = asyncio.get_running_loop()
        limit_s = self._timeout_s * tries
        try:
            # the client's own time-out ends the thread; this one bounds what its retries and a slow connect may add
            return await asyncio.wait_for(loop.run_in_executor(self._threads, self._call, work, limit_s, *args), limit_s + self._timeout_s)
        except (TimeoutError, MilvusException, OSError) as error:
            raise IndexAway("index_away", f"Milvus at {self._url} does not answer: {error}", "see: headrace status") from error

    def _call(self, work: Callable[..., T], limit_s: float, *args: object) -> T:
        try:
            return work(self._connected(), limit_s, *args)
        except Exception:
            with self._lock:
                self._drop()  # a restarted server may have lost what the client remembers of it
            raise

    def _connected(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                client = MilvusClient(self._url, timeout=self._timeout_s)
                if not client.has_collection(self._collection, timeout=self._timeout_s):
                    self._create(client)
                client.load_collection(self._collection, timeout=self._timeout_s)
                self._client = client
            return self._client

    def _create(self, client: MilvusClient) -> None:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("entry_id", DataType.VARCHAR, is_primary=True, max_length=128)
        schema.add_field("scope", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dimensions)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection(
            self._collection, schema=schema, index_params=index, consistency_level="Strong", timeout=self._timeout_s
        )

    def _drop(self) -> None:
        client: Any = self._client
        self._client = None
        if client is not None:
            client.close()


def _digest(scope: str) -> str:
    return sha256(scope.encode()).hexdigest()
