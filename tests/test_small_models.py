"""Small models: trained in a second on made-up texts, exported, served by the adapter, and batched by the tier."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from agents.small_models import SmallModelFailed, SmallModelTier
from connectors.onnx import ngrams
from connectors.onnx.classifier import OnnxClassifier, UnusableClassifier
from connectors.onnx.embedder import OnnxEmbedder
from infra import models
from infra.settings import Settings
from infra.small_models import SHIPPED, OtherEmbedder, small_model_tier
from infra.training.calibrating import calibrate, cut_for, expected_calibration_error, interval
from infra.training.intent_net import Recipe, probabilities
from infra.training.intent_rows import OUT_OF_SCOPE, Rows
from infra.training.intents import Trained, train, write
from schemas.events import Guess, InferenceRequested, Message, Parameters
from schemas.ids import uuid7
from streams.small_models import (
    Label,
    SmallAnswer,
    Vectors,
    asked_for_a_label,
    decide,
    labels_to_choose_from,
    why_not_known,
)

RECIPE = Recipe(buckets=512, width=8, hidden=32, epochs=12, batch=32, rate=1e-2, smoothing=0.0, members=2)
TOPICS = {"balance": ("money", "account"), "weather": ("rain", "sun"), "music": ("song", "play")}


class HashEmbedder:
    """Sums a fixed random vector for each word; says how many texts each call had, and can be told to fail or to wait."""

    version, dimensions = "hash-1", 16

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        words = [[np.random.default_rng(zlib.crc32(w.encode())).normal(size=16) for w in [*text.split(), "."]] for text in texts]
        summed = np.array([np.sum(each, axis=0) for each in words])
        found: Vectors = (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)
        return found


def made_up() -> Rows:
    """300 texts of three intents, and 60 that are about nothing of the kind."""
    draw = np.random.default_rng(5)
    names = (*sorted(TOPICS), OUT_OF_SCOPE)
    texts, classes = [], []
    for _ in range(100):
        for number, name in enumerate(sorted(TOPICS)):
            texts.append(f"{draw.choice(['please', 'now', 'well'])} {draw.choice(TOPICS[name])} {draw.choice(['x', 'y', 'z'])}")
            classes.append(number)
    for _ in range(60):
        texts.append(f"{draw.choice(['why', 'when'])} {draw.choice(['war', 'peace', 'tax'])} {draw.choice(['x', 'y', 'z'])}")
        classes.append(3)
    return Rows(tuple(texts), np.array(classes), names, 3, np.arange(len(texts)) % 2 == 0)


@pytest.fixture(scope="module")
def small() -> Trained:
    """The networks."""
    return train(made_up(), HashEmbedder().embed(made_up().texts), RECIPE, lambda _: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small: Trained) -> Path:
    """The classifier's files."""
    made = tmp_path_factory.mktemp("shipped") / "topics"
    write(small, made_up(), RECIPE, "hash", made)
    return made


@pytest.fixture
def classifier(folder: Path) -> OnnxClassifier:
    """The adapter over them."""
    return OnnxClassifier(folder, "cpu")


@pytest.fixture
def embedder() -> HashEmbedder:
    """An embedder that counts."""
    return HashEmbedder()


@pytest.fixture
async def tier(classifier: OnnxClassifier, embedder: HashEmbedder) -> AsyncIterator[SmallModelTier]:
    """The tier over both."""
    made = SmallModelTier({"hash": embedder}, {"topics": classifier}, {"topics": "hash"})
    embedder.calls.clear()
    yield made
    embedder.go.set()
    made.close()


def asked(text: str, task: str = "classify", labels: tuple[str, ...] = ()) -> InferenceRequested:
    """An admitted request."""
    return InferenceRequested(
        request_id=uuid7(), tenant="acme", model="topics" if task == "classify" else "hash", task=task, requested_at=0,
        messages=(Message(role="system", content="rain"), Message(role="user", content=text)), parameters=Parameters(labels=labels),
    )  # fmt: skip


