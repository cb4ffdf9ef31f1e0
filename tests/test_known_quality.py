"""The quality benchmark on made pairs: it runs without data, and its counting is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import known_quality, report
from benchmarks.quality_rules import best_threshold, counted, curve
from benchmarks.quality_stream import candidates, labels_of, replay
from infra.training.pairs import Pair
from streams.semantic.decision import DecisionRule, flat_prior


def test_the_benchmark_runs_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a generated set, which its output names."""
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(known_quality, "_KEPT", tmp_path / "kept")
    monkeypatch.setattr("sys.argv", ["known_quality", "--pairs", "40", "--out", "dry"])
    known_quality.main()
    assert "generated" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"dry.json", "dry.png"}


def test_shares_are_counted_over_what_is_served() -> None:
    """Wrong among served, right among all duplicates."""
    row = counted("any", np.array([True, True, True, False]), np.array([True, True, False, True]))
    assert (row["served"], row["wrong"]) == (3, 1)
    assert row["wrong %"] == pytest.approx(100 / 3)
    assert row["duplicates served %"] == pytest.approx(200 / 3)
    assert row["low 95 %"] < row["wrong %"] < row["up 95 %"]


def test_the_best_threshold_is_the_one_that_serves_most() -> None:
    """Even where a stricter one was worse for a while."""
    same = np.array([True] * 30 + [False] + [True] * 29)
    threshold, serve = best_threshold(np.linspace(1, 0.5, 60), same, 0.02)
    assert threshold == pytest.approx(0.5)
    assert serve.all()
    assert not best_threshold(np.linspace(1, 0.5, 60), np.zeros(60, bool), 0.02)[1].any()


def test_a_curve_ends_with_everything_that_is_allowed() -> None:
    """Its last point is the rule that serves all."""
    same = np.array([True, False] * 20)
    assert curve(np.linspace(1, 0, 40), np.ones(40, bool), same)[-1] == (1.0, 0.5)


def test_the_stream_knows_what_labels_tell() -> None:
    """Same through a third question; unknown where no label connects."""
    told = [("a", "b", True), ("b", "c", True), ("c", "d", False), ("d", "e", False)]
    pairs = [Pair("x", a, b, same, "g") for a, b, same in told]
    labels = labels_of(pairs)
    assert labels.same("a", "c") is True
    assert labels.same("a", "d") is False
    assert labels.same("a", "e") is None
    met = candidates(pairs, {text: np.ones(1) for text in "abcde"}, 0.5)
    assert all(same == (labels.same(known, asked) is True) for known, asked, _, same in met)


def test_learning_serves_what_was_right_before() -> None:
    """The same question again and again: the flat prior asks first, and serves once it has seen enough."""
    met = [("what is it", "what is it then", 0.9, True)] * 300
    learnt = replay(met, [0.9] * 300, DecisionRule(flat_prior(), 0.1), learn=True)
    assert learnt["served"] > replay(met, [0.9] * 300, DecisionRule(flat_prior(), 0.1), learn=False)["served"]
    assert learnt["wrong"] == 0
