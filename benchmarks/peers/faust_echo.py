"""A stock Faust agent that answers at once: an agent as Faust's documentation shows it, with our records and codec."""

from __future__ import annotations

from typing import Any

import faust
import uvloop
from faust.auth import SASLCredentials

from benchmarks.peers.answering import Answering
from infra.access import kafka_access
from infra.settings import Settings
from streams.topics import INFERENCE, REQUESTS


async def main() -> None:
    settings = Settings()
    access = kafka_access(settings, INFERENCE)
    answering = Answering(settings)
    app = faust.App(
        "inference.faust-echo", broker=f"kafka://{access.bootstrap}", store="memory://", web_enabled=False, topic_disable_leader=True,
        topic_allow_declare=False, consumer_auto_offset_reset="latest", producer_acks=-1, producer_linger=0, broker_commit_interval=1.0,
        broker_credentials=SASLCredentials(username=access.username, password=access.password, mechanism="SCRAM-SHA-256"),
    )  # fmt: skip
    requests = app.topic(REQUESTS, value_type=bytes, value_serializer="raw")
    responses = app.topic(answering.topic, value_serializer="raw")

    @app.agent(requests, name="echo")
    async def echo(stream: Any) -> None:
        async for event in stream.events():
            value, headers, partition = answering.answer(event.value, event.message.headers)
            await responses.send(key=event.key, value=value, partition=partition, headers=headers)

    await app.start()
    await app.wait_until_stopped()


if __name__ == "__main__":
    uvloop.run(main())
