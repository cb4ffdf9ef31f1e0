"""The command line without a stack: help, JSON shapes, what errors look like, prompts files, and the fold of a request's story."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import KafkaError, KafkaException
from typer.main import get_command
from typer.testing import CliRunner

from connectors.kafka.client import Told
from infra.cli import failures
from infra.cli.ask import Asked, make_request, result
from infra.cli.checks import Check, ok, run_checks, wrong
from infra.cli.dead_letters import age_ms, hexdump
from infra.cli.feedback import BadFeedback
from infra.cli.logs import log_files
from infra.cli.main import create_app
from infra.cli.prompts import BadLine, Prompt, read_prompts
from infra.cli.sending import Deadlines, Sending, percentile
from infra.cli.testing import ROOT, command, environment
from infra.cli.time_budget import TimeBudget
from infra.cli.trace import as_object
from infra.settings import Settings
from schemas.events import (
    Final,
    InferenceCompleted,
    InferenceFailed,
    InferenceRequested,
    Position,
    RequestAdmitted,
    RequestQueued,
    TokensGenerated,
)
from schemas.ids import uuid7
from schemas.record import Record
from streams.errors import PoisonError, RetryableError
from streams.ports import LogRecord
from streams.story import Found, hops, tell

SOURCE = Position(topic="inference.requests", partition=0, offset=7)
DEFAULTS = Asked(tenant="local")


def commands() -> list[tuple[str, ...]]:
    """Every command and group, as words."""
    found: list[tuple[str, ...]] = [()]
    root: Any = get_command(create_app())
    for name, each in root.commands.items():
        found.append((name,))
        found += [(name, inner) for inner in getattr(each, "commands", {})]
    return found


def completed(**changes: Any) -> InferenceCompleted:
    """A final event of an answered request."""
    fields: dict[str, Any] = {
        "request_id": "r", "tenant": "local", "model": "m", "tier": "deep-learning", "reason": "fewest in flight", "text": "Paris.",
        "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 2, "requested_at": 1000, "admitted_at": 1010,
        "dispatched_at": 1015, "started_at": 1100, "first_token_at": 1115, "completed_at": 1215, "worker": "deep-learning-0",
        "source": SOURCE,
    }  # fmt: skip
    return InferenceCompleted(**{**fields, **changes})


def failed() -> InferenceFailed:
    """A final event of a request without an answer."""
    return InferenceFailed(
        request_id="r", tenant="local", code="overloaded", reason="no room", retryable=True, remedy="wait", stage="dispatcher",
        failed_at=1500, source=SOURCE,
    )  # fmt: skip


def found(event: Record | None, at_ms: int, offset: int = 0) -> Found:
    """An event as it stands on the log."""
    headers = (("event", b"Named"),)
    record = LogRecord(topic="t", partition=0, offset=offset, timestamp_ms=at_ms, key=b"k", value=b"\x00\xff", headers=headers)
    return Found(record, event)


def tokens(first: int, epoch: int = 1) -> TokensGenerated:
    """Two tokens."""
    return TokensGenerated(request_id="r", epoch=epoch, first_index=first, token_ids=(1, 2), text="ab", generated_at=0)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_has_examples(words: tuple[str, ...]) -> None:
    """Every command's and group's help ends with examples that begin as a person types them."""
    shown = CliRunner().invoke(create_app(), [*words, "--help"], prog_name="./headrace")
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert shown.output.count("./headrace") >= 2  # the usage line and an example


def test_help_imports_nothing_heavy() -> None:
    """--help is quick since no client, model or settings library is imported before a command needs it."""
    program = (
        "import sys\nfrom infra.cli.main import create_app\n"
        "create_app()(['ask', '--help'], standalone_mode=False)\n"
        "heavy = {'faust', 'torch', 'aiokafka', 'confluent_kafka', 'pydantic_settings', 'httpx', 'redis', 'psutil'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_is_one_message_with_its_remedy(tmp_path: Path) -> None:
    """Without a stack a command says so on standard error, with exit code 1 and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "status"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"HEADRACE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no local stack is running" in done.stderr
    assert "do: start it with: ./headrace up" in done.stderr
    assert "Traceback" not in done.stderr


