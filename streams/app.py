"""The Faust app of a service, set up around Faust's known traps, and batches of what is queued now.

Traps (issue numbers of faust-streaming): concurrency stays 1 (#606); an exception in an agent's body acknowledges and skips the
event (#315), so an unexpected one ends the process; agents are named; offsets are acknowledged by us, in order, after the broker has
acknowledged what was derived from them (streams.acknowledging).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import faust
import mode
from faust.auth import SASLCredentials

from streams.ending import end_process
from streams.kafka_access import KafkaAccess


def create_app(service: str, instance: str, access: KafkaAccess, session_timeout_s: float) -> faust.App:
    """A Faust app for one service. `service` is the consumer group, `instance` this process's fixed name in it."""
    return faust.App(
        service,
        broker=f"kafka://{access.bootstrap}",
        broker_credentials=SASLCredentials(
            username=access.username, password=access.password, mechanism="SCRAM-SHA-256", ssl_context=access.ssl_context()
        ),
        # A static member: after kill -9 its successor of the same name takes the partitions at once, without a rebalance.
        consumer_group_instance_id=instance,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 3,
        # How long a rebalance waits for members: one killed in the middle of its own join would hold its successor up for Faust's 60 s.
        broker_rebalance_timeout=session_timeout_s,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",  # a group that is new must not skip what was asked before its first start
        stream_wait_empty=False,
        topic_disable_leader=True,  # leader election has no user here, and its topic would need rights
        topic_allow_declare=False,  # topics come from the catalogue alone
        web_enabled=False,  # probes and metrics are served by infra.probes
        store="memory://",
        datadir=tempfile.gettempdir(),  # nothing is stored; Faust would make a folder in the working directory
        loghandlers=[logging.NullHandler()],  # logging is configured once, by infra.service
        logging_config=None,
    )


class Loops(mode.Service):  # type: ignore[misc]  # mode ships no types
    """For a service without agents, where a Faust app can't start: plain loops under Faust's own kind of service.

    A loop that raises stops the whole, as a crashed agent does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loops: list[Callable[[], Awaitable[None]]] = []

    def task(self, loop: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Add a loop, with the spelling of `faust.App.task`."""
        self._loops.append(loop)
        return loop

    async def on_started(self) -> None:
        for loop in self._loops:
            self.add_future(loop())


def bytes_topic(app: faust.App, name: str) -> Any:
    """A topic whose records reach the agent as bytes: decoding is ours, since garbage must not stop the stream."""
    return app.topic(name, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw", allow_empty=True)


async def handle_batches(stream: Any, most: int, handle: Callable[[list[Any]], Awaitable[None]]) -> None:
    """The body of an agent. Faust would acknowledge and skip an event whose handling raised (#315), or start the agent anew."""
    async for batch in batches(stream, most):
        try:
            await handle(batch)
        except Exception as error:
            end_process(error)


async def batches(stream: Any, most: int) -> AsyncIterator[list[Any]]:
    """Batches of the events that are queued now, at most `most`; never waits for a second one.

    `stream.take(n, within)` waits its whole window. The events are not acknowledged: call `event.ack()` on each when
    everything derived from it is durable.
    """
    queue = stream.channel.queue
    async for event in stream.noack().events():
        batch = [event]
        while len(batch) < most and not queue.empty():
            batch.append(queue.get_nowait())
        yield batch
