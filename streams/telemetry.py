"""What a service shows of itself: Prometheus metrics, and one OpenTelemetry span per hop with the context from the headers."""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From half a millisecond, where known answers are, to a minute, where long generations are.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    """All metrics of the services; each service uses those that are its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"headrace_{name}", text, labels, registry=registry)

        self.requests = counter(
            "requests", "Requests by what became of them: exact, semantic, small-model, admitted or a rejection's code.", "outcome"
        )  # fmt: skip
        self.request_seconds = Histogram(
            "headrace_request_seconds", "From the client's request to its final event.", ("tier",), buckets=_SECONDS, registry=registry
        )
        self.semantic_checks = counter("semantic_checks", "Known answers that were compared with fresh ones, by verdict.", "verdict")
        self.batch_size = Histogram(
            "headrace_batch_size", "Events handled together.", ("service",), buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500), registry=registry
        )
        self.dead_letters = counter("dead_letters", "Records set aside.", "service", "code")
        self.store_away = counter("store_away", "Look-ups that missed because the store of known answers did not answer.")
        self.waiting = gauge("waiting_requests", "Requests that the dispatcher holds.", "model")
        self.placed = counter("placements", "Requests placed on workers.", "worker")
        self.shared = counter("shared_answers", "Requests answered by the computation of an identical one.", "model")
        self.moved = counter("moves", "Placements given up, by reason.", "reason")
        self.wait_seconds = Histogram("headrace_wait_seconds", "From admission to placement.", buckets=_SECONDS, registry=registry)
        self.tokens = counter("tokens", "Tokens generated.")
        self.first_token_seconds = Histogram(
            "headrace_first_token_seconds", "From placement to the first token.", buckets=_SECONDS, registry=registry
        )
        self.running = gauge("running_requests", "Requests that the worker holds.")
        self.learned = counter("answers_learned", "Answers that became knowledge.")
        self.swept = counter("swept_requests", "Overdue requests that the sweeper failed.")
        self.loop_age = gauge("loop_age_seconds", "Seconds since the event loop last turned.")


class Tracing:
    """Spans per hop. Off unless OTEL_TRACES_EXPORTER says otherwise (`otlp` or `console`); then the context is passed on as it came.

    The other OTEL_ variables are the SDK's own: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    def __init__(self, service: str, exporter: SpanExporter | None = None) -> None:
        self._tracer: trace.Tracer | None = None
        self._provider: TracerProvider | None = None
        chosen = exporter or _exporter_from_environment()
        if chosen is not None:
            self._provider = TracerProvider(resource=Resource.create({"service.name": f"headrace-{service}"}))
            self._provider.add_span_processor(BatchSpanProcessor(chosen))
            self._tracer = self._provider.get_tracer("headrace")
        self._propagator = TraceContextTextMapPropagator()

    def hop(self, name: str, traceparent: str, start_ms: int, attributes: Mapping[str, str | int | float]) -> str:
        """Record a span that lasted from start_ms until now, and return the trace context for what it caused."""
        if self._tracer is None:
            return traceparent
        parent = self._propagator.extract({"traceparent": traceparent} if traceparent else {})
        span = self._tracer.start_span(name, context=parent, start_time=start_ms * 1_000_000, attributes=dict(attributes))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        span.end()
        return carrier.get("traceparent", traceparent)

    def close(self) -> None:
        """Send what is still held."""
        if self._provider is not None:
            self._provider.shutdown()


def _exporter_from_environment() -> SpanExporter | None:
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "none").strip()
    if kind in ("", "none"):
        return None
    if kind == "console":
        return ConsoleSpanExporter()
    if kind == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # 40 ms that most never need

        return OTLPSpanExporter()
    raise ValueError(f"OTEL_TRACES_EXPORTER={kind} is not known here: use otlp, console or none")
