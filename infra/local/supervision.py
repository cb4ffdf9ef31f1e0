"""Keeps the started components running: restarts what dies, kills what hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.local.agent import Agent
from infra.local.component import Component
from infra.local.progress import Progress

FIRST_DELAY_S, LONGEST_DELAY_S, HEALTHY_S = 0.2, 10.0, 30.0
_LOOK_EVERY_S = 2.0


@dataclass(slots=True)
class Backoff:
    """Delay before each restart: doubles from 0.2 s to 10 s, and begins anew after a process that lived 30 s. Pure: ages come in."""

    delay_s: float = FIRST_DELAY_S

    def next_delay(self, lived_s: float) -> float:
        """Seconds to wait before the restart of a process that lived `lived_s`."""
        now = FIRST_DELAY_S if lived_s >= HEALTHY_S else self.delay_s
        self.delay_s = min(now * 2, LONGEST_DELAY_S)
        return now


class Watchdog:
    """Asks every agent each 2 s whether it lives, in threads: one that hangs must not delay the look at the others."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._agents = agents
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin looking."""
        if self._agents:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()

    def _run(self) -> None:
        with ThreadPoolExecutor(len(self._agents)) as pool:
            while not self._ended.wait(_LOOK_EVERY_S):
                list(pool.map(Agent.look, self._agents))


class Supervision:
    """`tick` is called often from the main thread, the only one that may spawn. `changed` is called after each restart."""

    def __init__(self, components: Sequence[Component], progress: Progress, changed: Callable[[], None]) -> None:
        self._components = components
        self._progress = progress
        self._changed = changed
        self._backoffs = {component.name: Backoff() for component in components}
        self._due: dict[str, float] = {}

    def tick(self) -> None:
        """Look at each component once."""
        for component in self._components:
            self._kill_hung(component)
            self._plan_restart(component)
            self._restart_due(component)

    def _kill_hung(self, component: Component) -> None:
        child = component.child
        if child is None or not child.alive():
            return
        reason = component.hung()
        if reason:
            self._progress.trouble(f"{component.title}: {reason}; killing it")
            child.kill()

    def _plan_restart(self, component: Component) -> None:
        child = component.child
        if child is None or child.alive() or component.name in self._due:
            return
        delay = self._backoffs[component.name].next_delay(child.age_s())
        self._due[component.name] = time.monotonic() + delay
        self._progress.trouble(f"{component.title} {child.ending}; restart in {delay:.1f} s. Its log: {child.log}")

    def _restart_due(self, component: Component) -> None:
        if self._due.get(component.name, float("inf")) <= time.monotonic():
            del self._due[component.name]
            component.restarts += 1
            component.start()
            self._changed()
