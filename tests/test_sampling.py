"""The counter-based sampler: reproducible, true to temperature and top-p."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from connectors.engines.sampling import draw, uniform

ODDS = torch.tensor([0.1, 0.5, 0.0, 0.4]).log()


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_uniform_is_a_function_of_seed_and_index(seed: int, index: int) -> None:
    """Any seed works, and the number lies in [0, 1)."""
    assert 0 <= uniform(seed, index) < 1
    assert uniform(seed, index) == uniform(seed, index)


def test_uniform_is_the_same_on_every_machine() -> None:
    """A pinned value: a change would make another worker continue with other tokens."""
    assert uniform(7, 0) == 0.7283479541790344


def test_uniform_fills_the_interval_evenly() -> None:
    """Ten bins of 10,000 draws; neighbouring seeds and indices are unrelated."""
    for numbers in ([uniform(1, index) for index in range(10_000)], [uniform(seed, 1) for seed in range(10_000)]):
        bins = torch.histc(torch.tensor(numbers), 10, 0, 1)
        assert bins.min() > 850
        assert bins.max() < 1150


def test_draw_follows_the_distribution() -> None:
    """Frequencies are the probabilities, and a token without mass is never drawn."""
    counts = torch.bincount(torch.tensor([draw(ODDS, 1.0, 1.0, uniform(3, index)) for index in range(5_000)]), minlength=4) / 5_000
    assert torch.allclose(counts, ODDS.exp(), atol=0.03)
    assert counts[2] == 0


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    """0.5 + 0.4 hold 0.85 of the mass; the third token is out."""
    assert {draw(ODDS, 1.0, 0.85, uniform(3, index)) for index in range(500)} == {1, 3}
    assert {draw(ODDS, 1.0, 0.01, uniform(3, index)) for index in range(50)} == {1}


def test_low_temperature_is_nearly_greedy() -> None:
    """And a high one evens the odds out."""
    assert {draw(ODDS, 0.01, 1.0, uniform(3, index)) for index in range(200)} == {1}
    assert {draw(ODDS, 100.0, 1.0, uniform(3, index)) for index in range(200)} == {0, 1, 3}


def test_the_ends_of_the_interval_have_a_token() -> None:
    """Rounding never leads to a token without mass."""
    assert draw(ODDS, 1.0, 1.0, 0.0) == 0
    assert draw(torch.tensor([0.0, -float("inf")]), 1.0, 1.0, 1 - 2**-53) == 0
