"""How well the intent classifier knows what it knows, beside two plain classifiers, and how fast texts are embedded.

    ./headrace bench small_models                # everything; minutes
    ./headrace bench small_models --only speed

Fitted and chosen on calibration parts, reported on benchmark parts. The plain ones take the same vectors: logistic regression with the
threshold of the highest probability chosen on its held-out rows, and the same without out-of-scope rows in training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from sklearn.linear_model import LogisticRegression

from benchmarks.report import Target, machine, plots, print_table, save_plot, write_json
from connectors.onnx.classifier import OnnxClassifier
from connectors.onnx.embedder import OnnxEmbedder, open_tokenizer, padded
from connectors.onnx.session import Precision, open_session
from infra import models
from infra.settings import Settings
from infra.small_models import SHIPPED
from infra.training.calibrating import Bools, cut_for, expected_calibration_error, interval
from infra.training.calibrating import Floats as Scores
from infra.training.intent_net import Recipe
from infra.training.intent_rows import Rows, read
from infra.training.intents import FOLDS, PRECISION, RECALL, train, write
from infra.training.vectors import Floats, embedder, vectors_of

_SECONDS = 6.0  # of each side's turn in the measurement of speed


@dataclass(frozen=True, slots=True)
class Told:
    """What a classifier said of the benchmark's rows: confidence is 0 where it says out of scope."""

    right: Bools
    confidence: Scores
    cut: float


def main() -> None:
    """Run what is asked for, print it, and write benchmarks/results/small_models.json and .png, and embedding_speed.json."""
    parser = argparse.ArgumentParser(prog="./headrace bench small_models", description=__doc__)
    parser.add_argument("--only", choices=["quality", "speed"], help="one half")
    parser.add_argument("--precision", choices=["int8", "float"], default="int8", help="the embedder's")
    asked = parser.parse_args()
    for half, name, measure in (("quality", "small_models", quality), ("speed", "embedding_speed", speed)):
        if asked.only in (None, half):
            facts = {"machine": machine(), "precision": asked.precision}
            content, targets = measure(Settings(), asked.precision)
            for target in targets:
                print(target)
            met = [{"what": t.what, "measured": t.measured, "bound": t.bound, "met": t.met} for t in targets]
            print(write_json(name, {**facts, **content, "targets": met}))


def quality(settings: Settings, precision: Precision) -> tuple[dict[str, Any], list[Target]]:
    """Both data sets; the targets are for the one that ships."""
    clinc = settings.data / "intents/clinc150.calibration.csv.gz"
    shipped = OnnxClassifier(SHIPPED / "intents", "cpu")
    fitted, asked = read(clinc), read(settings.data / "intents/clinc150.benchmark.csv.gz", shipped.labels)
    x, q = vectors_of(settings, fitted.texts, precision), vectors_of(settings, asked.texts, precision)
    sides = {"shipped": _by(shipped, asked, q), **plain(fitted, x, asked, q)}
    rows = [measured(name, told, asked) for name, told in sides.items()]
    print_table("CLINC150, benchmark part, at each one's own cut", [shown(row) for row in rows])
    for name, told in sides.items():
        if name != "shipped":
            rows.append(measured(f"{name}, its best cut on the benchmark itself", _hindsight(told, asked), asked))
    reliability(sides, asked)
    banking, banking_rows = second(settings, precision)
    print_table("banking77, benchmark part, the same recipe", [shown(row) for row in banking])
    ours = rows[0]
    targets = [
        Target("right among the answered in scope", 100 * ours["precision"]["share"], 97, at_most=False),
        Target("right over all in scope", 100 * ours["right"]["share"], 93.5, at_most=False),
        Target("out of scope refused", 100 * ours["refused"]["share"], 87, at_most=False),
    ]
    return {"clinc150": rows, "banking77": banking, "rows": {"clinc150": len(asked.texts), "banking77": banking_rows}}, targets


