"""Which requests wait for the computation of an identical one. Pure: ids and tokens in, who computes for whom out.

Requests that share a token are identical: a token is an entry's id, or an idempotency key with its body. Of each group one leads and is
computed, the others follow and get its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from schemas.events import DeepLearningRequested, GenerationFinished, InferenceCompleted

# An answer serves whoever asked until this long after it was there: in that time it is on its way to where known answers are looked
# up. Longer would give those an old answer that asked for a new one, less would compute anew what was just computed.
FRESH_MS = 2_000
_ANSWER_KEPT_MS = 10 * FRESH_MS  # a request that was admitted in time may be late itself
KEYED_KEPT_MS = 600_000  # as long may it take until the answer to an idempotency key is known to the inference service
_LOOK_MS = 1_000


def tokens_of(event: DeepLearningRequested | GenerationFinished) -> tuple[str, ...]:
    """What an identical request has in common with this one, the binding one first. () for what is never shared.

    Checks of answers that were served have none, since they exist to compute anew.
    """
    if event.check is not None and event.check.served:
        return ()
    key = (f"key {event.idempotency.key} {event.idempotency.body}",) if event.idempotency is not None else ()
    return key if event.entry_id is None else (*key, f"entry {event.entry_id}")


@dataclass(slots=True)
class Groups:
    """Who leads, and who follows whom. A group answers to the tokens of all who ever joined it, for as long as its leader leads."""

    leaders: dict[str, dict[str, None]] = field(default_factory=dict)  # token -> leaders, oldest first
    tokens: dict[str, dict[str, None]] = field(default_factory=dict)  # leader -> tokens of its group
    followers: dict[str, dict[str, None]] = field(default_factory=dict)  # leader -> its followers, oldest first
    leader_of: dict[str, str] = field(default_factory=dict)  # follower -> leader

    def join(self, request_id: str, tokens: Sequence[str]) -> str | None:
        """Follow an identical request, and return which one; or lead, and return None."""
        leader = next((first for token in tokens for first in self.leaders.get(token, ())), None)
        if leader is None:
            self.lead(request_id, tokens)
            return None
        self.leader_of[request_id] = leader
        self.followers.setdefault(leader, {})[request_id] = None
        self._answer_to(leader, tokens)
        return leader

    def lead(self, request_id: str, tokens: Sequence[str]) -> None:
        """Be computed, whoever else is."""
        self._answer_to(request_id, tokens)

    def leave(self, follower: str) -> str | None:
        """Stop following; returns the leader that was followed."""
        leader = self.leader_of.pop(follower, None)
        if leader is not None:
            del self.followers[leader][follower]
            if not self.followers[leader]:
                del self.followers[leader]
        return leader

    def dissolve(self, leader: str) -> tuple[str, ...]:
        """Stop leading; returns those who followed. They follow nobody now, nor do they lead."""
        followers = tuple(self.followers.pop(leader, ()))
        for token in self.tokens.pop(leader, ()):
            del self.leaders[token][leader]
            if not self.leaders[token]:
                del self.leaders[token]
        for follower in followers:
            del self.leader_of[follower]
        return followers

    def _answer_to(self, leader: str, tokens: Sequence[str]) -> None:
        for token in tokens:
            self.leaders.setdefault(token, {})[leader] = None
            self.tokens.setdefault(leader, {})[token] = None


@dataclass(slots=True)
class RecentAnswers:
    """Answers that just came, by token, for identical requests that come a moment late or are found when state is rebuilt."""

    by_token: dict[str, GenerationFinished] = field(default_factory=dict)
    looked_ms: int = 0

    def add(self, answer: GenerationFinished, tokens: Sequence[str]) -> None:
        """Remember an answer. To a key the first answer stays the answer; of others the newest is kept."""
        for token in tokens:
            known = self.by_token.get(token)
            if known is None or (token.startswith("entry ") and known.finished_at < answer.finished_at):
                self.by_token[token] = answer

    def find(self, request: DeepLearningRequested, token: str) -> GenerationFinished | None:
        """The answer behind a token, if this request may share it: the same key gets the same answer however old it is."""
        answer = self.by_token.get(token)
        if answer is not None and (token.startswith("key ") or request.admitted_at <= answer.finished_at + FRESH_MS):
            return answer
        return None

    def serves(self, request: DeepLearningRequested) -> bool:
        """Whether there is an answer that this request may share."""
        return any(self.find(request, token) is not None for token in tokens_of(request))

    def forget(self, now_ms: int) -> None:
        """Drop what nobody may share any more; looks once a second."""
        if 0 <= now_ms - self.looked_ms < _LOOK_MS:
            return
        self.looked_ms = now_ms
        for token, answer in list(self.by_token.items()):
            if now_ms - answer.finished_at > (KEYED_KEPT_MS if token.startswith("key ") else _ANSWER_KEPT_MS):
                del self.by_token[token]


def shared_end(request: DeepLearningRequested, answer: GenerationFinished, now_ms: int) -> GenerationFinished:
    """The end of a request that shares an answer, by which dispatchers know that it is done.

    Without an entry's id, and without the check of a known answer that may have come along: one computation is learned and compared
    once. With its idempotency key only where the answer is not to that key already.
    """
    own_key = request.idempotency if request.idempotency != answer.idempotency else None
    return replace(
        answer, request_id=request.request_id, worker="", epoch=0, entry_id=None, finished_at=now_ms, question=None, guess=None, check=None,
        idempotency=own_key,
    )  # fmt: skip


def shared_final(request: DeepLearningRequested, answer: GenerationFinished, now_ms: int) -> InferenceCompleted:
    """What the client of a request that shares an answer gets: its own final event."""
    return InferenceCompleted(
        request_id=request.request_id, tenant=request.tenant, model=request.model, tier="deep-learning",
        reason=f"an identical request was being answered: shares the computation of {answer.request_id}", text=answer.text,
        finish_reason=answer.finish_reason, prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens,
        entry_id=request.entry_id, requested_at=request.requested_at, admitted_at=request.admitted_at, completed_at=now_ms,
        worker=answer.worker or None, source=request.source, shared_with=answer.request_id,
    )  # fmt: skip
