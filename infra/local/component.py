"""What every part of the local stack looks like to the supervisor, and the half of it that all parts share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from infra.local.ports import Ports
from infra.local.process import Child
from infra.local.progress import Progress
from infra.settings import Settings


class Component(Protocol):
    """A server or an agent. `prepare` and `ready` may run in any thread, `start` in the main thread only (see Child)."""

    name: str
    """Its key in stack.json."""
    title: str
    """Its name for people."""
    restarts: int
    """How often the supervisor started it again."""

    @property
    def child(self) -> Child | None:
        """The process of the latest start."""

    def prepare(self, progress: Progress) -> None:
        """Downloads, configuration, storage. May be done again; quick and offline when nothing is missing."""

    def start(self) -> None:
        """Spawn the process."""

    def ready(self) -> None:
        """Block until it answers. Raises ComponentFailed with the end of its log."""

    def hung(self) -> str:
        """Why the process should be killed although it runs, or ""."""

    def stop(self) -> None:
        """End it gracefully, by force after a limit. Nothing happens when it doesn't run."""

    def address(self) -> dict[str, Any]:
        """What clients need to know."""

    def record(self) -> dict[str, Any]:
        """Its entry in stack.json: address, pid, created, port, log."""


class ProcessComponent:
    """Base of all components: keeps the child."""

    name = ""
    title = ""
    restarts = 0
    stop_limit_s = 10.0
    """SIGKILL follows SIGTERM after this long. `down` waits 30 s in all: agents first, then servers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home: Path = settings.home.absolute()
        self.port = 0
        self.child: Child | None = None

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.home / "logs" / f"{self.name}.log"

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.home / "data" / self.name

    def hung(self) -> str:
        """A server counts as well while its process runs."""
        return ""

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `stop_limit_s`."""
        if self.child is not None and self.child.alive():
            self.child.stop(self.stop_limit_s)

    def address(self) -> dict[str, Any]:
        """Nothing but the port."""
        return {}

    def record(self) -> dict[str, Any]:
        """Address, port and process."""
        return {**self.address(), "port": self.port, "restarts": self.restarts, **(self.child.record() if self.child else {})}


class DataServer(ProcessComponent):
    """Base of servers that come whole in a wheel and need a port and a data folder, and nothing else."""

    usual_port = 0

    def __init__(self, settings: Settings, ports: Ports) -> None:
        super().__init__(settings)
        self._ports = ports

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002 - the port's signature
        """Choose the port and make the data folder."""
        self.port = self._ports.choose(self.name, self.usual_port)
        self.data.mkdir(parents=True, exist_ok=True)
