"""Milvus Lite of the local stack: the vector database, where settings ask for one."""

from __future__ import annotations

import sys

from infra.local.component import DataServer
from infra.local.ports import HOST, listening
from infra.local.process import Child, wait_ready


class Milvus(DataServer):
    """The server of the `milvus-lite` wheel; nothing is downloaded. Its log of writes brings everything back after kill -9."""

    name = "milvus"
    title = "Milvus Lite"
    usual_port = 19530

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
