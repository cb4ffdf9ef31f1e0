"""How far semantic answers of a scope are trusted: a fold over checks of its hits, with a shut-off that may look at any time. Pure.

A check asks the model what it would have answered, and a judge whether that says the same as what was served.

*New, trusted.* Every hit is checked while the upper bound of the wrong share is above the limit (Clopper & Pearson 1934, one-sided 95%:
149 clean checks at 2%), a small random share of hits after. A wrong hit that lifts the bound above the limit again brings all
checks back. Which hits are checked depends on the past and on chance alone, never on the hit, so that checks are a fair sample of them.
The bound holds for a number of checks fixed beforehand; looking after each check trusts a scope that sits exactly at the limit in about
22% of runs over 2,000 checks instead of 5% (`tests/test_assurance.py` measures it). The shut-off goes on and has no such weakness.

*Shut off.* A bet against "the wrong share is at most the limit m" (Waudby-Smith & Ramdas, JRSS-B 2024; the factors are Wald's likelihood
ratios, 1945). For an alternative p > m each check multiplies the wealth by p/m where it is wrong and by (1-p)/(1-m) where it is not; its
expectation is at most 1 while P(wrong | past) <= m, so that wealth ever reaching 1/alpha has probability at most alpha over an unlimited
run (Ville 1939), whenever one looks and whatever is checked. Wealth is spread over a few alternatives, and over the check at which a bet
begins (share 1/(k(k+1)) for the k-th): a mean of bets is a bet, and one that begins late has not lost its stake in the good times, so that
a scope that turns bad after 10,000 clean checks is still found within a few. One bet costs one number, as the begun bets of an
alternative all multiply by the same factor. The test uses checks only: where 1.5% of hits are checked, 10 checks are about 670 hits.

*The judge errs.* Of wrong answers it calls at most a share a "the same" (its measured upper bound), so P(flagged) >= w (1 - a) and
w <= U(flagged) / (1 - a). It also flags right answers; where a lower bound b of that share is known, w <= (U - b) / (1 - a - b)
(Rogan & Gladen 1978). With b = 0 those false alarms count as wrong, and a judge that makes more of them than the limit lets no scope
be trusted, and may shut one off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["new", "trusted", "shut_off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssuranceRules:
    """What is promised and how it is checked. Shares in (0, 1).

    `limit`: the most wrong answers among what is served. `confidence`: of the bound under which a scope is trusted. `trusted_share`: of
    a trusted scope's hits that are checked. `false_alarm`: alpha, chance that a good scope is ever shut off. `judge_misses`: upper bound
    of the share of wrong answers that the judge calls the same; `judge_false_flags`: LOWER bound of the share of right ones it flags.
    """

    limit: float = 0.02
    confidence: float = 0.95
    trusted_share: float = 0.015
    false_alarm: float = 0.01
    judge_misses: float = 0.0
    judge_false_flags: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where the judge tells nothing or a share is none."""
        shares_hold = 0.0 < self.trusted_share <= 1.0 and 0.0 < self.false_alarm < 1.0
        if not (shares_hold and 0.0 < self.limit < 0.5 < self.confidence < 1.0):
            raise ValueError(f"limit in (0, 0.5), confidence in (0.5, 1), the other shares in (0, 1): {self}")
        if min(self.judge_misses, self.judge_false_flags) < 0.0 or self.judge_misses + self.judge_false_flags >= 1.0:
            raise ValueError(f"a judge with these errors is no better than chance: {self}")

    @property
    def tested_share(self) -> float:
        """m: the most flagged checks that a scope within the limit has."""
        return self.judge_false_flags + self.limit * (1.0 - self.judge_false_flags)

    @property
    def trusted_below(self) -> float:
        """The most that the raw upper bound may be for the corrected one to be at the limit."""
        return self.judge_false_flags + self.limit * (1.0 - self.judge_misses - self.judge_false_flags)

    @property
    def alternatives(self) -> tuple[float, ...]:
        """p of the bets: little, much and very much worse than allowed."""
        m = self.tested_share
        return (min(2 * m, (1 + m) / 2), min(5 * m, (2 + m) / 3), max(0.5, (1 + m) / 2))


@dataclass(frozen=True, slots=True)
class Check:
    """A served answer was compared with the model's. `wrong`: the judge says that they differ."""

    wrong: bool


