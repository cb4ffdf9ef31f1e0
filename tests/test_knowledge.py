"""Knowledge on the real stack: it is listed and shown, taken back for good, and moved; and the projection never brings back what was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.projecting import KnowledgeProjection
from schemas.codec import Codec
from schemas.headers import RecordHeaders
from schemas.knowledge import AnswerLearned, AnswerRetracted
from schemas.record import Record
from streams.ports import LogRecord
from streams.routing import text_digest
from streams.topics import KNOWLEDGE, retraction_key
from tests.running_stack import RunningStack, eventually
from tests.test_schemas import MemoryRegistry


@pytest.mark.stack
def test_a_retracted_answer_is_served_by_nobody_and_not_learned_again(stack: RunningStack) -> None:
    """Retracted, it is gone within two seconds; the model gives the same text again, which is answered and stays unknown."""
    prompt = "Which answer will be taken back?"
    first = _ask(stack, prompt)
    eventually(lambda: _ask(stack, prompt)["tier"] == "exact", 10, "the answer is known")
    entry = _ask(stack, prompt)["entry_id"]
    shown = stack.cli("knowledge", "show", str(entry)[:16], "--json")
    assert json.loads(shown.stdout)["text"] == first["text"], shown.stderr

    told = stack.cli("knowledge", "retract", str(entry)[:16], "--reason", "a test says so", "--by", "tester", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["gone_after_ms"] < 2000

    for _ in range(3):  # generated anew each time: the same text is not learned again
        again = _ask(stack, prompt)
        assert (again["tier"], again["text"]) == ("deep-learning", first["text"])
    listed = json.loads(stack.cli("knowledge", "list", "--retracted", "--json").stdout)
    assert [(e["retracted_by"], e["reason"]) for e in listed if e["entry_id"] == entry] == [("tester", "a test says so")]
    assert not [e for e in json.loads(stack.cli("knowledge", "list", "-n", "500", "--json").stdout) if e["entry_id"] == entry]


@pytest.mark.stack
def test_what_is_exported_is_imported_but_for_what_was_retracted(stack: RunningStack, tmp_path: Path) -> None:
    """A lost entry comes back from the file; a retracted one does not; a file of another installation is refused."""
    kept, gone = "Which answer is exported?", "Which answer is exported and then taken back?"
    for prompt in (kept, gone):
        eventually(lambda p=prompt: _ask(stack, p)["tier"] == "exact", 10, "the answer is known")  # type: ignore[misc]
    exported = stack.cli("knowledge", "export").stdout
    file = tmp_path / "known.jsonl"
    file.write_text(exported)
    stack.cli("knowledge", "retract", str(_ask(stack, gone)["entry_id"]), "--reason", "a test says so")
    stack.cli("knowledge", "retract", str(_ask(stack, kept)["entry_id"]), "--reason", "another text came with the file")
    lines = exported.splitlines()
    changed = [json.dumps({**json.loads(x), "text": "corrected by hand"}) if json.dumps(kept) in x else x for x in lines]
    file.write_text("\n".join(changed) + "\n")
    imported = stack.cli("knowledge", "import", str(file))
    assert imported.returncode == 0 and "1 stay retracted" in imported.stdout, imported.stdout + imported.stderr
    eventually(lambda: _ask(stack, kept)["text"] == "corrected by hand", 10, "the imported answer is served")
    assert _ask(stack, gone)["tier"] == "deep-learning"

    file.write_text("\n".join(['{"headrace": "knowledge", "secret": "0000"}', *lines[1:]]))
    refused = stack.cli("knowledge", "import", str(file))
    assert refused.returncode == 1 and "another digest secret" in refused.stderr


def _ask(stack: RunningStack, prompt: str) -> dict[str, object]:
    return dict(json.loads(stack.cli("ask", "--json", "--max-tokens", "4", prompt).stdout))


class MemoryLog:
    """The topic of knowledge in memory: every follower begins at the beginning, and ends the test when it is read."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self.records = list(records)

    async def follow(self, _topics: object, _partitions: object = None, _since: object = "end") -> MemoryLog:
        self.left = list(self.records)
        return self

    async def read(self, *_arguments: object) -> list[LogRecord]:
        return self.records

    async def next(self, _wait_ms: int) -> list[LogRecord]:
        if not self.left:
            raise _ReadToTheEnd
        return [self.left.pop(0)]  # one at a time: the retraction comes in a batch of its own

    def caught_up(self) -> bool:
        return not self.left

    async def close(self) -> None: ...