def test_explains_what_a_person_can_mend() -> None:
    """Errors of ours, of the operating system and of Kafka's clients have a message and a remedy."""
    assert failures.explain(PoisonError("c", "it is wrong", "mend it")) == failures.Failure("it is wrong", "mend it")
    kafka = failures.explain(KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)))
    assert kafka is not None
    assert "doctor" in kafka.remedy
    missing = failures.explain(FileNotFoundError(2, "No such file", "prompts.jsonl"))
    assert missing is not None
    assert "prompts.jsonl" in missing.message


def test_a_bug_keeps_its_traceback() -> None:
    """What nobody foresaw is not dressed up as a mistake of the person."""
    assert failures.explain(ZeroDivisionError()) is None


def test_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the wrong type is told by the name of its environment variable."""
    monkeypatch.setenv("HEADRACE_WORKERS", "many")
    with pytest.raises(ValueError, match="workers") as caught:
        Settings()
    explained = failures.explain(caught.value)
    assert explained is not None
    assert "HEADRACE_WORKERS" in explained.message


def test_result_shapes() -> None:
    """An answer, a failure and a silence are told by the same three fields."""
    assert result("r", completed(), 12.34)["ok"] is True
    assert result("r", failed(), 5)["code"] == "overloaded"
    silence = result("r", None, 5)
    assert (silence["ok"], silence["code"], silence["request_id"], silence["total_ms"]) == (False, "no_final", "r", 5)


def test_request_puts_the_system_prompt_first() -> None:
    """What the options say ends up in the event."""
    request = make_request(Asked(tenant="t", system="Be brief.", deadline_s=2, max_tokens=5), [("user", "Hi")])
    assert [m.role for m in request.messages] == ["system", "user"]
    assert request.parameters.max_tokens == 5
    assert request.deadline_at == request.requested_at + 2000


def test_prompts_file() -> None:
    """Strings, prompts and messages are read; empty lines are passed over."""
    chat = '{"messages": [{"role": "user", "content": "B"}], "model": "m"}'
    lines = ['"Hi"', "", '{"id": 5, "prompt": "A", "parameters": {"stop": "x"}}', chat]
    read = [p for p in read_prompts(lines, DEFAULTS) if isinstance(p, Prompt)]
    assert [(p.number, p.id, p.turns[-1][1]) for p in read] == [(1, "1", "Hi"), (3, "5", "A"), (4, "4", "B")]
    assert read[1].asked.stop == ("x",)
    assert read[2].asked.model == "m"


def test_tasks_and_labels_of_lines() -> None:
    """A line may name its task and the labels of its answer; what it doesn't say comes from the command."""
    lines = ['{"task": "classify", "prompt": "A"}', '{"prompt": "B", "parameters": {"labels": ["yes", "no"]}}']
    read = [p.asked for p in read_prompts(lines, replace(DEFAULTS, task="embed")) if isinstance(p, Prompt)]
    made = [make_request(asked, [("user", "x")]) for asked in read]
    assert [(r.task, r.parameters.labels) for r in made] == [("classify", ()), ("embed", ("yes", "no"))]


def test_idempotency_keys_of_lines() -> None:
    """Each line has its own, or none."""
    lines = ['{"prompt": "A", "idempotency_key": "order 1"}', '"B"']
    read = [p.asked for p in read_prompts(lines, DEFAULTS) if isinstance(p, Prompt)]
    assert [make_request(asked, [("user", "x")]).idempotency_key for asked in read] == ["order 1", None]


def test_feedback_that_contradicts_itself_is_refused() -> None:
    """Before anything is connected to."""
    for words, code in ((["x", "--right"], "bad_request_id"), ([uuid7(), "--right", "--correction", "b"], "contradiction")):
        ended = CliRunner().invoke(create_app(), ["feedback", *words])
        assert isinstance(ended.exception, BadFeedback) and ended.exception.code == code


