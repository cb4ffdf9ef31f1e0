"""Which partition a record goes to, and the digests that keys are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from aiokafka.partitioner import murmur2
from msgspec.structs import replace

from schemas.events import Idempotency, InferenceRequested


def partition_for(key: bytes, partitions: int) -> int:
    """Kafka's default partition of a key (murmur2), as the Java clients and our publisher compute it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def canonical(request: InferenceRequested) -> bytes:
    """What makes two requests identical: tenant, model, prompt version, task, messages and the parameters that change the answer.

    The seed counts only where sampling uses it. This form is part of stored keys: changing it makes all knowledge cold.
    """
    p = request.parameters
    seed = p.seed if p.temperature > 0 else None
    scope = (
        request.tenant, request.model, request.prompt_version, request.task, p.max_tokens, p.temperature, p.top_p, seed, p.stop, p.labels,
    )  # fmt: skip
    turns = [(m.role, m.content) for m in request.messages]
    return msgspec.json.encode((scope, turns))


def routing_key(request: InferenceRequested) -> bytes:
    """Key of a request record: identical requests meet in one agent. Correctness never depends on it."""
    return hashlib.blake2b(canonical(request), digest_size=16).hexdigest().encode()


def text_digest(text: str) -> str:
    """A retracted text, as AnswerRetracted tells it."""
    return hashlib.sha256(text.encode()).hexdigest()


class EntryIds:
    """Ids of knowledge: keyed digests, so that nobody without the tenant's key can test a guess at a text.

    `model_versions`: of each model, so that another one under the same name starts cold, and right.
    """

    def __init__(self, master_secret: str, model_versions: Mapping[str, str]) -> None:
        self._master = hashlib.blake2b(master_secret.encode(), digest_size=32).digest()
        self._versions = {model: version.encode() for model, version in model_versions.items()}
        self._tenant_key = lru_cache(maxsize=10_000)(self._derive)

    def _derive(self, tenant: str) -> bytes:
        return hashlib.blake2b(tenant.encode(), key=self._master, digest_size=32).digest()

    def entry_id(self, request: InferenceRequested) -> str:
        """Id of the entry that answers this request; `model` and `max_tokens` must be filled in already."""
        return self._digest(request.tenant, self._version(request) + canonical(request))

    def scope(self, request: InferenceRequested) -> str:
        """Everything but the question that an answer depends on; nothing is shared across scopes."""
        system = tuple(message for message in request.messages if message.role == "system")
        rest = canonical(replace(request, messages=system, parameters=replace(request.parameters, seed=None)))
        return self._digest(request.tenant, b"scope" + self._version(request) + rest)

    def idempotency(self, request: InferenceRequested) -> Idempotency | None:
        """Digests of a request's key and of what must be the same where the key is; None without a key. Filled in as for `entry_id`."""
        if request.idempotency_key is None:
            return None
        key = self._digest(request.tenant, b"idempotency-key" + request.idempotency_key.encode())
        return Idempotency(key=key, body=self._digest(request.tenant, b"idempotent-body" + canonical(request)))

    def _version(self, request: InferenceRequested) -> bytes:
        return self._versions.get(request.model, b"") + b"\0"

    def _digest(self, tenant: str, content: bytes) -> str:
        return hashlib.blake2b(content, key=self._tenant_key(tenant), digest_size=20).hexdigest()
