"""Trust in a scope: 149 clean checks at 2%, a shut-off that rarely errs over any run and fires fast, and the judge's own errors."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.semantic.assurance import (
    AssuranceRules,
    Check,
    Reopened,
    ScopeState,
    check_share,
    clopper_pearson_upper,
    fold,
    may_serve,
    upper_bound,
)

RULES = AssuranceRules()


def after(checks: list[bool], state: ScopeState | None = None) -> ScopeState:
    """The state after checks; True is wrong."""
    state = state or ScopeState(rules=RULES)
    for wrong in checks:
        state = fold(state, Check(wrong))
    return state


def to_shut_off(rate: float, rng: np.random.Generator, limit: int, state: ScopeState | None = None) -> int | None:
    """Checks until the shut-off at a wrong share, or None."""
    state = state or ScopeState(rules=RULES)
    for n, wrong in enumerate(rng.random(limit) < rate, 1):
        state = fold(state, Check(bool(wrong)))
        if state.status == "shut_off":
            return n
    return None


def test_149_clean_checks_make_a_scope_trusted() -> None:
    """At 2% and 95%; before, every hit is checked, after it the setting's share."""
    before = after([False] * 148)
    assert (before.status, check_share(before)) == ("new", 1.0)
    trusted = after([False], before)
    assert (trusted.status, check_share(trusted)) == ("trusted", RULES.trusted_share)
    assert may_serve(before)
    assert may_serve(trusted)


def test_a_wrong_hit_brings_all_checks_back() -> None:
    """149 clean checks and a wrong one bound the share at 3%; about 90 more clean ones bring it down again."""
    doubted = after([True], after([False] * 149))
    assert (doubted.status, check_share(doubted)) == ("new", 1.0)
    assert after([False] * 90, doubted).status == "trusted"


@pytest.mark.parametrize(
    ("wrong", "checked", "upper"),
    [(0, 149, 0.019905), (1, 100, 0.046558), (5, 100, 0.102253), (10, 936, 0.018057), (100, 100, 1.0), (300, 10_000, 0.032964)],
)
def test_the_bound_is_clopper_and_pearsons(wrong: int, checked: int, upper: float) -> None:
    """Against quantiles of the beta distribution, one-sided 95%."""
    assert clopper_pearson_upper(wrong, checked) == pytest.approx(upper, abs=2e-5)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3000), st.data())
def test_the_bound_covers_and_is_monotone(checked: int, data: st.DataObject) -> None:
    """Above the seen share, more with each wrong one, less with each clean one."""
    wrong = data.draw(st.integers(0, checked))
    bound = clopper_pearson_upper(wrong, checked)
    assert wrong / checked <= bound <= 1.0
    assert bound <= clopper_pearson_upper(wrong + 1, checked + 1) + 1e-12
    assert clopper_pearson_upper(wrong, checked + 1) <= bound + 1e-12


def test_a_good_scope_is_rarely_ever_shut_off() -> None:
    """At exactly the limit, over 2,000 checks each: alpha is 1%, over 150 seeds at most 1.5 and 3 sd."""
    fired = sum(to_shut_off(RULES.limit, np.random.default_rng(seed), 2_000) is not None for seed in range(150))
    assert fired <= 150 * RULES.false_alarm + 3.0 * np.sqrt(150 * RULES.false_alarm)


@pytest.mark.parametrize(("times", "most"), [(2, 1100), (5, 130), (25, 12)])
def test_the_shut_off_fires_fast(times: int, most: int) -> None:
    """Mean checks at 2, 5 and 25 times the limit, and right after a long clean time."""
    counts = [to_shut_off(times * RULES.limit, np.random.default_rng(seed), 20_000) for seed in range(40)]
    assert all(count is not None for count in counts)
    assert np.mean([count for count in counts if count is not None]) <= most


