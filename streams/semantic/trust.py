"""What is trusted: the decision rule of each entry and the assurance of each scope, as a fold over events. Pure.

The learning service counts checks and publishes the state; inference agents fold what it published and decide by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

from schemas.knowledge import EntryObserved, ScopeAssessed, ScopeReopened, ScopeShutOff, SemanticHitChecked
from schemas.knowledge import Observation as Seen
from schemas.record import Record
from streams.semantic.assurance import AssuranceRules, Check, Reopened, ScopeState, Status, check_share, fold, may_serve
from streams.semantic.decision import Belief, DecisionRule, Observation, spread

STATUSES: tuple[Status, ...] = get_args(Status)
_RECENT = 256  # checks of a scope by which a repeated result is told: results come again within seconds, if at all
_WORTH_TRYING = 0.5  # a candidate that is more likely wrong than right teaches its entry nothing that the prior doesn't say


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """How entries decide, and what a scope has to hold."""

    rule: DecisionRule
    assurance: AssuranceRules


def trust_key(event: EntryObserved | ScopeAssessed) -> str:
    """Key of an event on `knowledge.trust`: compaction keeps the last of each entry and of each scope."""
    return f"entry {event.entry_id}" if isinstance(event, EntryObserved) else f"scope {event.scope}"


class Decision(NamedTuple):
    """`serve` the known answer, or generate and compare (`explore`), or neither."""

    serve: bool
    explore: bool


@dataclass(frozen=True, slots=True)
class _Scope:
    state: ScopeState
    event: ScopeAssessed


class Trust:
    """State of all entries and scopes that were ever checked; of others the priors count."""

    def __init__(self, settings: TrustSettings) -> None:
        self._rule = settings.rule
        self._fresh = ScopeState(rules=settings.assurance)
        self._entries: dict[str, tuple[int, Belief]] = {}
        self._scopes: dict[str, _Scope] = {}

    def is_shut_off(self, scope: str) -> bool:
        """Whether no semantic answer is given in this scope."""
        return not may_serve(self._state(scope))

    def check_share(self, scope: str) -> float:
        """Share of served answers to check."""
        return check_share(self._state(scope))

    def told(self, scope: str) -> str:
        """Status and reason, for people."""
        state = self._state(scope)
        return f"{state.status}: {state.reason}"

    def decide(self, entry_id: str, score: float, draw: float) -> Decision:
        """By the entry's own observations and the prior. `score`: the verifier's probability; `draw`: uniform in [0, 1)."""
        decided = self._rule.decide(self._belief(entry_id), spread(score), draw)
        return Decision(decided.serve, not decided.serve and decided.probability >= _WORTH_TRYING)

    def was_counted(self, scope: str, request_id: str) -> bool:
        """Whether this check's result was counted before."""
        held = self._scopes.get(scope)
        return held is not None and request_id in held.event.recent

    def count(self, checked: SemanticHitChecked, model: str) -> list[Record]:
        """Count a check: what the entry and the scope are from now on, and the shut-off where this check brings it."""
        belief = self._rule.learn(self._belief(checked.entry_id), Observation(spread(checked.score), checked.same))
        # Later than what is held, though two come in one millisecond or a clock went back: readers keep the latest.
        observed_at = max(checked.checked_at, self._entries.get(checked.entry_id, (-1, None))[0] + 1)
        self._entries[checked.entry_id] = (observed_at, belief)
        observed = EntryObserved(
            entry_id=checked.entry_id, tenant=checked.tenant, scope=checked.scope, observed_at=observed_at,
            observations=tuple(Seen(score=o.score, same=o.correct) for o in belief.observations),
        )  # fmt: skip
        before = self._state(checked.scope)
        # Only what was served is a hit; what was tried out instead teaches the entry alone.
        after = fold(before, Check(wrong=not checked.same)) if checked.served else before
        held = self._scopes.get(checked.scope)
        recent = (*(held.event.recent if held else ()), checked.request_id)[-_RECENT:]
        opened_at = held.event.opened_at if held else 0
        assessed_at = max(checked.checked_at, held.event.assessed_at + 1 if held else 0)
        assessed = _assessed(after, checked.scope, checked.tenant, model, recent, opened_at, assessed_at)
        self._scopes[checked.scope] = _Scope(after, assessed)
        out: list[Record] = [observed, assessed]
        if may_serve(before) and not may_serve(after):
            out.append(
                ScopeShutOff(
                    scope=checked.scope, tenant=checked.tenant, model=model, checked=after.checked, wrong=after.wrong,
                    limit=after.rules.limit, reason=after.reason, shut_off_at=checked.checked_at,
                )
            )  # fmt: skip
        return out

    def reopen(self, wish: ScopeReopened, now_ms: int) -> ScopeAssessed | None:
        """Begin anew with a scope; None where this wish was fulfilled before, or the scope is none that was ever checked."""
        held = self._scopes.get(wish.scope)
        if held is None or held.event.opened_at >= wish.reopened_at:
            return None
        state = fold(held.state, Reopened(by=wish.reopened_by, reason=wish.reason))
        e = held.event
        event = _assessed(state, e.scope, e.tenant, e.model, e.recent, wish.reopened_at, max(now_ms, e.assessed_at + 1))
        self._scopes[wish.scope] = _Scope(state, event)
        return event

    def fold(self, event: Record | None) -> None:
        """Take in what the learning service published. Older than what is held, as one's own come back, changes nothing."""
        if isinstance(event, EntryObserved):
            held_at, _ = self._entries.get(event.entry_id, (-1, None))
            if event.observed_at > held_at:
                observations = [Observation(o.score, o.same) for o in event.observations]
                self._entries[event.entry_id] = (event.observed_at, self._rule.learn(self._rule.fresh, *observations))
        elif isinstance(event, ScopeAssessed):
            held = self._scopes.get(event.scope)
            if held is None or (event.opened_at, event.checked, event.assessed_at) > _age(held.event):
                self._scopes[event.scope] = _Scope(_state_of(event, self._fresh), event)

    def _belief(self, entry_id: str) -> Belief:
        held = self._entries.get(entry_id)
        return held[1] if held is not None else self._rule.fresh

    def _state(self, scope: str) -> ScopeState:
        held = self._scopes.get(scope)
        return held.state if held is not None else self._fresh


def _age(event: ScopeAssessed) -> tuple[int, int, int]:
    return event.opened_at, event.checked, event.assessed_at


def _assessed(  # noqa: PLR0917  # the facts of one event
    state: ScopeState, scope: str, tenant: str, model: str, recent: Sequence[str], opened_at: int, now_ms: int
) -> ScopeAssessed:  # fmt: skip
    return ScopeAssessed(
        scope=scope, tenant=tenant, model=model, status=state.status, checked=state.checked, wrong=state.wrong, evidence=state.evidence,
        wealth=state.wealth, limit=state.rules.limit, reason=state.reason, opened_at=opened_at, recent=tuple(recent), assessed_at=now_ms,
    )  # fmt: skip


def _state_of(event: ScopeAssessed, fresh: ScopeState) -> ScopeState:
    """The state under the rules of now: a person may have changed the limit since."""
    status: Status = next((known for known in STATUSES if known == event.status), "new")
    wealth = event.wealth if len(event.wealth) == len(fresh.wealth) else fresh.wealth
    return replace(
        fresh, status=status, checked=event.checked, wrong=event.wrong, evidence=event.evidence, wealth=wealth, reason=event.reason
    )  # fmt: skip
