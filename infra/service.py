"""Runs one service: `python -m infra.service inference --index 0 --port 9101`. This is the composition root of the agents."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import setproctitle
import stamina
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from agents import deep_learning, dispatcher, inference, learning, sweeper
from connectors.kafka.group import GroupReader
from connectors.kafka.log import KafkaLog
from connectors.kafka.publisher import KafkaPublisher
from connectors.redis.answers import RedisAnswers
from connectors.registry import ConfluentRegistry
from infra import models
from infra.access import admission_limits, entry_ids, kafka_access, topic_catalogue
from infra.probes import Probes
from infra.settings import Settings
from infra.trusting import judge, trust
from schemas.codec import Codec
from streams import topics
from streams.app import App, create_app
from streams.failpoints import Failpoints
from streams.ports import SystemClock
from streams.telemetry import Metrics, Tracing

log = logging.getLogger("infra.service")

_STOP_S = 20.0


@dataclass(slots=True)
class Parts:
    """What every service is made of."""

    settings: Settings
    name: str
    index: int
    registry: CollectorRegistry
    metrics: Metrics
    tracing: Tracing
    codec: Codec
    clock: SystemClock
    log: KafkaLog
    publisher: KafkaPublisher
    source: GroupReader
    failpoints: Failpoints
    ready: Callable[[], bool] = lambda: False

    @property
    def instance(self) -> str:
        """This process's fixed name, such as inference-0."""
        return f"{self.name}-{self.index}"


