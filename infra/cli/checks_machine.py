"""Checks of `doctor` that need no running stack: Python, disk, memory, installation, model, ports, what is left of earlier stacks."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys

import psutil

from infra.cli.checks import Check, Finding, ok, wrong
from infra.cli.testing import ROOT
from infra.local.ports import is_free
from infra.local.state import leftovers, running_supervisor
from infra.settings import Settings

_DISK_MB = 2000  # jars, model and a day of logs
_MEMORY_MB = 1500  # measured for the whole stack with the small model, without what it has already
_STAMP = "headrace-installed.json"  # written by ./headrace after pip was done


def machine_checks(settings: Settings) -> list[Check]:
    """In the order in which a person would mend them."""
    return [
        Check("Python", _python),
        Check("installation", _installation),
        Check("disk", lambda: _disk(settings)),
        Check("memory", lambda: _memory(settings)),
        Check("model", lambda: _model(settings, settings.model)),
        Check("embedding model", lambda: _model(settings, settings.embedder)),
        Check("verifier", lambda: _model(settings, settings.verifier)),
        Check("stack", lambda: _stack(settings)),
        Check("ports", lambda: _ports(settings)),
        Check("leftover processes", lambda: _leftovers(settings)),
    ]


def _python() -> Finding:
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return ok(found)
    return wrong(f"{found}, and 3.11 or 3.12 is needed", "install Python 3.12 and run ./headrace with it")


def _installation() -> Finding:
    """Whether the environment is the lock's."""
    lock, stamp = ROOT / "requirements.lock", ROOT / ".venv" / _STAMP
    if sys.prefix != str(ROOT / ".venv"):
        return ok(f"an environment of your own, {sys.prefix}; its versions are not compared")
    if not stamp.exists():
        return wrong("the installation was interrupted", "run: ./headrace status   (it installs what is missing)")
    if json.loads(stamp.read_text()).get("lock") != hashlib.sha256(lock.read_bytes()).hexdigest():
        return wrong("requirements.lock has changed since the installation", "run any ./headrace command: it installs the difference")
    return ok("as requirements.lock says")


def _disk(settings: Settings) -> Finding:
    folder = next(p for p in (settings.home.absolute(), *settings.home.absolute().parents) if p.exists())
    free_mb = shutil.disk_usage(folder).free // 1_000_000
    detail = f"{free_mb / 1000:.1f} GB free in {folder}"
    if free_mb >= _DISK_MB:
        return ok(detail)
    return wrong(f"{detail}, {_DISK_MB / 1000:.0f} GB are needed", "free some, or set HEADRACE_HOME elsewhere")


def _memory(settings: Settings) -> Finding:
    free_mb = psutil.virtual_memory().available // 1_000_000
    detail = f"{free_mb / 1000:.1f} GB available"
    running = running_supervisor(settings.home.absolute()) is not None
    if running or free_mb >= _MEMORY_MB:
        return ok(detail)
    return wrong(f"{detail}, the stack needs about {_MEMORY_MB / 1000:.1f} GB", "end other programs, or take a smaller HEADRACE_MODEL")


def _model(settings: Settings, name: str) -> Finding:
    from infra import models

    if models.is_pulled(settings, name):
        return ok(f"{name} is here")
    return wrong(f"{name} is not in {settings.cache}", f"./headrace models pull {name}   (`up` does it, too)")


def _stack(settings: Settings) -> Finding:
    from infra.cli.processes import supervisor_alive

    if not settings.stack:
        if settings.kafka_bootstrap:
            return ok("none here; the HEADRACE_ variables name servers elsewhere")
        return wrong(f"none is running in {settings.home}", "./headrace up")
    if supervisor_alive(settings):
        return ok(f"its supervisor is process {settings.stack['supervisor']['pid']}")
    return wrong("stack.json is there, and the supervisor that wrote it is gone", "./headrace down, then ./headrace up")


def _ports(settings: Settings) -> Finding:
    """While the stack runs its ports are its own; else those it had before should be free, since clients know them."""
    path = settings.home / "data" / "ports.json"
    if settings.stack or not path.exists():
        return ok("in use by this stack" if settings.stack else "none chosen yet; `up` takes free ones")
    taken = [f"{name} {port}" for name, port in json.loads(path.read_text()).items() if not is_free(port)]
    if not taken:
        return ok("those of the last time are free")
    return wrong(f"used by other programs: {', '.join(taken)}", "nothing: `up` takes others, which clients then have to know")


def _leftovers(settings: Settings) -> Finding:
    if settings.stack and running_supervisor(settings.home.absolute()) is not None:
        return ok("none: all belong to the running stack")
    left = leftovers(settings.home.absolute()) if not settings.stack else _unsupervised(settings)
    if not left:
        return ok("none")
    return wrong(f"{len(left)} of a stack without supervisor: {', '.join(str(p.pid) for p in left)}", "./headrace down")


def _unsupervised(settings: Settings) -> list[psutil.Process]:
    from infra.cli.processes import supervisor_alive

    return [] if supervisor_alive(settings) else leftovers(settings.home.absolute())
