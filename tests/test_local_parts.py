"""Parts of the local stack that need no running server: the jar cache, ports, restart delays."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from infra.local.artifacts import Artifacts
from infra.local.ports import Ports
from infra.local.progress import Silent
from infra.local.supervision import Backoff

CACHE = Path(__file__).resolve().parent.parent / ".headrace-cache"


@pytest.mark.stack
def test_a_half_written_jar_is_fetched_again(tmp_path: Path) -> None:
    """The rest of the cache is used as it is."""
    whole = Artifacts(CACHE).kafka_classpath(Silent())
    (tmp_path / "jars").mkdir()
    for jar in whole:
        os.link(jar, tmp_path / "jars" / jar.name)
    broken = min(whole, key=lambda jar: jar.stat().st_size)
    copy = tmp_path / "jars" / broken.name
    copy.unlink()
    copy.write_bytes(broken.read_bytes()[:100])
    Artifacts(tmp_path).kafka_classpath(Silent())
    assert copy.read_bytes() == broken.read_bytes()


def test_ports_are_remembered_and_never_given_twice(tmp_path: Path) -> None:
    """A home keeps its ports while they are free."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = Ports(tmp_path)
        first, second = ports.choose("a", taken), ports.choose("b", taken)
    assert len({taken, first, second}) == 3
    assert (Ports(tmp_path).choose("b", taken), Ports(tmp_path).choose("a", taken)) == (second, first)


def test_backoff_doubles_to_its_bound_and_begins_anew_after_health() -> None:
    """0.2 s to 10 s; a process that lived 30 s was healthy."""
    backoff = Backoff()
    assert [backoff.next_delay(0.1) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert [backoff.next_delay(31.0), backoff.next_delay(0.1)] == [0.2, 0.4]
