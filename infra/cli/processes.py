"""What the local stack's processes are doing: alive, ready, memory. From stack.json, the kernel, and each agent's probes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import psutil

from infra.local.process import same_process
from infra.settings import Settings

_PROBE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """One component or agent now. `rss_mb`: its resident memory. `since`: Unix seconds of its start, 0 where it has gone."""

    name: str
    kind: str
    address: str
    pid: int
    alive: bool
    ready: bool
    rss_mb: float
    since: float
    restarts: int | None


def process_states(settings: Settings) -> list[ProcessState]:
    """All of the running stack; [] where none runs. Servers elsewhere are not in it."""
    stack = settings.stack
    entries = [(kind, name, entry) for kind in ("components", "agents") for name, entry in stack.get(kind, {}).items()]
    with ThreadPoolExecutor(max(1, len(entries))) as pool:  # an agent that hangs takes its whole time-out
        return list(pool.map(lambda e: _state(*e), entries))


def supervisor_alive(settings: Settings) -> bool:
    """Whether the process that keeps the stack up is there."""
    record = settings.stack.get("supervisor", {})
    return bool(record) and _is_alive(record)


def total_mb(states: Sequence[ProcessState]) -> float:
    """Memory of all together."""
    return sum(state.rss_mb for state in states)


def _state(kind: str, name: str, entry: dict[str, Any]) -> ProcessState:
    address = str(entry.get("bootstrap") or entry.get("url") or entry.get("port") or "")
    alive = _is_alive(entry)
    ready = alive and (http_ready(address) if kind == "agents" else _listens(address))
    process = _process(entry) if alive else None
    return ProcessState(
        name=name, kind=kind.removesuffix("s"), address=address, pid=int(entry.get("pid", 0)), alive=alive, ready=ready,
        rss_mb=round(process.memory_info().rss / 1e6, 1) if process else 0.0, since=process.create_time() if process else 0.0,
        restarts=entry.get("restarts"),
    )  # fmt: skip


def _is_alive(record: dict[str, Any]) -> bool:
    pid, created = int(record.get("pid", 0)), float(record.get("created", 0))
    return same_process(pid, created) if created else psutil.pid_exists(pid)


def _process(record: dict[str, Any]) -> psutil.Process | None:
    try:
        return psutil.Process(int(record["pid"]))
    except psutil.Error:
        return None


def http_ready(url: str) -> bool:
    """Whether an agent answers /ready with 200."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=_PROBE_S)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _listens(address: str) -> bool:
    import socket

    place = urlsplit(address).netloc if "//" in address else address
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _PROBE_S).close()
    except (OSError, ValueError):
        return False
    return True
