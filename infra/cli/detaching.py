"""`up --detach`: a supervisor in a session of its own, watched until it says that it is ready."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from infra.local.process import log_tail
from infra.local.state import StackAlreadyRunning, running_supervisor
from infra.settings import Settings
from streams.errors import RetryableError

_TURN_S = 0.1
_READY = b"ready"


class SupervisorEnded(RetryableError):
    """The stack behind did not come up, and everything of it has been stopped: the end of supervisor.log says why."""


def start_behind(settings: Settings) -> None:
    """Start the supervisor, show its output until it is ready, and leave it. Ctrl-C ends it again.

    Raises StackAlreadyRunning or SupervisorEnded.
    """
    running = running_supervisor(settings.home.absolute())
    if running is not None:  # told here already, so that the running stack's supervisor.log is not overwritten
        message = f"a stack is already running in {settings.home} (supervisor {running})"
        raise StackAlreadyRunning("stack_already_running", message, "use it, or end it with: ./headrace down")
    log = settings.home.absolute() / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    told, telling = os.pipe()
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", "up", "--ready-fd", str(telling)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(telling,),
            start_new_session=True,  # so that closing the terminal, or Ctrl-C in it later, doesn't reach the stack
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    os.close(telling)
    try:
        ready = _show_until_told(log, told)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    finally:
        os.close(told)
    if not ready:
        code = supervisor.wait()
        message = f"the stack did not come up (exit code {code}). The end of {log}:\n{log_tail(log)}"
        raise SupervisorEnded("supervisor_ended", message, "mend what it names, then run: ./headrace up --detach")
    sys.stdout.write(f"it runs behind as process {supervisor.pid}; its output: {log}; end it with: ./headrace down\n")


def tell_ready(telling: int) -> None:
    """Called by the supervisor."""
    os.write(telling, _READY)
    os.close(telling)


def _show_until_told(log: Path, told: int) -> bool:
    """Copy the log to standard output until the pipe says ready, or is closed by the supervisor's end."""
    with log.open("rb") as output:
        while True:
            readable, _, _ = select.select([told], [], [], _TURN_S)
            answer = os.read(told, len(_READY)) if readable else b""
            if not readable or answer:  # of a supervisor that ended, the exception tells the log's end
                sys.stdout.buffer.write(output.read())
                sys.stdout.buffer.flush()
            if readable:
                return answer == _READY