@pytest.mark.parametrize(
    "line",
    ["{", "5", "[]", "{}", '{"prompt": 5}', '{"prompt": "a", "messages": []}', '{"messages": []}', '{"messages": [{"role": "user"}]}',
     '{"prompt": "a", "promt": "b"}', '{"prompt": "a", "parameters": {"max_tokens": "5"}}', '{"prompt": "a", "parameters": {"heat": 1}}',
     '{"prompt": "a", "deadline_s": "soon"}', '{"prompt": "a", "model": 5}',
     '{"prompt": "a", "task": 5}', '{"prompt": "a", "parameters": {"labels": "yes"}}'],
)  # fmt: skip
def test_bad_lines_are_named(line: str) -> None:
    """A line that can't be a request is told with its number, and the next one is read."""
    first, second = read_prompts([line, '"good"'], DEFAULTS)
    assert isinstance(first, BadLine)
    assert "line 1" in str(first)
    assert isinstance(second, Prompt)


class EchoClient:
    """Answers each request at the next look, the first one with a failure. Records the most requests that were under way."""

    def __init__(self) -> None:
        self.waiting: list[InferenceRequested] = []
        self.most = 0
        self.answered = 0

    def submit(self, request: InferenceRequested) -> None:
        self.waiting.append(request)
        self.most = max(self.most, len(self.waiting))

    def listen(self, timeout_s: float) -> Iterator[Told]:  # noqa: ARG002 - the port's signature
        for request in list(self.waiting):
            self.waiting.remove(request)
            self.answered += 1
            final: Final = failed() if self.answered == 1 else completed()
            yield Told(request.request_id, final=final)


class DeafClient(EchoClient):
    """Never answers."""

    def listen(self, timeout_s: float) -> Iterator[Told]:  # noqa: ARG002 - the port's signature
        return iter(())


def test_sending_bounds_what_is_under_way() -> None:
    """Never more than asked for; each line's result is written with its number; bad lines are counted apart."""
    client, target = EchoClient(), io.StringIO()
    lines = [json.dumps(f"prompt {i}") for i in range(20)] + ["bad"]
    sending = Sending(client, read_prompts(lines, DEFAULTS), target, Deadlines(60, 600), most=3, between_s=0)
    for _ in sending.steps():
        pass
    written = [json.loads(line) for line in target.getvalue().splitlines()]
    assert sorted(w["line"] for w in written) == list(range(1, 21))
    assert client.most == 3
    assert (sending.summary.sent, sending.summary.failed, sending.summary.skipped) == (20, 1, 1)
    assert sending.summary.tiers == {"deep-learning": 19}


def test_sending_gives_up_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no final event ever comes, the line's result says so instead of waiting for ever."""
    times = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(times)))
    target = io.StringIO()
    sending = Sending(DeafClient(), read_prompts(['"Hi"'], DEFAULTS), target, Deadlines(20, 600), most=1, between_s=0)
    for _ in sending.steps():
        pass
    assert json.loads(target.getvalue())["code"] == "no_final"


def test_percentile_is_nearest_rank() -> None:
    """Of a hundred values the 95th; of one value that one."""
    assert percentile([float(i) for i in range(100, 0, -1)], 95) == 95
    assert percentile([7.0], 50) == 7


def test_hops_of_a_generated_and_of_a_known_answer() -> None:
    """A generated answer has four parts; a known one has one."""
    assert [(h.name, h.ms) for h in hops(completed())] == [
        ("requested→admitted", 10), ("admitted→dispatched", 5), ("dispatched→first token", 100), ("first token→done", 100),
    ]  # fmt: skip
    known = completed(tier="exact", dispatched_at=None, started_at=None, first_token_at=None, completed_at=1020)
    assert [(h.name, h.ms) for h in hops(known)] == [("requested→answered", 20)]


