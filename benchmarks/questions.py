"""Questions to measure with: real ones where the data folder is (HEADRACE_DATA), otherwise a small generated set, and it says so."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from connectors.redis.answers import RedisAnswers
from infra.access import entry_ids
from infra.settings import Settings
from schemas.codec import Codec
from schemas.events import InferenceRequested, Message, Parameters
from schemas.ids import uuid7
from schemas.knowledge import AnswerLearned
from streams.topics import KNOWLEDGE

_FILE = Path("questions/nq_open.benchmark.jsonl.gz")
_ANSWER = "This is an answer of usual length: the service has given it before, and gives it again."


def questions(settings: Settings, count: int) -> tuple[list[str], str]:
    """`count` questions, and where they come from."""
    path = settings.data / _FILE
    if not path.exists():
        return [f"What is the name of river number {n}?" for n in range(count)], "generated (HEADRACE_DATA has no data)"
    with gzip.open(path, "rt") as lines:
        found = [str(json.loads(line)["question"]) for line in lines]
    return found[:count], f"nq_open, benchmark part, {min(count, len(found))} questions"


def as_request(question: str, settings: Settings, request_id: str, now_ms: int) -> InferenceRequested:
    """The question as a request that admission takes as it is, with ten minutes to live."""
    return InferenceRequested(
        request_id=request_id, tenant=settings.tenants[0], model=settings.model, messages=(Message(role="user", content=question),),
        parameters=Parameters(max_tokens=settings.default_max_tokens), requested_at=now_ms, deadline_at=now_ms + 600_000,
    )  # fmt: skip


async def make_known(asked: Sequence[str], settings: Settings, codec: Codec) -> None:
    """Put an answer to each question where the inference service looks, as the learning service projects them."""
    answers = RedisAnswers(settings.redis)
    entries = entry_ids(settings)
    learned: list[tuple[int, str, bytes | None]] = []
    for offset, question in enumerate(asked):
        request = as_request(question, settings, uuid7(), 0)
        entry_id = entries.entry_id(request)
        event = AnswerLearned(
            entry_id=entry_id, tenant=request.tenant, model=request.model, text=_ANSWER, finish_reason="stop", prompt_tokens=37,
            completion_tokens=20, learned_from=request.request_id, cause="put there by a benchmark", learned_at=0,
        )  # fmt: skip
        learned.append((offset, entry_id, codec.encode(KNOWLEDGE, event)))
    await answers.apply(0, learned)
    await answers.close()
