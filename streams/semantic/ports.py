"""What the semantic tier needs of the world: an index over known questions, and a judge of whether two answers say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streams.errors import PoisonError

Vectors = NDArray[np.float32]

_ENTRY_ID = re.compile(r"[0-9A-Za-z_.:-]{1,128}")


class BadEntryId(PoisonError):
    """An entry id is 1 to 128 letters, digits and `_.:-`, since it becomes part of a database's expressions. Make it a digest."""


@dataclass(frozen=True, slots=True)
class IndexedEntry:
    """A known question. `vector`: of length 1, shape (d,); `scope`: opaque, an HMAC in hex."""

    entry_id: str
    scope: str
    vector: Vectors


class Match(NamedTuple):
    """A neighbour; `similarity` is the cosine, in [-1, 1], right to about 0.001."""

    entry_id: str
    similarity: float


class VectorIndex(Protocol):
    """Nearest known questions within a scope. The entry id is the key: an upsert replaces, whatever scope it stood in before.

    What was upserted or removed before a search began is seen by it. Losing an index makes misses, never wrong answers.
    All but `close` raise RetryableError when a server is away, within the adapter's time-out; BadEntryId for an odd id.
    """

    async def upsert(self, entries: Sequence[IndexedEntry]) -> None: ...

    async def remove(self, entry_ids: Sequence[str]) -> None:
        """Unknown ids are no error."""
        ...

    async def search(self, scope: str, vectors: Vectors, k: int) -> list[list[Match]]:
        """For each of the (n, d) vectors at most k matches, best first, all of this scope."""
        ...

    async def count(self) -> int:
        """Entries in all scopes."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two answers say the same; `confidence` in [0, 1] is the judge's own."""

    same: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class JudgeError:
    """A judge's measured error, as one-sided 95% bounds: at most this share of different answers is called the same, at least this
    share of same ones different. Both make the bound of a scope's wrong share larger than it is, never smaller."""

    false_same_upper: float
    false_different: float


class SameAnswerJudge(Protocol):
    """Says whether a fresh answer says the same as the known one. May compute: call it off the event loop. A new version, a new error."""

    @property
    def version(self) -> str: ...

    @property
    def error(self) -> JudgeError: ...

    def judge(self, question: str, known: str, fresh: str) -> Verdict: ...


def check_ids(entry_ids: Sequence[str]) -> None:
    """Raises BadEntryId for the first id that is none."""
    for entry_id in entry_ids:
        if not _ENTRY_ID.fullmatch(entry_id):
            raise BadEntryId("bad_entry_id", f"{entry_id[:60]!r} is no entry id", "use a digest in hex")