def second(settings: Settings, precision: Precision) -> tuple[list[dict[str, Any]], int]:
    """The recipe of the shipped classifier on data that it was not chosen by; there is nothing out of scope in it."""
    fitted = read(settings.data / "intents/banking77.calibration.csv.gz")
    asked = read(settings.data / "intents/banking77.benchmark.csv.gz", fitted.names)
    x, q = vectors_of(settings, fitted.texts, precision), vectors_of(settings, asked.texts, precision)
    trained = train(fitted, x, Recipe(), print)
    with tempfile.TemporaryDirectory() as folder:
        write(trained, fitted, Recipe(), settings.embedder, Path(folder))
        sides = {"same recipe": _by(OnnxClassifier(Path(folder), "cpu"), asked, q), **plain(fitted, x, asked, q)}
    return [measured(name, told, asked) for name, told in sides.items()], len(asked.texts)


def _by(classifier: OnnxClassifier, asked: Rows, vectors: Floats) -> Told:
    given = classifier.classify(asked.texts, vectors)
    wanted = [asked.names[number] for number in asked.classes]
    outside = np.array([label.label == classifier.out_of_scope for label in given])
    right = np.array([label.label == name for label, name in zip(given, wanted, strict=True)]) & ~outside
    confidence = np.where(outside, 0.0, [label.confidence for label in given])
    return Told(right, confidence, classifier.cut)


def plain(fitted: Rows, x: Floats, asked: Rows, q: Floats) -> dict[str, Told]:
    """Logistic regression with a threshold on its highest probability, with and without the out-of-scope rows in its training."""
    sides = {"logistic regression": _logistic(fitted, x, asked, q, taught=True)}
    if fitted.outside >= 0:
        sides["highest probability alone"] = _logistic(fitted, x, asked, q, taught=False)
    return sides


def _logistic(fitted: Rows, x: Floats, asked: Rows, q: Floats, *, taught: bool) -> Told:
    """Its cut is chosen on the same held-out rows and by the same rule as ours."""
    outside = fitted.classes == fitted.outside
    number_in = np.where(outside, np.cumsum(outside) % FOLDS, 0)
    right: list[Bools] = []
    confidence: list[Scores] = []
    in_scope: list[Bools] = []
    for fold in range(FOLDS if outside.any() else 1):
        out = outside & (number_in == fold)
        held = (fitted.held & ~outside & (fold == 0)) | out
        on = ~(fitted.held & ~outside) & ~out & (taught | ~outside)
        r, c = _fitted(x[on], fitted.classes[on], fitted.outside)(x[held], fitted.classes[held])
        right.append(r)
        confidence.append(c)
        in_scope.append(~outside[held])
    held_right, held_confidence, held_in = np.concatenate(right), np.concatenate(confidence), np.concatenate(in_scope)
    try:
        cut = cut_for(held_confidence, held_right, held_in, precision=PRECISION, recall=RECALL)
    except ValueError:  # then at least the recall, so that the rows can be compared
        cut = cut_for(held_confidence, held_right, held_in, precision=0.0, recall=RECALL)
    on = taught | ~outside
    return Told(*_fitted(x[on], fitted.classes[on], fitted.outside)(q, asked.classes), cut)


def _fitted(x: Floats, y: NDArray[np.int64], outside: int) -> Callable[[Floats, NDArray[np.int64]], tuple[Bools, Scores]]:
    model = LogisticRegression(C=10, max_iter=300).fit(x, y)

    def judge(vectors: Floats, truth: NDArray[np.int64]) -> tuple[Bools, Scores]:
        odds = model.predict_proba(vectors)
        label = model.classes_[odds.argmax(1)]
        return (label == truth) & (label != outside), np.where(label == outside, 0.0, odds.max(1))

    return judge


def _hindsight(told: Told, asked: Rows) -> Told:
    """The cut that refuses 87% of the benchmark's own out-of-scope rows: what choosing it better could have given, never served."""
    outside = asked.classes == asked.outside
    return Told(told.right, told.confidence, float(np.quantile(told.confidence[outside], RECALL)) + 1e-9)