def test_story_orders_groups_and_marks_repeats() -> None:
    """Events of one ms stand in the order of their causes, tokens of an epoch in one line, and later finals are repeats."""
    admitted = RequestAdmitted(
        request_id="r", tenant="local", model="m", reason="new", requested_at=1000, admitted_at=1010, deadline_at=9000,
        reply_to=SOURCE, source=SOURCE,
    )  # fmt: skip
    queued = RequestQueued(request_id="r", model="m", waiting=1, dispatcher="dispatcher-0", dispatcher_epoch=1, queued_at=1010)
    log = [
        found(completed(), 1215, 1), found(failed(), 1500, 2), found(queued, 1010), found(admitted, 1010),
        found(tokens(0), 1100, 3), found(tokens(2), 1150, 4), found(tokens(4, epoch=2), 1200, 5),
    ]  # fmt: skip
    steps = tell(log, 1000)
    assert [(s.event, s.since_start_ms, s.repeat) for s in steps] == [
        ("RequestAdmitted", 10, False), ("RequestQueued", 10, False), ("TokensGenerated", 100, False), ("TokensGenerated", 200, False),
        ("InferenceCompleted", 215, False), ("InferenceFailed", 500, True),
    ]  # fmt: skip
    assert steps[2].what.startswith("4 tokens in 2 records over 50 ms")
    assert len(tell(log, 1000, group_tokens=False)) == 7


def test_trace_object_is_json_whatever_the_bytes() -> None:
    """A record that is no event of ours still has its place, headers and bytes."""
    (step,) = tell([found(None, 1000)], 990)
    told = json.loads(json.dumps(as_object(step)))
    assert (told["event"], told["since_start_ms"], told["fields"]) == ("Named", 10, {"base64": "AP8="})
    assert told["headers"] == {"event": "Named"}


def test_checks_go_on_after_a_broken_one() -> None:
    """A check that raises is wrong with its remedy, and those after it still run."""

    def raises() -> Any:
        raise RetryableError("c", "Kafka is away", "start it")

    results = list(run_checks([Check("a", raises), Check("b", lambda: ok("fine")), Check("c", lambda: wrong("bad", "mend it"))]))
    assert [(r.name, r.ok, r.detail, r.remedy) for r in results] == [
        ("a", False, "Kafka is away", "start it"), ("b", True, "fine", ""), ("c", False, "bad", "mend it"),
    ]  # fmt: skip


def test_tests_have_a_home_of_their_own() -> None:
    """The user's stack and its settings don't reach the tests; an own -m replaces the choice of fault tests."""
    env = environment({"HEADRACE_HOME": "/mine", "HEADRACE_KAFKA_BOOTSTRAP": "prod:9092", "HEADRACE_CACHE": "/c", "HOME": "/h"})
    assert env["HEADRACE_HOME"] == str(ROOT / ".headrace-test")
    assert "HEADRACE_KAFKA_BOOTSTRAP" not in env
    assert (env["HEADRACE_CACHE"], env["HOME"]) == ("/c", "/h")
    assert command(["-x"], faults=True)[-3:] == ["-m", "faults", "-x"]
    assert command(["-m", "stack"], faults=False)[-2:] == ["-m", "stack"]


def test_time_budget_sums_by_file() -> None:
    """Set-up, call and tear-down count; a test counts once."""

    class Report:
        nodeid = "tests/test_a.py::test_x"
        duration = 1.5
        when: str | None = "setup"

    budget = TimeBudget()
    for when in ("setup", "call", "teardown"):
        report = Report()
        report.when = when
        budget.pytest_runtest_logreport(report)
    suite = budget.suites["tests/test_a.py"]
    assert (suite.tests, suite.seconds) == (1, 4.5)


def test_logs_are_found_in_the_home_and_in_stack_json(tmp_path: Path) -> None:
    """stack.json's path goes before the usual place."""
    (tmp_path / "logs").mkdir()
    elsewhere = tmp_path / "elsewhere.log"
    for path in (tmp_path / "logs" / "kafka.log", tmp_path / "logs" / "old-0.log", elsewhere):
        path.touch()
    (tmp_path / "stack.json").write_text(json.dumps({"components": {"kafka": {"log": str(elsewhere)}}, "agents": {}}))
    assert log_files(Settings(home=tmp_path)) == {"kafka": elsewhere, "old-0": tmp_path / "logs" / "old-0.log"}


def test_ages_and_hexdump() -> None:
    """Ages have a unit; a dump shows offset, bytes and text, and says what it left out."""
    assert (age_ms("90s"), age_ms("2h")) == (90_000, 7_200_000)
    with pytest.raises(typer.BadParameter):
        age_ms("2 weeks")
    assert hexdump(b"\x00plain").endswith(".plain")
    assert hexdump(b"x" * 20, most=16).endswith("… 4 more bytes")
