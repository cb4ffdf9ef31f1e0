"""Which partition a record goes to, and the digests that keys are made of."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from aiokafka.partitioner import murmur2

from schemas.events import Idempotency, InferenceRequested

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would make one for each call


def partition_for(key: bytes, partitions: int) -> int:
    """Kafka's default partition of a key (murmur2), as the Java clients and our publisher compute it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def canonical(request: InferenceRequested) -> bytes:
    """What makes two requests identical: tenant, model, task, messages and the parameters that change the answer.

    The seed counts only where sampling uses it. This form is part of stored keys: changing it makes all knowledge cold.
    """
    p = request.parameters
    seed = p.seed if p.temperature > 0 else None
    scope: list[Any] = [request.tenant, request.model, request.task, p.max_tokens, p.temperature, p.top_p, seed, list(p.stop)]
    if p.labels:  # only then, so that the keys of requests without any stay as they are
        scope.append(list(p.labels))
    turns = [[m.role, m.content] for m in request.messages]
    return _JSON.encode([scope, turns]).encode()


def routing_key(request: InferenceRequested) -> bytes:
    """Key of a request record: identical requests meet in one agent. Correctness never depends on it."""
    return hashlib.blake2b(canonical(request), digest_size=16).hexdigest().encode()


class EntryIds:
    """Ids of knowledge entries: keyed digests, so that nobody without the tenant's key can test a guess at a text."""

    def __init__(self, master_secret: str) -> None:
        self._master = hashlib.blake2b(master_secret.encode(), digest_size=32).digest()
        self._tenant_key = lru_cache(maxsize=10_000)(self._derive)

    def _derive(self, tenant: str) -> bytes:
        return hashlib.blake2b(tenant.encode(), key=self._master, digest_size=32).digest()

    def entry_id(self, request: InferenceRequested) -> str:
        """Id of the entry that answers this request; `model` and `max_tokens` must be filled in already."""
        return hashlib.blake2b(canonical(request), key=self._tenant_key(request.tenant), digest_size=20).hexdigest()

    def idempotency(self, request: InferenceRequested) -> Idempotency | None:
        """Digests of a request's key and of what must be the same where the key is; None without a key. Filled in as for `entry_id`."""
        if request.idempotency_key is None:
            return None
        tenant_key = self._tenant_key(request.tenant)
        return Idempotency(
            key=hashlib.blake2b(request.idempotency_key.encode(), key=tenant_key, digest_size=20, person=b"idempotency-key").hexdigest(),
            body=hashlib.blake2b(canonical(request), key=tenant_key, digest_size=20, person=b"idempotent-body").hexdigest(),
        )
