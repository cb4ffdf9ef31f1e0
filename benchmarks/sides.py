"""The sides of a comparison: processes that answer the same records on the same topics, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.access import ADMIN, kafka_access
from infra.settings import Settings
from streams.topics import REQUESTS

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Side:
    """A name and the Python module that runs it."""

    name: str
    arguments: tuple[str, ...]


HEADRACE = Side("headrace", ("infra.service", "inference"))
RAW_ECHO = Side("raw aiokafka echo", ("benchmarks.peers.raw_echo",))
FAUST_ECHO = Side("stock Faust echo", ("benchmarks.peers.faust_echo",))


class RunningSide:
    """Runs a side for the length of a `with` block. `answers` sends a few records and says whether all came back."""

    def __init__(self, side: Side, settings: Settings, answers: Callable[[], bool], log: Path) -> None:
        self.side = side
        self._settings = settings
        self._answers = answers
        self._broker = psutil.Process(int(settings.stack["components"]["kafka"]["pid"]))
        self._log = log

    def __enter__(self) -> Self:
        _empty_requests(self._settings)  # what another side answered must not wait for this one
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._child = subprocess.Popen([sys.executable, "-m", *self.side.arguments], stdout=log, stderr=log, env=os.environ)
        self._process = psutil.Process(self._child.pid)
        until = time.monotonic() + _START_S
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > until:
                self.__exit__(None, None, None)
                raise RuntimeError(f"{self.side.name} does not answer; see {self._log}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.terminate()
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds that the side and the broker have used so far."""
        own, broker = self._process.cpu_times(), self._broker.cpu_times()
        return own.user + own.system, broker.user + broker.system


def _empty_requests(settings: Settings) -> None:
    """Delete all records of the request topic."""
    client = AdminClient(kafka_access(settings, ADMIN).confluent())
    partitions = range(settings.partitions)
    asked = client.list_offsets({TopicPartition(REQUESTS, p): OffsetSpec.latest() for p in partitions})
    ends = [TopicPartition(tp.topic, tp.partition, found.result().offset) for tp, found in asked.items()]
    for deleted in client.delete_records(ends).values():
        deleted.result()
