"""The main job on the stack that a newcomer gets: a real question through Kafka, known the second time, its story on the log."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.running_stack import RunningStack, eventually

pytestmark = pytest.mark.stack

QUESTION = "What is the capital of France?"


def test_a_question_is_answered_then_known_and_its_story_is_on_the_log(real_stack: RunningStack) -> None:
    """The deep-learning service answers; asked again, the inference service knows; `trace` tells both ways."""
    first = real_stack.cli("ask", QUESTION)
    assert first.returncode == 0, first.stderr
    assert "Paris" in first.stdout
    assert "deep-learning" in first.stdout + first.stderr

    eventually(lambda: _ask(real_stack)["tier"] == "exact", 10, "the answer is known")
    known = _ask(real_stack)
    assert "Paris" in known["text"]
    assert known["completed_at"] - known["requested_at"] < 1000

    events = [entry["event"] for entry in _trace(real_stack, known["learned_from"])]
    assert events[0] == "InferenceRequested"
    way = ["RequestAdmitted", "DeepLearningRequested", "RequestQueued", "RequestDispatched", "GenerationStarted", "TokensGenerated"]
    for expected in (*way, "InferenceCompleted", "GenerationFinished", "AnswerLearned"):
        assert expected in events
    assert [entry["event"] for entry in _trace(real_stack, known["request_id"])] == ["InferenceRequested", "InferenceCompleted"]


def test_another_wording_is_known_and_its_first_answers_are_checked(real_stack: RunningStack) -> None:
    """Typed otherwise, it is served and compared with a fresh answer; put otherwise, it is tried out against one first."""
    eventually(lambda: _ask(real_stack)["tier"] == "exact", 10, "the question is known")
    served = _ask(real_stack, "what is the capital of France")
    assert served["tier"] == "semantic", served["reason"]
    eventually(lambda: "says the same as" in real_stack.cli("trace", str(served["request_id"])).stdout, 20, "it was compared")
    tried = _ask(real_stack, "Tell me the capital of France")
    assert tried["tier"] == "deep-learning"
    assert "tried out" in real_stack.cli("trace", str(tried["request_id"])).stdout


def test_many_prompts_from_standard_input_are_answered_as_they_come(real_stack: RunningStack) -> None:
    """`send -` writes one JSON line for each prompt, and reports a bad line."""
    lines = [json.dumps({"prompt": f"Say the number {n}.", "parameters": {"max_tokens": 3}}) for n in range(6)]
    sent = real_stack.cli("send", "-", input_text="\n".join([*lines, "{not json"]) + "\n", timeout_s=120)
    answers = [json.loads(line) for line in sent.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 6, sent.stderr
    assert "line 7" in sent.stderr


def test_status_and_doctor_find_everything_in_order_and_within_three_gigabytes(real_stack: RunningStack) -> None:
    """The idle stack is healthy, and small."""
    doctor = real_stack.cli("doctor")
    assert doctor.returncode == 0, doctor.stdout
    status = real_stack.cli("status", "--json")
    assert status.returncode == 0, status.stderr
    stack = json.loads((real_stack.home / "stack.json").read_text())
    pids = [r["pid"] for r in (stack["supervisor"], *stack["components"].values(), *stack["agents"].values()) if "pid" in r]
    resident = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    assert resident < 3e9, f"{resident / 1e9:.2f} GB resident"


def test_an_unknown_model_is_refused_with_a_remedy(real_stack: RunningStack) -> None:
    """The refusal names the models there are."""
    refused = real_stack.cli("ask", "--model", "nope", "hello")
    assert refused.returncode == 1
    assert "unknown_model" in refused.stdout + refused.stderr
    assert "smollm2-135m-instruct" in refused.stdout + refused.stderr


def _ask(stack: RunningStack, question: str = QUESTION) -> dict[str, object]:
    return dict(json.loads(stack.cli("ask", "--json", question).stdout))


def _trace(stack: RunningStack, request_id: object) -> list[dict[str, object]]:
    traced = stack.cli("trace", str(request_id), "--json")
    assert traced.returncode == 0, traced.stderr
    return list(json.loads(traced.stdout))
