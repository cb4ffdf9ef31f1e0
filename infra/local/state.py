"""What is known of this home's running stack: the lock that its supervisor holds, stack.json, and the processes that are left."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from infra.local.process import MARKER, create_time, same_process
from streams.errors import RetryableError


class StackAlreadyRunning(RetryableError):
    """This home's stack is up: use it, or end it with `./headrace down`. Another stack needs another HEADRACE_HOME."""


class SupervisorLock:
    """Held as long as the supervisor lives; the kernel lets go of it however that ends. Children don't inherit it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raises StackAlreadyRunning."""
        self._home.mkdir(parents=True, exist_ok=True)
        file = _lock_path(self._home).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            message = f"a stack is already running in {self._home} (supervisor {running_supervisor(self._home)})"
            raise StackAlreadyRunning("stack_already_running", message, "end it with: ./headrace down") from error
        file.truncate(0)
        file.write(json.dumps(_own_record()))  # here too, so that a deleted stack.json doesn't hide us from `down`
        file.flush()
        self._file = file

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._file is not None

    def release(self) -> None:
        """Let the next supervisor in."""
        if self._file is not None:
            self._file.truncate(0)  # our process may live on, and `down` must not end it
            self._file.close()
            self._file = None


def read_state(home: Path) -> dict[str, Any]:
    """stack.json, or {} where there is none."""
    try:
        return dict(json.loads((home / "stack.json").read_text()))
    except (OSError, ValueError):
        return {}


def write_state(home: Path, components: dict[str, Any], agents: dict[str, Any]) -> None:
    """Replace stack.json in one step: readers see the old or the new one."""
    part = home / "stack.json.part"
    part.write_text(json.dumps({"supervisor": _own_record(), "components": components, "agents": agents}, indent=1))
    part.replace(home / "stack.json")


def remove_state(home: Path) -> None:
    """No stack runs here any more."""
    (home / "stack.json").unlink(missing_ok=True)


def running_supervisor(home: Path) -> int | None:
    """Pid of this home's supervisor, if it still lives."""
    with suppress(OSError, ValueError):
        record = json.loads(_lock_path(home).read_text())
        if same_process(record["pid"], record["created"]):
            return int(record["pid"])
    return None


def leftovers(home: Path) -> list[psutil.Process]:
    """Every process of this home's stack but the supervisor and ourselves: by stack.json, and by the mark in its environment."""
    state = read_state(home)
    records = [*state.get("components", {}).values(), *state.get("agents", {}).values()]
    found = {r["pid"] for r in records if "pid" in r and same_process(r["pid"], r["created"])}
    found |= {process.pid for process in psutil.process_iter() if _marked(process, home)}
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    processes = []
    for pid in found - ours:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))
    return processes


def end_leftovers(home: Path, limit_s: float = 15.0) -> int:
    """SIGTERM to all of them, SIGKILL to those that remain after `limit_s`. Returns how many there were."""
    processes = leftovers(home)
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)
    return len(processes)


def _lock_path(home: Path) -> Path:
    return home / "supervisor.lock"


def _own_record() -> dict[str, Any]:
    return {"pid": os.getpid(), "created": create_time(os.getpid())}


def _marked(process: psutil.Process, home: Path) -> bool:
    try:
        return process.environ().get(MARKER) == str(home) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # another user's, or just ended
        return False
