"""Semantic answers on the real stack, with Milvus: served and checked, shut off when wrong, and misses while Milvus is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.client import RequestClient
from schemas.events import InferenceCompleted, Parameters
from tests.conftest import HOME
from tests.running_stack import RunningStack, answers, eventually, request
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.stack
WAYS = ("which colour has the sky", "Which colour has the sky?", "please, which colour has the sky?", "which color has the sky!")


@pytest.fixture(scope="module")
def with_milvus(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose index is in Milvus, and whose model says something else to each wording."""
    model = tmp_path_factory.mktemp("tiny")
    make_tiny_model(model, seed=7)
    settings = {"HEADRACE_MODEL": str(model), "HEADRACE_INDEX": "milvus"}
    running = RunningStack(HOME / "semantic", cache, settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(with_milvus: RunningStack) -> Iterator[RequestClient]:
    """A client of its own for each test."""
    made = with_milvus.client()
    yield made
    made.close()


def ask(client: RequestClient, prompt: str, max_tokens: int) -> InferenceCompleted:
    """Another `max_tokens` is another scope."""
    asked = request(prompt, max_tokens=max_tokens, deadline_s=50)
    client.submit(asked)
    final = answers(client, 55)[asked.request_id]
    client.forget(asked.request_id)
    assert isinstance(final, InferenceCompleted), final
    return final


def known(client: RequestClient, prompt: str, max_tokens: int) -> str:
    """Ask until it is known; the entry."""
    eventually(lambda: ask(client, prompt, max_tokens).tier == "exact", 20, f"{prompt} is known")
    entry = ask(client, prompt, max_tokens).entry_id
    assert entry is not None
    return entry


def scope_status(stack: RunningStack) -> list[dict[str, Any]]:
    return list(json.loads(stack.cli("knowledge", "scopes", "--json").stdout))


def test_another_wording_is_served_checked_and_shut_off_when_the_answers_differ(with_milvus: RunningStack, client: RequestClient) -> None:
    """Every hit of a new scope is checked; the fresh answers say something else, so the scope is shut off, and a person opens it again."""
    entry = known(client, WAYS[0], 5)
    hit = ask(client, WAYS[1], 5)
    assert (hit.tier, hit.entry_id) == ("semantic", entry) and hit.confidence is not None and hit.similarity is not None
    met = [ask(client, f"{' ' * n}{WAYS[2]}", 5).tier for n in range(2)]  # of two more wordings, since each is learned by its check
    eventually(lambda: any(s["status"] == "shut_off" for s in scope_status(with_milvus)), 30, f"the scope is shut off after {met}")
    off = next(s for s in scope_status(with_milvus) if s["status"] == "shut_off")
    assert off["wrong"] >= 2
    eventually(lambda: ask(client, f"{WAYS[1]}{'?' * 3}", 5).tier != "semantic", 10, "no semantic answer is given")

    story = with_milvus.cli("trace", hit.request_id).stdout
    assert "SemanticHitChecked" in story and "says something else" in story
    opened = with_milvus.cli("knowledge", "reopen", off["scope"][:10], "--reason", "a test says so")
    assert opened.returncode == 0, opened.stderr
    eventually(lambda: {s["scope"]: s["status"] for s in scope_status(with_milvus)}[off["scope"]] == "new", 10, "the scope begins anew")


def test_a_retracted_answer_is_served_to_no_wording(with_milvus: RunningStack, client: RequestClient) -> None:
    """Neither exactly nor semantically, by any of two agents, within two seconds."""
    with with_milvus.another("inference", 1):
        entry = known(client, WAYS[0], 6)
        told = with_milvus.cli("knowledge", "retract", entry, "--reason", "a test says so", "--json")
        assert json.loads(told.stdout)["gone_after_ms"] < 2000
        for prompt in (*WAYS[:3], WAYS[0]):
            assert ask(client, prompt, 6).entry_id != entry or ask(client, prompt, 6).tier == "deep-learning"


def test_milvus_away_makes_misses_and_comes_back_without_a_restart(with_milvus: RunningStack, client: RequestClient) -> None:
    """Frozen, and then killed: requests are answered the long way, and the next wording is a hit again."""
    known(client, WAYS[0], 7)
    inference = with_milvus.record("inference-0")["pid"]
    with with_milvus.frozen("milvus"):
        assert ask(client, WAYS[3], 7).tier == "deep-learning"
        known(client, WAYS[0], 7)  # exact answers need no index
    eventually(lambda: ask(client, f"{WAYS[1]} ", 7).tier in ("semantic", "exact"), 40, "a hit after the freeze")
    with_milvus.kill("milvus")
    assert ask(client, "what is the colour of grass", 7).tier == "deep-learning"
    eventually(lambda: ask(client, WAYS[2], 7).tier in ("semantic", "exact"), 60, "a hit after the kill")
    assert with_milvus.record("inference-0")["pid"] == inference


def test_parameters_keep_labels_out(with_milvus: RunningStack, client: RequestClient) -> None:
    """A request with labels is answered with one of them, never by what was said freely."""
    known(client, WAYS[0], 8)
    asked = request(WAYS[1], parameters=Parameters(max_tokens=8, labels=("blue", "red")), deadline_s=50)
    client.submit(asked)
    final = answers(client, 55)[asked.request_id]
    assert isinstance(final, InferenceCompleted) and final.tier == "deep-learning" and final.text in ("blue", "red")