class _ReadToTheEnd(Exception):
    """The projection has seen everything."""


class SeenAnswers:
    """Every row that was ever projected."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, bytes | None]] = []

    async def apply(self, _partition: int, answers: Sequence[tuple[int, str, bytes | None]]) -> int:
        before = self.rows[-1][0] if self.rows else -1
        self.rows += answers
        return before

    async def positions(self) -> dict[int, int]:
        return {0: self.rows[-1][0]} if self.rows else {}


async def test_a_retracted_answer_is_never_seen_while_all_is_projected_anew() -> None:
    """After a flush the topic is read from its beginning, where the answer still stands before its retraction."""
    codec = Codec(MemoryRegistry())
    learned = AnswerLearned(
        entry_id="e", tenant="t", model="m", text="wrong", finish_reason="stop", prompt_tokens=1, completion_tokens=1,
        learned_from="r", cause="c", learned_at=1,
    )  # fmt: skip
    retracted = AnswerRetracted(entry_id="e", tenant="t", text_digest=text_digest("wrong"), reason="r", retracted_by="p", retracted_at=2)
    later = AnswerLearned(**{**{f: getattr(learned, f) for f in learned.__struct_fields__}, "text": "right"})
    records = [_record(codec, offset, event) for offset, event in enumerate((learned, retracted, later))]
    seen = SeenAnswers()
    with pytest.raises(_ReadToTheEnd):
        await KnowledgeProjection(MemoryLog(records), seen, codec).run_forever()
    assert [(offset, value is None) for offset, _, value in seen.rows] == [(0, True), (1, True), (2, False)]


async def test_no_retracted_text_comes_back_whatever_followed() -> None:
    """Two texts of an entry were retracted; compaction has left the second's learning, and the first is published behind all that."""
    codec = Codec(MemoryRegistry())
    def learned(text: str) -> AnswerLearned:
        return AnswerLearned(
            entry_id="e", tenant="t", model="m", text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1,
            learned_from="r", cause="c", learned_at=1,
        )  # fmt: skip

    def retracted(text: str) -> AnswerRetracted:
        return AnswerRetracted(entry_id="e", tenant="t", text_digest=text_digest(text), reason="r", retracted_by="p", retracted_at=2)

    kept = _record(codec, 0, retracted("first"))
    marker = replace(kept, key=retraction_key("e", text_digest("first")).encode())
    events = (retracted("second"), learned("second"), learned("first"), learned("third"))
    records = [marker, *(_record(codec, offset, event) for offset, event in enumerate(events, start=1))]
    seen = SeenAnswers()
    projection = KnowledgeProjection(MemoryLog(records), seen, codec)
    with pytest.raises(_ReadToTheEnd):
        await projection.run_forever()
    assert [offset for offset, _, value in seen.rows if value is not None] == [4], "the third text alone"
    assert [projection.is_retracted("e", text) for text in ("first", "second", "third")] == [True, True, False]


def _record(codec: Codec, offset: int, event: Record) -> LogRecord:
    headers = RecordHeaders(event=type(event).__name__).raw()
    value = codec.encode(KNOWLEDGE, event)
    return LogRecord(topic=KNOWLEDGE, partition=0, offset=offset, timestamp_ms=0, key=b"e", value=value, headers=tuple(headers))
