"""Which requests may be answered semantically, and what such an answer is found by. Pure."""

from __future__ import annotations

import hashlib

import numpy as np

from schemas.events import InferenceRequested
from schemas.ids import uuid7, uuid7_ms
from schemas.knowledge import Question

_LONGEST = 2000  # characters: longer texts are documents to work on, of which the embedding sees only the beginning


def why_not(request: InferenceRequested, max_temperature: float) -> str:
    """Why only an identical request may answer this one, or "" where one that asks the same may.

    A turn that refers to earlier ones, an answer that is sampled or limited to labels, and a caller that wants no known answer are out.
    """
    if request.task != "generate" or request.parameters.labels:
        return "only free text is answered by questions that ask the same"
    if request.cache == "no-store":
        return "cache is no-store"
    if request.parameters.temperature > max_temperature:
        return f"temperature {request.parameters.temperature} is above {max_temperature}"
    if sum(m.role != "system" for m in request.messages) != 1:
        return "several turns: the last one may refer to the others"
    if len(request.messages[-1].content) > _LONGEST:
        return f"the question is longer than {_LONGEST} characters"
    return ""


def packed(vector: np.ndarray) -> bytes:
    """A vector (d,) as in `Question.vector`: little-endian 16-bit floats, whose rounding moves a cosine by under 0.001."""
    return vector.astype("<f2").tobytes()


def unpacked(question: Question) -> np.ndarray:
    """The vector (d,) as float32, of unit length again."""
    vector = np.frombuffer(question.vector, dtype="<f2").astype(np.float32)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def check_request_id(request_id: str, entry_id: str) -> str:
    """Id of the computation that checks a served answer: a UUIDv7 of the request's own time that comes out the same again."""
    digest = hashlib.blake2b(f"{request_id}/{entry_id}/check".encode(), digest_size=16).digest()
    return uuid7(uuid7_ms(request_id), int.from_bytes(digest, "big") & (1 << 74) - 1)
