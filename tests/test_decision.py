"""The decision rule on simulated entries: the bound holds, hits grow with what was seen, and bad entries go silent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.semantic.decision import Belief, DecisionRule, Observation, Prior, fit_prior, flat_prior, spread

DELTA = 0.02


@dataclass
class World:
    """Entries whose curves are logistic, or, with `noise`, flattened towards both ends, as wrong labels do."""

    rng: np.random.Generator
    noise: float = 0.0
    shape: str = "logistic"

    def entry(self) -> tuple[float, float]:
        """Threshold and steepness; one in eight is never right."""
        if self.rng.random() < 0.125:
            return 1.6, 40.0
        return float(self.rng.normal(0.75, 0.08)), float(self.rng.uniform(30.0, 90.0))

    def right(self, entry: tuple[float, float], score: float) -> bool:
        """Whether the entry's answer is right for one query."""
        z = entry[1] * (score - entry[0])
        p = 1.0 / (1.0 + np.exp(-z)) if self.shape == "logistic" else 0.5 + np.arctan(3.0 * z) / np.pi
        return bool(self.rng.random() < p * (1.0 - self.noise))

    def observations(self, count: int) -> list[Observation]:
        """Of one new entry."""
        entry = self.entry()
        return [Observation(s, self.right(entry, s)) for s in self.rng.uniform(0.5, 1.0, count)]


@dataclass
class Run:
    """What a simulated stream came to."""

    queries: int
    served: int
    wrong: int
    served_late: int
    asked_late: int


def stream(world: World, rule: DecisionRule, entries: int, queries: int) -> Run:
    """Each entry meets `queries` queries; what is explored is observed, what is served is not. Late: the second half."""
    run = Run(entries * queries, 0, 0, 0, 0)
    for _ in range(entries):
        entry, belief = world.entry(), rule.fresh
        for n in range(queries):
            score = float(world.rng.uniform(0.5, 1.0))
            right = world.right(entry, score)
            late = n >= queries // 2
            run.asked_late += late
            if rule.decide(belief, score, world.rng.random()).serve:
                run.served += 1
                run.served_late += late
                run.wrong += not right
            else:
                belief = rule.learn(belief, Observation(score, right))
    return run


def learnt_prior(world: World) -> Prior:
    """From entries of the same world, mostly with few observations, as in calibration data."""
    return fit_prior([world.observations(int(n)) for n in world.rng.choice([1, 2, 5, 20], 1500, p=[0.4, 0.3, 0.2, 0.1])], rounds=40)


