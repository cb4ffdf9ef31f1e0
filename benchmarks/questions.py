"""Questions to measure with: real ones where the data folder is (HEADRACE_DATA), otherwise a small generated set, and it says so."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from connectors.kafka.publisher import KafkaPublisher
from connectors.onnx.classifier import OnnxClassifier
from connectors.redis.answers import RedisAnswers
from infra.access import ADMIN, entry_ids, kafka_access
from infra.knowing import embedder
from infra.settings import Settings
from infra.small_models import SHIPPED
from schemas.codec import Codec
from schemas.events import InferenceRequested, Message, Parameters
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from schemas.knowledge import AnswerLearned, Question, ScopeAssessed
from streams.ports import Outgoing
from streams.semantic.questions import packed
from streams.semantic.trust import trust_key
from streams.topics import KNOWLEDGE, KNOWLEDGE_TRUST

_FILE = Path("questions/nq_open.benchmark.jsonl.gz")
_INTENTS = Path("intents/clinc150.benchmark.csv.gz")
_ANSWER = "This is an answer of usual length: the service has given it before, and gives it again."


def questions(settings: Settings, count: int) -> tuple[list[str], str]:
    """`count` questions, and where they come from."""
    path = settings.data / _FILE
    if not path.exists():
        return [f"What is the name of river number {n}?" for n in range(count)], "generated (HEADRACE_DATA has no data)"
    with gzip.open(path, "rt") as lines:
        found = [str(json.loads(line)["question"]) for line in lines]
    return found[:count], f"nq_open, benchmark part, {min(count, len(found))} questions"


def reworded(question: str) -> str:
    """The same wording typed otherwise: exact answers don't know it, semantic ones do."""
    return f"Please, {question[:1].lower()}{question[1:].rstrip('?')}?!"


def as_small(text: str, settings: Settings, request_id: str, now_ms: int) -> InferenceRequested:
    """A text for the shipped intent classifier."""
    return InferenceRequested(
        request_id=request_id, tenant=settings.tenants[0], model="intents", task="classify",
        messages=(Message(role="user", content=text),), parameters=Parameters(), requested_at=now_ms, deadline_at=now_ms + 600_000,
    )  # fmt: skip


def intents(settings: Settings, count: int) -> tuple[list[str], str]:
    """`count` texts that the shipped classifier knows, and where they come from; generated ones where the data folder is not."""
    path = settings.data / _INTENTS
    if not path.exists():
        return [f"please set a timer for {n} minutes" for n in range(1, count + 1)], f"generated: {path} is not there"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as rows:
        texts = [row["text"] for row in csv.DictReader(rows) if row["known"] == "1"][: 2 * count]
    classifier = OnnxClassifier(SHIPPED / "intents")
    labels = classifier.classify(texts, embedder(settings).embed(texts))
    found = [text for text, label in zip(texts, labels, strict=True) if classifier.knows(label)]
    return found[:count], f"clinc150, benchmark part, {min(count, len(found))} texts"


def as_request(question: str, settings: Settings, request_id: str, now_ms: int) -> InferenceRequested:
    """The question as a request that admission takes as it is, with ten minutes to live."""
    return InferenceRequested(
        request_id=request_id, tenant=settings.tenants[0], model=settings.model, messages=(Message(role="user", content=question),),
        parameters=Parameters(max_tokens=settings.default_max_tokens), requested_at=now_ms, deadline_at=now_ms + 600_000,
    )  # fmt: skip


async def make_known(asked: Sequence[str], settings: Settings, codec: Codec) -> None:
    """Put an answer to each question where the inference service looks: in Redis, as the learning service projects them, and on the log.

    Their scope is trusted: what is measured is answering, and a new scope has the deep-learning service check every answer.
    """
    answers = RedisAnswers(settings.redis)
    entries = entry_ids(settings)
    embedding = embedder(settings)
    vectors = embedding.embed(list(asked))
    learned: list[tuple[int, str, bytes | None]] = []
    records: list[Outgoing] = []
    for offset, (question, vector) in enumerate(zip(asked, vectors, strict=True)):
        request = as_request(question, settings, uuid7(), 0)
        entry_id = entries.entry_id(request)
        event = AnswerLearned(
            entry_id=entry_id, tenant=request.tenant, model=request.model, text=_ANSWER, finish_reason="stop", prompt_tokens=37,
            completion_tokens=20, learned_from=request.request_id, cause="put there by a benchmark", learned_at=0,
            question=Question(scope=entries.scope(request), text=question, embedding_version=embedding.version, vector=packed(vector)),
        )  # fmt: skip
        learned.append((offset, entry_id, codec.encode(KNOWLEDGE, event)))
        records.append(Outgoing(topic=KNOWLEDGE, key=entry_id.encode(), event=event, headers=RecordHeaders(event="AnswerLearned")))
    scope = entries.scope(as_request(asked[0], settings, uuid7(), 0))
    trusted = ScopeAssessed(
        scope=scope, tenant=settings.tenants[0], model=settings.model, status="trusted", checked=500, wrong=0, evidence=0.0,
        wealth=(0.0, 0.0, 0.0), limit=settings.semantic_error_bound, reason="put there by a benchmark", opened_at=0, recent=(),
        assessed_at=1,
    )  # fmt: skip
    records.append(Outgoing(topic=KNOWLEDGE_TRUST, key=trust_key(trusted).encode(), event=trusted, headers=RecordHeaders()))
    await answers.apply(0, learned)
    await answers.close()
    publisher = KafkaPublisher(kafka_access(settings, ADMIN), codec)
    await publisher.publish(records)
    publisher.close()