def test_the_graph_says_what_the_networks_say(small: Trained, classifier: OnnxClassifier, embedder: HashEmbedder) -> None:
    """Labels are equal and confidences nearly, although the graph's tables have 8 bits; alone and in a batch."""
    rows = made_up()
    vectors = embedder.embed(rows.texts)
    given = classifier.classify(rows.texts, vectors)
    scores = probabilities(small.nets, vectors, ngrams.rows(rows.texts, RECIPE.buckets))
    assert [label.label for label in given] == [rows.names[number] for number in scores.argmax(1)]
    inside = scores.argmax(1) != rows.outside
    wanted = np.where(inside, small.calibration.confidence(scores.max(1)), scores.max(1))
    assert np.abs(np.array([label.confidence for label in given]) - wanted).max() < 0.02
    alone = classifier.classify(rows.texts[:1], vectors[:1])[0]
    assert (alone.label, alone.confidence) == (given[0].label, pytest.approx(given[0].confidence, abs=1e-5))
    assert classifier.classify([], vectors[:0]) == []


def test_training_is_the_same_again(small: Trained, folder: Path, tmp_path: Path) -> None:
    """By its seed, to the byte."""
    again = train(made_up(), HashEmbedder().embed(made_up().texts), RECIPE, lambda _: None)
    write(again, made_up(), RECIPE, "hash", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert (again.cut, again.held_out) == (small.cut, small.held_out)


def test_it_knows_what_it_knows(classifier: OnnxClassifier, embedder: HashEmbedder) -> None:
    """In scope and sure; what is out of scope is never known, however sure."""
    texts = ["please money x", "why war y"]
    known, outside = classifier.classify(texts, embedder.embed(texts))
    assert (known.label, classifier.knows(known)) == ("balance", True)
    assert (outside.label, classifier.knows(outside)) == (OUT_OF_SCOPE, False)
    assert not classifier.knows(Label("balance", 0.0))
    assert classifier.labels == ("balance", "music", "weather", OUT_OF_SCOPE)


def test_a_folder_that_is_no_classifier_says_so(folder: Path, tmp_path: Path) -> None:
    """With a remedy."""
    with pytest.raises(UnusableClassifier) as error:
        OnnxClassifier(tmp_path)
    assert error.value.remedy
    (tmp_path / "labels.json").write_bytes((folder / "labels.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UnusableClassifier):
        OnnxClassifier(tmp_path)


async def test_the_tier_answers_guesses_and_embeds(tier: SmallModelTier, embedder: HashEmbedder) -> None:
    """In one batch, in the order of the requests, with one call of the embedder."""
    requests = [asked("please money x"), asked("rain", "embed"), asked("why war y"), asked("now song z", labels=("weather",))]
    known, vector, unknown, unwanted = await tier.answer(requests)
    assert isinstance(known, SmallAnswer) and known.text == "balance" and known.confidence and "topics" in known.reason
    assert isinstance(vector, SmallAnswer) and vector.embedding == tuple(embedder.embed(["rain"])[0].tolist())
    assert isinstance(unknown, Guess) and (unknown.text, unknown.label) == ("why war y", OUT_OF_SCOPE)
    assert isinstance(unwanted, Guess) and unwanted.label == "music"
    assert embedder.calls[0] == 4
    assert tier.task_models == {"classify": ("topics",), "embed": ("hash",)}


async def test_batches_are_what_is_queued(tier: SmallModelTier, embedder: HashEmbedder) -> None:
    """A lone request goes at once; what comes while a call runs is taken together by the next one, and the loop goes on meanwhile."""
    embedder.go.clear()
    tasks = [asyncio.create_task(tier.answer([asked("rain x", "embed")]))]
    while not embedder.calls:  # noqa: ASYNC110  # the other thread's progress has no event
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(tier.answer([asked(f"song {number}", "embed")])) for number in range(100)]
    await asyncio.sleep(0.01)
    tasks[7].cancel()
    embedder.go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert embedder.calls == [1, 64, 36]
    assert sum(isinstance(each, asyncio.CancelledError) for each in ended) == 1
    assert embedder.threads == {"small-models_0"}


async def test_a_failed_call_fails_its_batch_alone(tier: SmallModelTier, embedder: HashEmbedder) -> None:
    """Each request of it gets the error, and the next call is as ever."""
    embedder.error = RuntimeError("out of memory")
    failed = await tier.answer([asked("rain"), asked("sun", "embed")])
    assert all(isinstance(each, SmallModelFailed) and each.retryable for each in failed)
    embedder.error = None
    assert isinstance((await tier.answer([asked("rain", "embed")]))[0], SmallAnswer)


def test_what_the_language_model_is_asked(classifier: OnnxClassifier) -> None:
    """The text, and all labels to choose from, which bind the answer; the request's own labels where it has some."""
    labels = labels_to_choose_from(classifier, ())
    messages, parameters = asked_for_a_label("why war y", labels, 7)
    assert parameters.labels == classifier.labels and OUT_OF_SCOPE in parameters.labels
    assert parameters.seed == 7 and parameters.max_tokens is not None
    assert all(word in messages[-1].content for word in (*labels, "why war y"))
    assert labels_to_choose_from(classifier, ("a", "b")) == ("a", "b")
    guess = decide(classifier, "t", Label("music", 0.01), ())
    assert isinstance(guess, Guess) and "music" in why_not_known(guess)


def test_calibration_finds_the_odds() -> None:
    """Scores that are too sure become probabilities that hold; rows that weigh more count more."""
    draw = np.random.default_rng(1)
    true = draw.uniform(0.05, 0.95, 20_000)
    right = draw.uniform(size=20_000) < true
    odds = 3 * np.log(true / (1 - true))
    scores = 1 / (1 + np.exp(-odds))
    found = calibrate(scores, right, np.ones(20_000))
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert expected_calibration_error(scores, right) > 0.1
    assert expected_calibration_error(found.confidence(scores), right) < 0.02


def test_the_cut_is_the_lowest_that_is_sure_to_do() -> None:
    """By the lower ends of both intervals; where none does, that is said."""
    confidence = np.linspace(0, 1, 1000)
    in_scope = np.arange(1000) % 2 == 0
    right = in_scope & (confidence > 0.3)
    cut = cut_for(confidence, right, in_scope, precision=0.95, recall=0.8)
    refused = float((confidence[~in_scope] < cut).mean())
    assert 0.8 < refused < 0.86
    assert interval(int(500 * refused), 500)[0] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="no cut"):
        cut_for(confidence, np.zeros(1000, dtype=bool), in_scope, precision=0.9, recall=0.5)


@pytest.mark.parametrize("text", ["", " ", "?!", "é 漢字", "a" * 10_000, "\ud800"])
def test_any_text_has_ngrams(text: str) -> None:
    """None, odd ones, and very many."""
    found: Any = ngrams.rows([text, "two words"], 64)
    assert found.shape[0] == 2
    assert found.min() >= 0 and found.max() <= 64
    assert found.shape[1] <= ngrams.MOST


def test_what_ships_is_small_and_says_what_it_is() -> None:
    """Under 5 MB with its card, which names the licence and the command that makes it again."""
    folder = SHIPPED / "intents"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    made = OnnxClassifier(folder, "cpu")
    assert (len(made.labels), made.out_of_scope) == (151, OUT_OF_SCOPE)
    text = (folder / "CARD.md").read_text()
    assert "CC BY 3.0" in text and "python -m infra.training.intents" in text


async def test_what_ships_answers_with_the_embedder_that_is_served() -> None:
    """A plain question of the data's kind is known, and something else is not."""
    settings = Settings()
    embedder = OnnxEmbedder(models.pull(settings, settings.embedder, print), settings.embedder_precision)
    tier = small_model_tier(settings, embedder)
    questions = [replace(asked(text), model="intents") for text in ("how much money is in my checking account", "who wrote moby dick")]
    known, unknown = await tier.answer(questions)
    tier.close()
    assert isinstance(known, SmallAnswer) and known.text == "balance"
    assert isinstance(unknown, Guess)


def test_another_embedder_than_the_classifiers_is_refused(embedder: HashEmbedder) -> None:
    """Its vectors would mean something else."""
    with pytest.raises(OtherEmbedder):
        small_model_tier(Settings(embedder="another"), embedder)
