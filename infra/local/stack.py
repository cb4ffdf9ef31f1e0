"""The local stack: brings servers and agents up, keeps them up, and ends them in reverse order."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

from infra.local.agent import Agent, AgentSpec
from infra.local.component import Component
from infra.local.kafka import Kafka
from infra.local.milvus import Milvus
from infra.local.ports import Ports
from infra.local.process import Child
from infra.local.progress import Progress
from infra.local.registry import Registry
from infra.local.state import SupervisorLock, end_leftovers, remove_state, write_state
from infra.local.supervision import Supervision, Watchdog
from infra.local.valkey import Valkey
from infra.settings import Settings

_TICK_S = 0.1


class StopRequested(Exception):
    """Ctrl-C, SIGTERM or `request_stop` came while the stack was starting. Nothing to do: everything started has been stopped."""


class Stack:
    """One home's stack. Use `up`, then `supervise`, then `stop` in a finally; or `run`, which does these and takes signals.

    `users` are Kafka's SCRAM users with their passwords, `admin` among them. A server whose URL is set is not started.
    """

    def __init__(self, settings: Settings, users: Mapping[str, str], agents: Sequence[AgentSpec], progress: Progress) -> None:
        self.home = settings.home.absolute()
        self._progress = progress
        ports = Ports(self.home)
        self.components: list[Component] = []
        if not settings.kafka_bootstrap:
            self.components.append(Kafka(settings, ports, users))
        if not settings.registry_url:
            self.components.append(Registry(settings, ports))
        if not settings.redis_url:
            self.components.append(Valkey(settings, ports))
        if not settings.milvus_url and (settings.index == "milvus" or settings.with_milvus):
            self.components.append(Milvus(settings, ports))
        self.agents = [Agent(settings, ports, spec) for spec in agents]
        self._lock = SupervisorLock(self.home)
        self._watchdog = Watchdog(self.agents)
        self._asked_to_stop = threading.Event()

    def run(self, hooks: Sequence[Callable[[], None]] = (), on_up: Callable[[], None] = lambda: None) -> None:
        """Bring everything up, call `on_up`, and supervise until SIGINT or SIGTERM. A second signal kills everything at once."""
        former = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.up(hooks)
            on_up()
            self.supervise()
        except StopRequested:
            self._progress.note("stopped while starting")
        finally:
            self.stop()
            for number, handler in former.items():
                signal.signal(number, handler)

    def up(self, hooks: Sequence[Callable[[], None]] = ()) -> None:
        """Start servers at once, then call the hooks (topics, schemas), then start agents in their order; return when all are ready.

        Raises StackAlreadyRunning, DownloadFailed, ComponentFailed, StopRequested, and what the hooks raise. Call `stop` then.
        """
        self._lock.take()
        left = end_leftovers(self.home)
        if left:
            self._progress.note(f"{left} processes of a stack whose supervisor had died are ended")
        write_state(self.home, {}, {})  # `down` can find this supervisor from here on
        self._bring_up(self.components)
        self._write_state()  # hooks and agents read the servers' addresses there
        for hook in hooks:
            self._together([hook])
        self._bring_up(self.agents)
        self._write_state()

    def supervise(self) -> None:
        """Restart what dies or hangs until a stop is requested."""
        supervision = Supervision([*self.components, *self.agents], self._progress, self._write_state)
        self._watchdog.start()
        while not self._asked_to_stop.wait(_TICK_S):
            supervision.tick()

    def request_stop(self) -> None:
        """Make `supervise` return, or `up` raise StopRequested. From any thread."""
        self._asked_to_stop.set()

    def stop(self) -> None:
        """End the agents, then the servers, then whatever else carries this home's mark. Nothing happens when it isn't up."""
        if not self._lock.held:
            return
        self._watchdog.end()
        for group in (self.agents[::-1], self.components[::-1]):
            _join([threading.Thread(target=component.stop) for component in group])
        end_leftovers(self.home)
        remove_state(self.home)
        self._lock.release()

    def _bring_up(self, components: Sequence[Component]) -> None:
        self._together([lambda c=component: c.prepare(self._progress) for component in components])  # type: ignore[misc]  # lambda default
        for component in components:
            self._refuse_when_stopping()
            component.start()  # here, in the main thread: see Child
        self._together([lambda c=component: self._wait(c) for component in components])  # type: ignore[misc]  # as above

    def _wait(self, component: Component) -> None:
        component.ready()
        seconds = component.child.age_s() if component.child else 0.0
        self._progress.started(component.title, seconds, " ".join(map(str, component.address().values())))

    def _together(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run the calls in threads until all are done; raise the first error at once. A stop leaves them behind, so they are daemons."""
        results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for call in calls:
            threading.Thread(target=_report, args=(call, results), daemon=True).start()
        waiting = len(calls)
        while waiting:
            self._refuse_when_stopping()
            with suppress(queue.Empty):
                error = results.get(timeout=_TICK_S)
                waiting -= 1
                if error is not None:
                    raise error

    def _refuse_when_stopping(self) -> None:
        if self._asked_to_stop.is_set():
            raise StopRequested

    def _write_state(self) -> None:
        records = [{c.name: c.record() for c in group if c.child is not None} for group in (self.components, self.agents)]
        write_state(self.home, records[0], records[1])

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._asked_to_stop.is_set():
            self._asked_to_stop.set()
            return
        children: list[Child | None] = [component.child for component in (*self.agents, *self.components)]
        for child in children:
            if child is not None:
                with suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
        remove_state(self.home)
        os._exit(128 + number)


def _report(call: Callable[[], None], results: queue.SimpleQueue[BaseException | None]) -> None:
    try:
        call()
    except BaseException as error:  # raised again in the main thread
        results.put(error)
    else:
        results.put(None)


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
