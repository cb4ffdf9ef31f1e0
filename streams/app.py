"""The Faust app of a service: Faust runs agents, tasks and signals; what its agents read comes in batches from a `GroupSource`.

Faust's own Kafka client stays off. It hands records over one by one, which was most of a service's CPU; it commits past a missing
acknowledgement (streams.acknowledging); and its traps (issue numbers of faust-streaming) are met here: concurrency stays 1 (#606),
agents are named, and an exception in an agent's body, which Faust would take for a processed event (#315), ends the process.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import faust

from streams.ending import end_process
from streams.ports import GroupSource, LogRecord


class _WithoutKafka(faust.App.BootStrategy):  # type: ignore[misc]  # Faust's types say Any
    enable_kafka = False


class App(faust.App):  # type: ignore[misc]  # Faust's types say Any
    """Faust without its Kafka client, its web server, its tables and its leader."""

    BootStrategy = _WithoutKafka


def create_app(service: str) -> App:
    """A Faust app for one service."""
    app = App(
        service,
        web_enabled=False,  # probes and metrics are served by infra.probes
        topic_disable_leader=True,  # leader election has no user here
        store="memory://",
        datadir=tempfile.gettempdir(),  # nothing is stored; Faust would make a folder in the working directory
        loghandlers=[logging.NullHandler()],  # logging is configured once, by infra.service
        logging_config=None,
    )
    app.flow_control.resume()  # channels are suspended until Faust's own consumer has partitions
    return app


def batches_of(app: App, source: GroupSource, topic: str) -> Any:
    """The channel of an agent that reads a topic as a member of the service's group: an item says that there is something to take.

    Pulling instead of pushing: while the agent works, records gather in C, and its next batch is everything that is there.
    """
    channel = app.channel(maxsize=1)

    async def wake() -> None:
        source.join([topic])
        while True:
            await source.wait()
            await channel.put(source)

    app.task(wake)
    return channel


async def handle_batches(app: App, stream: Any, most: int, handle: Callable[[Sequence[LogRecord]], Awaitable[None]]) -> None:
    """The body of an agent: at most `most` records at a time, never waiting for a second one.

    Rebalances are told by Faust's signals, with sets of (topic, partition), before the records that follow them.
    """
    async for source in stream:
        try:
            rebalances, records = source.take(most)
            for rebalance in rebalances:
                signal = app.on_partitions_assigned if rebalance.assigned else app.on_partitions_revoked
                await signal.send({faust.types.TP(*partition) for partition in rebalance.partitions})
            if records:
                await handle(records)
        except Exception as error:
            end_process(error)