@dataclass(frozen=True, slots=True)
class Reopened:
    """A person lets a scope begin anew, and says why."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeState:
    """Where a scope stands. `wealth`: of the begun bets, by alternative. `evidence`: e-value now; `reason`: of the status, for people."""

    rules: AssuranceRules
    status: Status = "new"
    checked: int = 0
    wrong: int = 0
    wealth: tuple[float, ...] = (0.0, 0.0, 0.0)
    evidence: float = 1.0
    reason: str = "no hit has been checked"


@dataclass(frozen=True, slots=True)
class UpperBound:
    """Of the wrong share. `raw` takes the judge at its word, `corrected` counts its measured errors; `corrected` is what decides."""

    raw: float
    corrected: float


def fold(state: ScopeState, event: Check | Reopened) -> ScopeState:
    """The state after an event. A scope that is shut off stays so, whatever checks still come, until a person reopens it."""
    if isinstance(event, Reopened):
        return ScopeState(rules=state.rules, reason=f"reopened by {event.by}: {event.reason}")
    rules, m = state.rules, state.rules.tested_share
    checked, wrong = state.checked + 1, state.wrong + int(event.wrong)
    begins = 1.0 / (checked * (checked + 1))  # stake of the bet that begins with this check; 1/(checked+1) is still in hand after it
    wealth = tuple(
        min((held + begins) * (p / m if event.wrong else (1.0 - p) / (1.0 - m)), 1e200)
        for held, p in zip(state.wealth, rules.alternatives, strict=True)
    )
    evidence = sum(wealth) / len(wealth) + 1.0 / (checked + 1)
    after = replace(state, checked=checked, wrong=wrong, wealth=wealth, evidence=evidence)
    if state.status == "shut_off":
        return after
    if evidence >= 1.0 / rules.false_alarm:
        needed = 1.0 / rules.false_alarm
        return replace(after, status="shut_off", reason=f"{wrong} of {checked} checks wrong, evidence {evidence:.3g} of {needed:.3g}")
    proven = _at_most_probability(wrong, checked, rules.trusted_below) <= 1.0 - rules.confidence  # the bound, without solving for it
    return replace(after, status="trusted" if proven else "new", reason=f"{wrong} of {checked} checks wrong, limit {rules.limit:.2%}")


def check_share(state: ScopeState) -> float:
    """Share of hits to check: 1 while new, `trusted_share` while trusted, 0 where nothing is served."""
    return {"new": 1.0, "trusted": state.rules.trusted_share, "shut_off": 0.0}[state.status]


def may_serve(state: ScopeState) -> bool:
    """Whether semantic answers are given in this scope. While new they are, and each is checked."""
    return state.status != "shut_off"


def upper_bound(state: ScopeState) -> UpperBound:
    """One-sided upper bound of the wrong share, at the rules' confidence; 1 before the first check."""
    rules = state.rules
    raw = clopper_pearson_upper(state.wrong, state.checked, rules.confidence)
    a, b = rules.judge_misses, rules.judge_false_flags
    return UpperBound(raw, min(1.0, max(0.0, (raw - b) / (1.0 - a - b))))


def clopper_pearson_upper(wrong: int, checked: int, confidence: float = 0.95) -> float:
    """The largest share p under which `wrong` or fewer of `checked` still have probability 1 - confidence."""
    if wrong >= checked:
        return 1.0
    level = 1.0 - confidence  # under a half, or the tail's short cut is wrong
    low, high = wrong / checked, 1.0
    for _ in range(50):
        p = 0.5 * (low + high)
        low, high = (p, high) if _at_most_probability(wrong, checked, p) > level else (low, p)
    return high


def _at_most_probability(wrong: int, checked: int, share: float) -> float:
    """P(at most `wrong` of `checked`) where each is wrong with probability `share`: terms from the greatest down, until none counts."""
    if wrong >= checked * share:
        return 1.0  # at least a half; nobody asks how much
    rest = 1.0 - share
    term = math.exp(
        math.lgamma(checked + 1) - math.lgamma(wrong + 1) - math.lgamma(checked - wrong + 1)
        + wrong * math.log(share) + (checked - wrong) * math.log(rest)
    )  # fmt: skip
    total = term
    for k in range(wrong, 0, -1):
        term *= k * rest / ((checked - k + 1) * share)
        total += term
        if term < total * 1e-12:
            break
    return total
