"""How often the judge of answers errs: fits its cut on calibration answers, reports on benchmark answers. `python -m benchmarks.judge`.

Same: two accepted answers of one question (nq_open), and each answer beside itself in a sentence. nq_open also accepts answers that
contradict each other (1961, 1945), so that the share of same ones flagged is an upper estimate. Different: an answer of another question
that begins with the same word: by chance, and the one whose letters agree most, which is the hard case. Numbers go with numbers.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infra.settings import Settings
from streams.semantic.assurance import clopper_pearson_upper
from streams.semantic.judging import RuleJudge, by_rules, tokens

RESULT = Path(__file__).with_name("results") / "judge.json"
MOST_FALSE_SAME = 0.02
"""Wanted on calibration, over all kinds of different answers together."""
_LEAST_CUT = 0.75
"""Set by hand: two names with one of two words in common agree by about a half, and answers to different questions hold few of them."""
_SENTENCES = ("The answer is {}.", "It was {}.", "{}, as far as I know.", "That would be {}.")


class Pair(NamedTuple):
    """Two answers to a question; `kind` is a row of the report."""

    kind: str
    question: str
    known: str
    fresh: str
    same: bool


def pairs(data: Path, part: str) -> list[Pair]:
    """Deterministic pairs of one part of nq_open, about four for each question."""
    with gzip.open(data / "questions" / f"nq_open.{part}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rng = random.Random(20)
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_type(row), []).append(row)
    found: list[Pair] = []
    for row in rows:
        question, answers = row["question"], row["answers"]
        found.append(Pair("in a sentence", question, answers[0], rng.choice(_SENTENCES).format(answers[0]), True))
        if len(answers) > 1:
            one, two = rng.sample(answers, 2)
            found.append(Pair("accepted beside it", question, one, two, True))
        others = [o for o in rng.sample(groups[_type(row)], min(60, len(groups[_type(row)]))) if _strange(row, o)]
        if others:
            nearest = max(others, key=lambda o: RuleJudge().agreement(answers[0], o["answers"][0]))
            found.append(Pair("another question's", question, answers[0], others[0]["answers"][0], False))
            found.append(Pair("another question's, nearest of 60", question, answers[0], nearest["answers"][0], False))
            found.append(Pair("nearest, in a sentence", question, answers[0], rng.choice(_SENTENCES).format(nearest["answers"][0]), False))
    return found


def _type(row: dict[str, Any]) -> tuple[str, bool]:
    return row["question"].split()[0], any(c.isdigit() for c in row["answers"][0])


def _strange(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """No accepted answer in common."""
    return not {tokens(a) for a in row["answers"]} & {tokens(a) for a in other["answers"]}


def fit(found: Sequence[Pair], judge: RuleJudge) -> float:
    """The lowest cut with at most MOST_FALSE_SAME among different ones, what rules settle included."""
    allowed = MOST_FALSE_SAME * sum(not p.same for p in found)
    scores = []
    for pair in found:
        verdict = None if pair.same else by_rules(pair.question, pair.known, pair.fresh)
        if verdict is not None:
            allowed -= verdict.same
        elif not pair.same:
            scores.append(judge.agreement(pair.known, pair.fresh))
    scores.sort(reverse=True)
    position = max(0, int(allowed))
    return round(min(1.01, max(_LEAST_CUT, scores[position] + 0.005)), 3) if position < len(scores) else _LEAST_CUT


def report(found: Sequence[Pair], judge: RuleJudge) -> dict[str, Any]:
    """Errors by kind and over all, with one-sided 95% bounds."""
    wrong: dict[str, list[bool]] = {}
    for pair in found:
        errs = judge.judge(pair.question, pair.known, pair.fresh).same != pair.same
        for kind in (pair.kind, "all same" if pair.same else "all different"):
            wrong.setdefault(kind, []).append(errs)
    return {kind: _rates(errors) for kind, errors in sorted(wrong.items())}


def _rates(errors: list[bool]) -> dict[str, float]:
    n, k = len(errors), sum(errors)
    lower = 1.0 - clopper_pearson_upper(n - k, n)
    return {"pairs": n, "errors": k, "share": round(k / n, 5), "upper": round(clopper_pearson_upper(k, n), 5), "lower": round(lower, 5)}


def main(judges: dict[str, Callable[[float | None], RuleJudge]]) -> None:
    """Fit, report, write."""
    data = Settings().data
    result: dict[str, Any] = {}
    calibration, benchmark = pairs(data, "calibration"), pairs(data, "benchmark")
    for name, make in judges.items():
        cut = fit(calibration, make(None))
        result[name] = {"cut": cut, "calibration": report(calibration, make(cut)), "benchmark": report(benchmark, make(cut))}
        for kind, rates in result[name]["benchmark"].items():
            print(f"{name:12} cut {cut:.3f} {kind:36} {rates}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _with_embedder(folder: Path) -> Callable[[float | None], RuleJudge]:
    from connectors.onnx.embedder import OnnxEmbedder

    embedder = OnnxEmbedder(folder)
    cache: dict[str, Any] = {}

    class Remembering:
        def embed(self, texts: Sequence[str]) -> Any:
            for text in texts:
                if text not in cache:
                    cache[text] = embedder.embed([text])[0]
            return np.stack([cache[text] for text in texts])

    return lambda cut: RuleJudge(Remembering(), cut)


if __name__ == "__main__":
    chosen: dict[str, Callable[[float | None], RuleJudge]] = {"words": lambda cut: RuleJudge(None, cut)}
    if len(sys.argv) > 1:
        chosen["vectors"] = _with_embedder(Path(sys.argv[1]))
    main(chosen)
