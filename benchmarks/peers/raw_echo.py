"""The bar for the known path: a plain aiokafka loop that decodes a request and answers at once, with our records and codec.

Same settings as the inference service: one process, acks=all, idempotent, no linger, offsets committed after the acknowledgement.
"""

from __future__ import annotations

import asyncio
import time

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.peers.answering import Answering
from infra.access import kafka_access
from infra.settings import Settings
from streams.topics import INFERENCE, REQUESTS

_COMMIT_EVERY_S = 1.0


async def main() -> None:
    settings = Settings()
    access = kafka_access(settings, INFERENCE).aiokafka()
    answering = Answering(settings)
    consumer = AIOKafkaConsumer(REQUESTS, **access, group_id="inference.raw-echo", enable_auto_commit=False, auto_offset_reset="latest")
    producer = AIOKafkaProducer(**access, acks="all", enable_idempotence=True, linger_ms=0)
    await consumer.start()
    await producer.start()
    committed = time.monotonic()
    while True:
        batch = await consumer.getmany(timeout_ms=1000, max_records=500)
        sent = []
        for records in batch.values():
            for record in records:
                value, headers, partition = answering.answer(record.value, record.headers)
                sent.append(await producer.send(answering.topic, value, key=record.key, partition=partition, headers=headers))
        await asyncio.gather(*sent)
        if sent and time.monotonic() - committed > _COMMIT_EVERY_S:
            await consumer.commit()
            committed = time.monotonic()


if __name__ == "__main__":
    uvloop.run(main())
