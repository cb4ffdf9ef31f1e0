"""How every ONNX model is run here: threads, device, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from streams.errors import RetryableError

Precision = Literal["int8", "float"]
_ROWS = 32  # texts of one run: more gain nothing on a core, and keep whoever waits longer


class BrokenModel(RetryableError):
    """A model folder lacks a file or holds an unreadable one. Fetch it again with `./headrace models pull NAME`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__("model_broken", f"{path} can't be used: {why}", "fetch it again: ./headrace models pull NAME")


def open_session(path: Path, threads: int, device: str) -> onnxruntime.InferenceSession:
    """A session on `threads` CPU threads, or on the GPU where `device` is auto, cuda or cuda:N and onnxruntime has the provider.

    Raises `BrokenModel`. A device that says cuda where there is none runs on the CPU: an answer a little later beats none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about its own optimiser
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn what others need
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers(device))
    except Exception as error:  # onnxruntime's own exception types are not public
        raise BrokenModel(path, str(error)) from error


def providers(device: str) -> list[Any]:
    """Execution providers in the order of preference."""
    if device == "cpu" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises `BrokenModel`."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BrokenModel(path, str(error)) from error


def by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions of texts in batches of like lengths, so that little padding is computed. All positions, each once."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]