def test_a_scope_that_turns_bad_after_a_long_clean_time_is_still_found() -> None:
    """10,000 clean checks don't buy 10,000 wrong ones: half wrong is found within 25 checks on average, all wrong within 8."""
    clean = after([False] * 10_000)
    counts = [to_shut_off(0.5, np.random.default_rng(seed), 1000, clean) or 1000 for seed in range(60)]
    assert np.mean(counts) <= 25
    assert to_shut_off(1.0, np.random.default_rng(0), 100, clean) in range(1, 9)


def test_the_evidence_is_a_fair_bet_at_the_limit() -> None:
    """Its mean is 1 after any number of checks: summed over all outcomes of 10 checks, no simulation."""
    rules = AssuranceRules(limit=0.2, false_alarm=1e-9)
    total = 0.0
    for outcome in range(2**10):
        wrong = [bool(outcome >> bit & 1) for bit in range(10)]
        chance = 0.2 ** sum(wrong) * 0.8 ** (10 - sum(wrong))
        total += chance * after(wrong, ScopeState(rules=rules)).evidence
    assert total == pytest.approx(1.0)


def test_looking_after_each_check_costs_what_the_docstring_says() -> None:
    """A scope exactly at the limit is at some time trusted in 5% of runs at one look, in 18-26% over 2,000 looks."""
    needed = [149]  # checks that it takes, by wrong ones
    while needed[-1] < 2000:
        needed.append(next(n for n in range(needed[-1] + 40, 4000) if clopper_pearson_upper(len(needed), n) <= RULES.limit))
    ever = 0
    for seed in range(1000):
        at = np.flatnonzero(np.random.default_rng(seed).random(2000) < RULES.limit)  # the wrong checks; before the w-th, w are known
        ever += any(w < len(needed) and needed[w] <= min(end, 2000) for w, end in enumerate([*at.tolist(), 2000]))
    assert 0.18 <= ever / 1000 <= 0.26


def test_a_shut_off_scope_stays_so_until_a_person_reopens_it() -> None:
    """Clean checks that were still under way change nothing; reopening forgets all, and says who and why."""
    shut = after(list(repeat(True, 8)))
    assert (shut.status, check_share(shut), may_serve(shut)) == ("shut_off", 0.0, False)
    assert "checks wrong" in shut.reason
    late = after([False] * 500, shut)
    assert late.status == "shut_off"
    reopened = fold(late, Reopened("ada", "the prompt was repaired"))
    assert (reopened.status, reopened.checked, reopened.wrong, reopened.evidence) == ("new", 0, 0, 1.0)
    assert reopened.reason == "reopened by ada: the prompt was repaired"
    assert check_share(reopened) == 1.0


def test_the_judges_errors_are_counted() -> None:
    """A judge that misses one wrong answer in ten makes the bound 1/0.9 of the raw one; known false flags are taken off."""
    rules = AssuranceRules(judge_misses=0.1)
    state = after([False] * 149, ScopeState(rules=rules))
    bound = upper_bound(state)
    assert bound.corrected == pytest.approx(bound.raw / 0.9)
    assert state.status == "new"
    assert after([False] * 17, state).status == "trusted"
    flagging = AssuranceRules(judge_misses=0.1, judge_false_flags=0.05)
    seen = upper_bound(ScopeState(rules=flagging, checked=1000, wrong=50))
    assert seen.corrected == pytest.approx((seen.raw - 0.05) / 0.85)
    with pytest.raises(ValueError, match="chance"):
        AssuranceRules(judge_misses=0.6, judge_false_flags=0.4)
    with pytest.raises(ValueError, match="limit"):
        AssuranceRules(limit=0.0)


def test_known_false_flags_do_not_shut_a_good_scope_off() -> None:
    """With the judge's 5% counted, a scope without a wrong answer runs on; uncounted it is shut off, which is the safe side."""
    counted = ScopeState(rules=AssuranceRules(judge_false_flags=0.05))
    assert to_shut_off(0.05, np.random.default_rng(1), 5000, counted) is None
    assert to_shut_off(0.05, np.random.default_rng(1), 5000) is not None
