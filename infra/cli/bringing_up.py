"""What `up` hands to the local stack: the agents to run, and preparing topics and schemas before they start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from infra.access import apply_topics, kafka_users, register_schemas
from infra.cli.testing import ROOT
from infra.local.agent import AgentSpec
from infra.local.progress import Progress
from infra.local.stack import Stack
from infra.settings import Settings
from streams.errors import PoisonError
from streams.topics import DEEP_LEARNING, DISPATCHER, INFERENCE, LEARNING, SWEEPER

_PATIENCE_S = 10.0  # Kafka and the registry answer a moment before they can do everything
_PAUSE_S = 0.3


def make_stack(settings: Settings, progress: Progress) -> Stack:
    """The stack of these settings; its users get their passwords here."""
    users = kafka_users(settings)
    words = settings.ensure_credentials(users)
    return Stack(settings, {user: words[user] for user in users}, agent_specs(settings, gpu_count()), progress)


def agent_specs(settings: Settings, gpus: int) -> list[AgentSpec]:
    """One of each service, and `workers` deep-learning agents; these come first, since their start takes longest."""
    if settings.workers > settings.worker_slots:
        message = f"{settings.workers} workers need a slot each, and there are {settings.worker_slots}"
        raise PoisonError("too_few_slots", message, "raise HEADRACE_WORKER_SLOTS, or lower HEADRACE_WORKERS")
    workers = [_spec(settings, DEEP_LEARNING, index, gpus) for index in range(settings.workers)]
    return [*workers, *(_spec(settings, name, 0, gpus) for name in (INFERENCE, DISPATCHER, LEARNING, SWEEPER))]


def _spec(settings: Settings, service: str, index: int, gpus: int) -> AgentSpec:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    threads = 1
    env = {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "2"}  # glibc's arenas per thread cost 100 MB and more
    if service == DEEP_LEARNING:
        threads = settings.torch_threads or max(1, (os.cpu_count() or 1) // (2 * settings.workers))
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
    env["OMP_WAIT_POLICY"] = "PASSIVE"  # idle threads of torch would spin against the other services
    env["OMP_NUM_THREADS"] = str(threads)  # each agent would otherwise take all cores for itself
    argv = [sys.executable, "-m", "infra.service", service, "--index", str(index)]
    return AgentSpec(name=f"{service}-{index}", argv=argv, env=env)


def gpu_count() -> int:
    """NVIDIA GPUs of this machine. nvidia-smi is asked, since importing torch here would cost the supervisor half a gigabyte."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs: agents then choose by themselves
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def prepare_log(progress: Progress) -> None:
    """Topics, rights and schemas as the catalogue says, side by side. Raises what still fails after some seconds."""
    settings = Settings()  # anew: the servers' addresses are in stack.json only now
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        changed = pool.submit(_patiently, lambda: len(apply_topics(settings)))
        subjects = pool.submit(_patiently, lambda: register_schemas(settings))
        done = f"{subjects.result()} schemas registered, {changed.result()} changes of topics and rights"
    progress.started("topics and schemas", time.monotonic() - began, done)


def _patiently(call: Callable[[], int]) -> int:
    """Try again what a server refuses while it starts. Errors that stay, and poison, are raised."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except PoisonError:
            raise
        except Exception:  # clients of two libraries, each with its own errors; the last one is raised
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
