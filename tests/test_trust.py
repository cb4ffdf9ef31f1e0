"""What is trusted is a fold that two services come to alike: the one that counts checks, and those that read what it published."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings import Settings
from infra.trusting import trust
from schemas.knowledge import ScopeAssessed, ScopeReopened, ScopeShutOff, SemanticHitChecked
from schemas.record import Record
from streams.errors import PoisonError
from streams.semantic.assurance import AssuranceRules
from streams.semantic.decision import DecisionRule, Prior
from streams.semantic.trust import Trust, TrustSettings

# Entries whose answers are right from a probability of 0.9 on, and some for which nothing is.
PRIOR = Prior(np.array([0.6, 1.5]), np.array([60.0, 60.0]), np.array([0.995, 0.005]))
SETTINGS = TrustSettings(DecisionRule(PRIOR, 0.02), AssuranceRules(limit=0.02))


def check(
    number: int, *, same: bool, served: bool = True, entry: str = "e", scope: str = "s", request: int | None = None
) -> SemanticHitChecked:  # fmt: skip
    """A check at millisecond `number`, of a request of that number or another."""
    return SemanticHitChecked(
        request_id=f"r{number if request is None else request}", met_by="m", tenant="t", scope=scope, entry_id=entry,
        similarity=0.9, score=0.95, served=served, same=same,
        confidence=0.9, judge="j", checked_at=number,
    )  # fmt: skip


def test_wrong_hits_shut_their_scope_off_with_an_event_and_no_other() -> None:
    """Fed wrong hits, the scope is shut off within a few, once; another scope goes on."""
    trust = Trust(SETTINGS)
    told: list[Record] = []
    for number in range(40):
        told += trust.count(check(number, same=False, entry=f"e{number}"), "m")
    off = [event for event in told if isinstance(event, ScopeShutOff)]
    assert len(off) == 1 and off[0].checked < 10, "the first few say enough"
    assert trust.is_shut_off("s") and trust.check_share("s") == 0.0
    assert not trust.is_shut_off("other") and trust.check_share("other") == 1.0


def test_a_new_scope_is_checked_wholly_until_149_clean_checks() -> None:
    """Then a small share; and the verdicts on answers that were not served count for their entry alone."""
    trust = Trust(SETTINGS)
    for number in range(149):
        assert trust.check_share("s") == 1.0
        trust.count(check(number, same=True, entry=f"e{number}"), "m")
        trust.count(check(1000 + number, same=False, served=False, entry="tried"), "m")
    assert 0 < trust.check_share("s") <= 0.02
    assert not trust.decide("tried", 0.95, 0.5).serve
    assert trust.decide("e1", 0.95, 0.5).serve


def test_a_scope_that_was_reopened_begins_anew_once() -> None:
    """The person's wish is fulfilled once, however often it is read."""
    trust = Trust(SETTINGS)
    for number in range(10):
        trust.count(check(number, same=False, entry=f"e{number}"), "m")
    wish = ScopeReopened(scope="s", tenant="t", reason="looked at by hand", reopened_by="p", reopened_at=50)
    event = trust.reopen(wish, 60)
    assert isinstance(event, ScopeAssessed) and event.status == "new" and "looked at by hand" in event.reason
    assert not trust.is_shut_off("s") and trust.reopen(wish, 70) is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_readers_come_to_the_same_whatever_repeats_and_delays(seed: int) -> None:
    """Events of several keys, repeated and with a late start: reader and counter decide alike, and a counter can start from them."""
    chance = random.Random(seed)
    counter, reader = Trust(SETTINGS), Trust(SETTINGS)
    published: list[Record] = []
    for number in range(chance.randrange(1, 60)):
        made = check(
            number // 3, request=number, same=chance.random() < 0.8, served=chance.random() < 0.7,
            entry=f"e{number % 3}", scope=f"s{number % 2}",
        )  # fmt: skip
        if not counter.was_counted(made.scope, made.request_id):
            published += counter.count(made, "m")
        assert counter.was_counted(made.scope, made.request_id)
    for event in published:
        for _ in range(chance.randrange(1, 3)):
            reader.fold(event)
        if chance.random() < 0.2:
            reader.fold(chance.choice(published[: published.index(event) + 1]))  # an older one again
    for scope in ("s0", "s1"):
        assert (reader.is_shut_off(scope), reader.told(scope)) == (counter.is_shut_off(scope), counter.told(scope))
        assert reader.check_share(scope) == counter.check_share(scope)
    for entry in ("e0", "e1", "e2"):
        assert reader.decide(entry, 0.95, 0.5) == counter.decide(entry, 0.95, 0.5)


def test_what_ships_serves_one_wording_at_the_usual_bound() -> None:
    """The shipped prior under the settings' bound: certain where two texts are one wording, and not where a network is merely sure."""
    decide = Trust(trust(Settings())).decide
    assert decide("e", 0.9999, 0.5).serve
    assert not decide("e", 0.9, 0.5).serve and decide("e", 0.9, 0.5).explore
    assert not decide("e", 0.2, 0.5).explore


def test_a_bound_that_nothing_was_learnt_for_is_refused_with_what_to_do() -> None:
    """Rather than serve under a bound that was never measured."""
    with pytest.raises(PoisonError, match="no operating point") as caught:
        trust(Settings(semantic_error_bound=0.001))
    assert "HEADRACE_SEMANTIC" in caught.value.remedy
