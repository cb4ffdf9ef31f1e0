"""Milvus Lite of the local stack: the vector database, where settings ask for one."""

from __future__ import annotations

import sys

from infra.local.component import ProcessComponent
from infra.local.ports import HOST, Ports, listening
from infra.local.process import Child, wait_ready
from infra.local.progress import Progress
from infra.settings import Settings

_USUAL_PORT = 19530


class Milvus(ProcessComponent):
    """The server of the `milvus-lite` wheel; nothing is downloaded. Its log of writes brings everything back after kill -9."""

    name = "milvus"
    title = "Milvus Lite"

    def __init__(self, settings: Settings, ports: Ports) -> None:
        super().__init__(settings)
        self._ports = ports

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002 - the port's signature
        """Choose the port and make the data folder."""
        self.port = self._ports.choose(self.name, _USUAL_PORT)
        self.data.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Spawn it. Without --host it would listen on all addresses."""
        argv = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(self.data), "--host", HOST, "--port", str(self.port)]
        self.child = Child(argv, self.log, self.home, {})

    def ready(self) -> None:
        """Until it accepts connections, which it does after its data are open."""
        assert self.child is not None
        wait_ready(self.child, self.title, lambda: listening(self.port), limit_s=60.0)

    def address(self) -> dict[str, str]:
        """http:// URL of its gRPC server."""
        return {"url": f"http://{HOST}:{self.port}"}