def measured(name: str, told: Told, asked: Rows) -> dict[str, Any]:
    """Shares with their 95% intervals (Wilson), and the expected calibration error with and without what is out of scope."""
    in_scope = asked.classes != asked.outside
    answered = told.confidence >= told.cut

    def share(hits: Bools, of: Bools) -> dict[str, Any]:
        low, high = interval(int((hits & of).sum()), int(of.sum()))
        return {"share": float((hits & of).sum() / max(1, of.sum())), "low": low, "high": high, "of": int(of.sum())}

    said = told.confidence > 0
    return {
        "classifier": name, "cut": told.cut, "precision": share(told.right, answered & in_scope),
        "right": share(told.right & answered, in_scope),
        "refused": share(~answered, ~in_scope), "precision_of_all_answers": share(told.right, answered),
        "right_without_a_cut": share(told.right, in_scope),
        "ece_in_scope": expected_calibration_error(told.confidence[said & in_scope], told.right[said & in_scope]),
        "ece": expected_calibration_error(told.confidence[said], told.right[said]),
    }  # fmt: skip


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the printed table, in percent."""

    def percent(name: str) -> str:
        part = row[name]
        return f"{100 * part['share']:.1f} ({100 * part['low']:.1f}-{100 * part['high']:.1f})" if part["of"] else "-"

    names = {"precision": "right of answered in scope", "right": "right of all in scope", "refused": "out of scope refused"}
    numbers = {"ECE": f"{row['ece']:.3f}", "in scope": f"{row['ece_in_scope']:.3f}"}
    return {"classifier": row["classifier"], **{title: percent(name) for name, title in names.items()}, **numbers}


def reliability(sides: dict[str, Told], asked: Rows, bins: int = 10) -> None:
    """benchmarks/results/small_models.png: share right against confidence, in equally wide bins; the size of a dot is its rows."""
    figure, both = plots().subplots(1, 2, figsize=(11, 5), sharey=True)
    for axes, (title, kept) in zip(both, {"in scope": asked.classes != asked.outside, "all": asked.classes >= 0}.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for name, told in sides.items():
            said = kept & (told.confidence > 0)
            which = np.minimum((told.confidence * bins).astype(int), bins - 1)
            there = [b for b in range(bins) if (said & (which == b)).sum() >= 5]  # fewer say nothing
            points = [(float(told.confidence[said & (which == b)].mean()), float(told.right[said & (which == b)].mean())) for b in there]
            axes.plot(*zip(*points, strict=True), "o-", label=name)
        axes.set(xlabel="confidence", ylabel="share right", title=f"CLINC150, benchmark part: {title}")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    save_plot("small_models", figure)


def speed(settings: Settings, precision: Precision) -> tuple[dict[str, Any], list[Target]]:
    """Batches/s through the embedder's adapter and of onnxruntime called directly on the same batches, in turns on the same core."""
    texts = read(settings.data / "intents/clinc150.benchmark.csv.gz").texts
    adapter, folder = embedder(settings, precision), models.folder(settings, settings.embedder)
    session = open_session(folder / f"{precision}.onnx", 1, "cpu")
    tokenizer = open_tokenizer(folder / "tokenizer.json", 256)
    rows = []
    for size in (1, 8, 32):
        batches = [texts[at : at + size] for at in range(0, size * 40, size)]
        ready = [padded(tokenizer.encode_batch(list(batch))) for batch in batches]
        sides: dict[str, Callable[[int], object]] = {
            "adapter": partial(_embed, adapter, batches),
            "onnxruntime": partial(_run, session, ready),
        }
        rates = _in_turns(sides, len(batches))
        rows.append({"batch": size, **rates, "share": rates["adapter"] / rates["onnxruntime"]})
    print_table("Batches/s, embedder against onnxruntime on the same batches", rows)
    return {"batches_per_s": rows}, [Target("embedding batches of 32 against onnxruntime", rows[-1]["share"], 0.9, at_most=False)]


def _embed(adapter: OnnxEmbedder, batches: Sequence[Sequence[str]], number: int) -> object:
    return adapter.embed(batches[number])


def _run(session: InferenceSession, ready: Sequence[tuple[Any, ...]], number: int) -> object:
    """The runtime alone, on tokens that were made before."""
    return session.run(None, {"input_ids": ready[number][0], "attention_mask": ready[number][1]})


def _in_turns(sides: dict[str, Callable[[int], object]], count: int) -> dict[str, float]:
    """Calls/s of each side: the median over turns, so that what else the machine does falls on both."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    until = time.perf_counter() + 2 * _SECONDS
    for call in sides.values():
        call(0)
    while time.perf_counter() < until or not rates["onnxruntime"]:
        for name, call in sides.items():
            began = time.perf_counter()
            for number in range(count):
                call(number)
            rates[name].append(count / (time.perf_counter() - began))
    return {name: float(np.median(each)) for name, each in rates.items()}


if __name__ == "__main__":
    main()
