"""`down`: ends this home's stack, whatever state it is in."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from infra.local.process import create_time, same_process
from infra.local.state import end_leftovers, read_state, remove_state, running_supervisor
from infra.settings import Settings

_SUPERVISOR_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What `down` found: a supervisor that ran, one that had to be killed, and processes that no supervisor was left to end."""

    supervisor: bool
    killed: bool
    leftovers: int

    @property
    def nothing_ran(self) -> bool:
        """Whether there was nothing to do."""
        return not self.supervisor and not self.leftovers

    def __str__(self) -> str:
        if self.nothing_ran:
            return "no stack was running"
        parts = ["the stack is stopped"] if self.supervisor else ["its supervisor had died"]
        if self.killed:
            parts.append(f"its supervisor did not end within {_SUPERVISOR_LIMIT_S:.0f} s and was killed")
        if self.leftovers:
            parts.append(f"{self.leftovers} leftover process{'' if self.leftovers == 1 else 'es'} ended")
        return "; ".join(parts)


def down(settings: Settings) -> Ended:
    """SIGTERM to the supervisor, which ends its children in order; then end whatever is left. May be called again."""
    home = settings.home.absolute()
    supervisor = running_supervisor(home)
    killed = supervisor is not None and not _end_supervisor(supervisor)
    left = end_leftovers(home)
    if read_state(home):
        remove_state(home)
    return Ended(supervisor is not None, killed, left)


def _end_supervisor(pid: int) -> bool:
    """Whether it ended by itself within the limit."""
    created = create_time(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _SUPERVISOR_LIMIT_S
    while same_process(pid, created):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.05)
    return True