def most(runs: int, delta: float = DELTA) -> float:
    """Wrong ones among `runs` at the bound, and three standard deviations."""
    return delta * runs + 3.0 * float(np.sqrt(runs * delta * (1.0 - delta)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("certainty", ["predictive", "band"])
@pytest.mark.parametrize(("noise", "shape"), [(0.0, "logistic"), (0.005, "logistic"), (0.0, "cauchy")])
def test_wrong_share_among_served_stays_under_the_bound(seed: int, certainty: str, noise: float, shape: str) -> None:
    """In the world of the prior, with labels that err, and with curves that are no logistic ones and have heavier tails."""
    world = World(np.random.default_rng(seed), noise, shape)
    rule = DecisionRule(learnt_prior(world), DELTA, certainty="band" if certainty == "band" else "predictive")
    run = stream(world, rule, 80, 25)
    assert run.served > 0.005 * run.queries
    assert run.wrong <= most(run.served), run


@pytest.mark.parametrize("seed", range(3))
def test_the_papers_rule_bounds_wrong_answers_among_all_queries(seed: int) -> None:
    """Without a prior learnt, too: the flat one, and the confidence band."""
    world = World(np.random.default_rng(100 + seed))
    run = stream(world, DecisionRule(flat_prior(), DELTA, over="queries", certainty="band"), 40, 30)
    assert run.served > 0
    assert run.wrong <= most(run.queries), run


def test_more_is_served_as_more_is_seen() -> None:
    """In the second half of a stream, and more with the learnt prior than with none."""
    world = World(np.random.default_rng(5))
    prior = learnt_prior(world)
    learnt, blank = (stream(world, DecisionRule(p, DELTA), 60, 40) for p in (prior, flat_prior()))
    assert learnt.served_late > learnt.served - learnt.served_late
    assert blank.served_late > 1.2 * (blank.served - blank.served_late)
    assert learnt.served > 1.2 * blank.served


@pytest.mark.parametrize("certainty", ["predictive", "band"])
def test_an_entry_that_was_wrong_is_not_served(certainty: str) -> None:
    """A wrong observation ends what the prior allowed below it, four end what thirty right ones earned; right ones bring it back."""
    world = World(np.random.default_rng(6))
    rule = DecisionRule(learnt_prior(world), DELTA, certainty="band" if certainty == "band" else "predictive")
    assert not rule.decide(rule.learn(rule.fresh, Observation(0.97, False)), 0.97, 0.5).serve
    trusted = rule.learn(rule.fresh, *[Observation(0.9, True)] * 30)
    assert rule.decide(trusted, 0.97, 0.5).serve
    doubted = rule.learn(trusted, *[Observation(0.96, False)] * 4)
    assert not rule.decide(doubted, 0.97, 0.5).serve
    assert rule.decide(rule.learn(doubted, *[Observation(0.95, True)] * rule.keep), 0.97, 0.5).serve


def test_the_papers_rule_serves_the_hopeless_now_and_then() -> None:
    """Why `over="served"` is the default: with probability delta a certainly wrong answer is given."""
    rule = DecisionRule(flat_prior(), DELTA, over="queries")
    wrong = rule.learn(rule.fresh, *[Observation(0.99, False)] * 60)
    assert rule.decide(wrong, 0.6, DELTA).explore == pytest.approx(1.0 - DELTA, abs=1e-3)
    assert not DecisionRule(flat_prior(), DELTA).decide(wrong, 0.6, 0.999999).serve


SCORES = st.floats(0.0, 1.0)
OBSERVATIONS = st.lists(st.builds(Observation, SCORES, st.booleans()), max_size=12)
RULES = {(c, o): DecisionRule(flat_prior(), DELTA, over=o, certainty=c) for c in ("predictive", "band") for o in ("served", "queries")}


@settings(max_examples=60, deadline=None)
@given(OBSERVATIONS, SCORES, SCORES, st.floats(0.0, 1.0, exclude_max=True), st.sampled_from(sorted(RULES)))
def test_curves_rise_and_stay_shares(seen: list[Observation], low: float, high: float, draw: float, which: tuple[str, str]) -> None:
    """A better score is never trusted less; serving follows from the draw; the bound holds by the rule's own estimate."""
    rule = RULES[which]
    belief = rule.learn(rule.fresh, *seen)
    low, high = sorted((low, high))
    a, b = rule.decide(belief, low, draw), rule.decide(belief, high, draw)
    assert 0.0 <= a.probability <= b.probability <= 1.0
    assert 0.0 <= b.explore <= a.explore <= 1.0
    assert a.serve == (draw >= a.explore)
    assert (1.0 - a.explore) * (1.0 - a.probability) <= DELTA + 1e-9


@settings(max_examples=40, deadline=None)
@given(OBSERVATIONS, SCORES)
def test_right_observations_raise_and_wrong_ones_lower(seen: list[Observation], at: float) -> None:
    """At the observation's own score; the band is never above the mean; the order of observations says nothing."""
    rule = RULES["predictive", "served"]
    before = rule.learn(rule.fresh, *seen)
    up, down = rule.learn(before, Observation(at, True)), rule.learn(before, Observation(at, False))
    step = round(at * 200)
    assert down.curve[step] <= before.curve[step] + 1e-6
    assert before.curve[step] <= up.curve[step] + 1e-6
    band = RULES["band", "served"]
    assert (band.learn(band.fresh, *seen).curve <= before.curve + 1e-6).all()
    assert np.allclose(rule.learn(rule.fresh, *reversed(seen)).curve, before.curve, atol=1e-6)


def test_odd_scores_are_safe() -> None:
    """What is no number is never served; rounding beyond 1 is 1; nothing seen changes nothing."""
    rule = RULES["predictive", "served"]
    sure = Belief((), np.ones(201, np.float32))
    assert not rule.decide(sure, float("nan"), 0.5).serve
    assert not rule.decide(sure, -0.2, 0.5).serve
    assert rule.decide(sure, 1.0000001, 0.5).serve
    assert rule.learn(rule.fresh, Observation(float("nan"), True)).observations
    assert rule.learn(rule.fresh) is rule.fresh
    with pytest.raises(ValueError, match="share"):
        DecisionRule(flat_prior(), 1.0)


def test_a_prior_survives_its_file() -> None:
    """Rows and back; a bad file is refused."""
    prior = fit_prior([[Observation(0.9, True)], [Observation(0.4, False), Observation(0.8, True)], []], rounds=5)
    again = Prior.from_rows(prior.to_rows())
    assert np.allclose(again.weights, prior.weights)
    assert prior.weights.sum() == pytest.approx(1.0)
    assert fit_prior([]).weights.size == flat_prior().weights.size
    for rows in ([], [(0.5, 10.0)], [(0.5, 10.0, -1.0)], [(0.5, 10.0, float("nan"))]):
        with pytest.raises(ValueError, match="prior"):
            Prior.from_rows(rows)


def test_spread_keeps_order_and_tells_high_probabilities_apart() -> None:
    """0.99 and 0.999 are several steps of the rule's grid apart."""
    assert spread(0.0) == 0.0
    assert spread(1.0) == 1.0
    assert spread(0.5) == 0.5
    assert spread(0.999) - spread(0.99) > 0.1
