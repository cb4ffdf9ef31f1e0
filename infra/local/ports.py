"""Ports of this home: the one it had before, else the usual one, else a free one. All on 127.0.0.1."""

from __future__ import annotations

import json
import socket
import zlib
from pathlib import Path
from threading import Lock

from streams.errors import RetryableError

HOST = "127.0.0.1"

# Below 32768, where Linux takes the ports of outgoing connections: one of those could hold an agent's port while it restarts.
_FIRST, _COUNT = 20_000, 12_000


class NoFreePort(RetryableError):
    """Every port that was tried is taken: end some of the programs that listen on this machine."""


class Ports:
    """Chooses ports and remembers them in `data/ports.json`, because Kafka's clients and people's configurations know them."""

    def __init__(self, home: Path) -> None:
        self._path = home / "data" / "ports.json"
        self._first = zlib.crc32(str(home).encode()) % _COUNT  # two homes begin their search at different places
        self._lock = Lock()
        self._given: dict[str, int] = {}

    def choose(self, name: str, usual: int = 0) -> int:
        """Port for `name`, free now and not given to another name of this stack. Raises NoFreePort."""
        with self._lock:
            remembered = json.loads(self._path.read_text()) if self._path.exists() else {}
            taken = {port for other, port in self._given.items() if other != name}
            reserved = taken | {port for other, port in remembered.items() if other != name}
            # another name's remembered port is the last resort: that name may ask for it later in this start
            wanted = [port for port in (remembered.get(name, 0), usual) if port and port not in taken]
            found = next((port for port in wanted if is_free(port)), 0) or self._search(reserved)
            self._given[name] = found
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(remembered | self._given, indent=1))
            part.replace(self._path)
            return found

    def _search(self, reserved: set[int]) -> int:
        for step in range(_COUNT):
            port = _FIRST + (self._first + step) % _COUNT
            if port not in reserved and is_free(port):
                return port
        raise NoFreePort("no_free_port", f"no free port between {_FIRST} and {_FIRST + _COUNT}", "end programs that listen, see: ss -ltn")


def is_free(port: int) -> bool:
    """Whether a server could listen there now. Address reuse is on, as servers have it: a closed server's last connections don't matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return not listening(port)  # macOS lets a second server bind where the first listens on all addresses


def listening(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((HOST, port), 0.3):
            return True
    except OSError:
        return False
