"""One child process of the local stack: spawned with a log file, ended with its supervisor, stopped within a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from streams.errors import RetryableError

MARKER = "HEADRACE_STACK_HOME"
"""Variable in each child's environment with the home's absolute path: how `down` finds what stack.json no longer names."""

_LAUNCH = Path(__file__).with_name("launch.py")
_LOG_LIMIT_BYTES = 16 << 20  # a log beyond this is set aside at the next start, so that two starts' worth are kept and no more
_POLL_S = 0.03


class ComponentFailed(RetryableError):
    """A server or agent of the local stack ended or never answered: read the end of its log in the message, then `./headrace up` again."""

    def __init__(self, title: str, reason: str, log: Path) -> None:
        message = f"{title} {reason}. The end of {log}:\n{log_tail(log)}"
        super().__init__("component_failed", message, "mend what its log names, then run: ./headrace up")


class Child:
    """A running child. Spawn it only from the supervisor's main thread: the kernel's parent-death signal follows the thread."""

    def __init__(self, argv: Sequence[str], log: Path, home: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        _set_aside(log)
        self.log = log
        self.started = time.monotonic()
        environment = {**os.environ, **env, MARKER: str(home)}
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                # -I -S: the launcher needs the standard library only, and starts twice as fast without site-packages
                [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C in the terminal must reach the supervisor alone, which then ends its children in order
            )
        self.pid = self._popen.pid
        self.created = create_time(self.pid)

    def alive(self) -> bool:
        """Whether it still runs; reaps it when it has ended."""
        return self._popen.poll() is None

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self._popen.poll()
        if code is None:
            return "runs"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def age_s(self) -> float:
        """Seconds since it was spawned."""
        return time.monotonic() - self.started

    def stop(self, limit_s: float) -> None:
        """SIGTERM, and SIGKILL to its whole group when it hasn't ended after `limit_s`."""
        with suppress(ProcessLookupError):
            self._popen.terminate()
        try:
            self._popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to its group, so that its own children end too."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def record(self) -> dict[str, Any]:
        """What stack.json keeps of it."""
        return {"pid": self.pid, "created": self.created, "log": str(self.log)}


def wait_ready(child: Child, title: str, answers: Callable[[], bool], limit_s: float) -> None:
    """Block until `answers()`. Raises ComponentFailed when the process ends first, or after `limit_s`."""
    while not answers():
        if not child.alive():
            raise ComponentFailed(title, child.ending, child.log)
        if child.age_s() > limit_s:
            raise ComponentFailed(title, f"did not answer within {limit_s:.0f} s", child.log)
        time.sleep(_POLL_S)


def log_tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log file."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"


def create_time(pid: int) -> float:
    """When the process began, in Unix seconds; 0 when it has already gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def same_process(pid: int, created: float) -> bool:
    """Whether `pid` still is the recorded process. Its start time is compared since pids are used again."""
    found = create_time(pid)
    # psutil counts from the boot time, which moves a little when the clock is set
    return found > 0 and abs(found - created) < 1.0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))