def main() -> None:
    """Parse the command line and run until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=topics.SERVICES)
    parser.add_argument("--index", type=int, default=0, help="ordinal of this process among its service's (default: 0)")
    parser.add_argument("--port", type=int, default=0, help="port of /metrics, /ready and /live (default: none)")
    args = parser.parse_args()
    settings = Settings()
    configure_logging(settings.log_level, f"{args.service}-{args.index}")
    setproctitle.setproctitle(f"headrace {args.service}-{args.index}")
    uvloop.run(run(settings, args.service, args.index, args.port))


def configure_logging(level: str, service: str) -> None:
    """One JSON line a record on stderr, with the service's name; Kafka clients speak only of what is wrong."""
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso"), structlog.processors.format_exc_info]
    def named(_logger: Any, _name: str, line: Any) -> dict[str, Any]:
        return {"service": service, **line}

    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, named, structlog.processors.JSONRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=shared)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("aiokafka", "faust", "mode", "httpx", "httpx2", "httpcore", "stamina"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def run(settings: Settings, name: str, index: int, port: int) -> None:
    """Wire a service, serve its probes, and run it until SIGTERM or SIGINT."""
    parts = assemble(settings, name, index)
    probes = Probes(parts.registry, parts.metrics, lambda: parts.ready())  # noqa: PLW0108  # the builder sets it later
    if port:
        probes.serve(port, settings.probes_host)
    for attempt in stamina.retry_context(on=OSError, attempts=20, timeout=60):
        with attempt:
            await asyncio.to_thread(_prepare_codec, parts)
    app = create_app(name)
    close = _BUILDERS[name](app, parts)
    stop = asyncio.Event()
    broken = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell_broken(reason: str) -> None:  # comes from a client's thread
        log.critical("kafka_client_broken reason=%s", reason)
        loop.call_soon_threadsafe(broken.set)

    parts.publisher.on_broken = parts.source.on_broken = tell_broken
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    turning = asyncio.create_task(probes.keep_turning())
    log.info("starting instance=%s port=%s", parts.instance, port)
    await app.start()
    # What lives as long as the process need not be looked through again: collections would add milliseconds to the slowest answers.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    ends = [asyncio.create_task(end) for end in (stop.wait(), broken.wait(), app.wait_until_stopped())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    failed = not stop.is_set()
    with contextlib.suppress(TimeoutError):  # what is broken may not stop in order; the process ends all the same
        async with asyncio.timeout(_STOP_S):
            await app.stop()
            await close()
            await asyncio.to_thread(parts.publisher.close)
            await parts.source.close()  # after what was acknowledged meanwhile: it commits
    parts.tracing.close()
    turning.cancel()
    if failed:  # the supervisor starts a new one
        reason = "its Kafka client broke for good" if broken.is_set() else repr(app.crash_reason)
        raise SystemExit(f"{parts.instance} stopped by itself: {reason}")


def assemble(settings: Settings, name: str, index: int) -> Parts:
    """The parts that all services share."""
    registry = CollectorRegistry()
    access = kafka_access(settings, name)
    codec = Codec(ConfluentRegistry(settings.registry))
    return Parts(
        settings=settings, name=name, index=index, registry=registry, metrics=Metrics(registry), tracing=Tracing(name), codec=codec,
        clock=SystemClock(), log=KafkaLog(access), publisher=KafkaPublisher(access, codec),
        source=GroupReader(access, name, f"{name}-{index}", settings.session_timeout_s),
        failpoints=_failpoints(settings, f"{name}-{index}"),
    )  # fmt: skip


def _failpoints(settings: Settings, instance: str) -> Failpoints:
    spec = settings.failpoints.read_text() if settings.failpoints is not None and settings.failpoints.exists() else ""
    return Failpoints(spec, settings.home / "failpoints" / instance)


def _prepare_codec(parts: Parts) -> None:
    """Learn the schema ids of everything that this service writes or reads, so that the first record doesn't wait."""
    mine = [t for t in topic_catalogue(parts.settings) if parts.name in (*t.writers, *t.readers)]
    with ThreadPoolExecutor(4) as pool:  # one after the other would be most of a service's start
        for found in [pool.submit(parts.codec.prepare, t.name, event) for t in mine for event in t.events]:
            found.result()


def _inference(app: App, parts: Parts) -> Callable[[], Any]:
    from infra import knowing  # noqa: PLC0415  # onnxruntime is for this service and learning alone
    from infra.small_models import small_model_tier  # noqa: PLC0415  # as above

    settings = parts.settings
    answers = RedisAnswers(settings.redis)
    embedding = knowing.embedder(settings)
    small = small_model_tier(settings, embedding)
    semantic = knowing.semantic(settings, embedding, answers, parts.codec, parts.log)
    ports = inference.InferencePorts(
        source=parts.source, publisher=parts.publisher, log=parts.log, answers=answers, codec=parts.codec, clock=parts.clock,
        entry_ids=entry_ids(settings, small.versions), semantic=semantic.tier if semantic else None,
        knowledge=semantic.knowledge if semantic else None, semantic_max_temperature=settings.known_max_temperature,
        small_models=small, limits=replace(admission_limits(settings), task_models=small.task_models), metrics=parts.metrics,
        tracing=parts.tracing, failpoints=parts.failpoints,
    )  # fmt: skip
    service = inference.register(app, ports)
    parts.ready = lambda: bool(parts.source.partitions()) and service.ready

    async def close() -> None:
        small.close()
        if semantic is not None:
            await semantic.close()
        await answers.close()

    return close


def _dispatcher(app: App, parts: Parts) -> Callable[[], Any]:
    settings = parts.settings
    ports = dispatcher.DispatcherPorts(
        instance=parts.instance, shards=settings.partitions, source=parts.source, publisher=parts.publisher, log=parts.log,
        codec=parts.codec, clock=parts.clock, heartbeat_ms=int(settings.heartbeat_s * 1000),
        max_deadline_ms=int(settings.max_deadline_s * 1000), metrics=parts.metrics, tracing=parts.tracing, failpoints=parts.failpoints,
    )  # fmt: skip
    dispatcher.register(app, ports)
    parts.ready = lambda: bool(parts.source.partitions())
    return _nothing


def _deep_learning(app: App, parts: Parts) -> Callable[[], Any]:
    from connectors.engines.torch_engine import TorchEngine  # noqa: PLC0415  # torch is half a gigabyte that no other service needs

    settings = parts.settings
    folder = models.folder(settings, settings.model)
    engine = TorchEngine(settings.model, folder, settings.device, settings.batch_size, settings.torch_threads)
    ports = deep_learning.DeepLearningPorts(
        worker=parts.instance, slot=parts.index, engine=engine, publisher=parts.publisher, log=parts.log, codec=parts.codec,
        clock=parts.clock, heartbeat_ms=int(settings.heartbeat_s * 1000), token_group_ms=settings.token_group_ms, metrics=parts.metrics,
        tracing=parts.tracing, failpoints=parts.failpoints,
    )  # fmt: skip
    service = deep_learning.register(app, ports)
    parts.ready = lambda: service.ready
    return engine.close


def _learning(app: App, parts: Parts) -> Callable[[], Any]:
    settings = parts.settings
    answers = RedisAnswers(settings.redis)
    ports = learning.LearningPorts(
        source=parts.source, publisher=parts.publisher, log=parts.log, answers=answers, codec=parts.codec, clock=parts.clock,
        judge=judge(settings), trust=trust(settings) if settings.semantic == "on" else None, metrics=parts.metrics, tracing=parts.tracing,
        failpoints=parts.failpoints,
    )  # fmt: skip
    service = learning.register(app, ports)
    if settings.semantic == "on" and settings.index == "milvus":
        from infra import knowing  # noqa: PLC0415  # onnxruntime, as above

        app.task(knowing.shared_index(settings, parts.codec, parts.log).follow_forever)
    parts.ready = lambda: bool(parts.source.partitions()) and service.ready
    return answers.close


def _sweeper(app: App, parts: Parts) -> Callable[[], Any]:
    ports = sweeper.SweeperPorts(
        publisher=parts.publisher, log=parts.log, codec=parts.codec, clock=parts.clock, limits=admission_limits(parts.settings),
        metrics=parts.metrics, tracing=parts.tracing, failpoints=parts.failpoints,
    )  # fmt: skip
    service = sweeper.register(app, ports)
    parts.ready = lambda: service.ready
    return _nothing


async def _nothing() -> None:
    """A service without anything of its own to close."""


_BUILDERS: dict[str, Callable[[App, Parts], Callable[[], Any]]] = {
    topics.INFERENCE: _inference,
    topics.DISPATCHER: _dispatcher,
    topics.DEEP_LEARNING: _deep_learning,
    topics.LEARNING: _learning,
    topics.SWEEPER: _sweeper,
}

if __name__ == "__main__":
    main()
