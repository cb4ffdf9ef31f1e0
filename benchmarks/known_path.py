"""The known path: known answers through the inference service, beside a raw aiokafka echo and a stock Faust echo, in one run.

Open loop, latency from the intended send time, confluent-kafka as the client. All sides alike: one process, the same partitions,
records, codec and broker, acks=all, idempotent, no linger, offsets committed after the acknowledgement. The inference service does
in addition what it is there for: admission, and a look-up of the answer in Redis.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench_stack import servers
from benchmarks.open_loop import Load, OpenLoop, Outcome
from benchmarks.questions import as_request, as_small, intents, make_known, questions, reworded
from benchmarks.report import Target, machine, plot_latencies, print_table, write_json
from benchmarks.sides import FAUST_ECHO, HEADRACE, RAW_ECHO, RunningSide, Side
from connectors.registry import ConfluentRegistry
from infra.access import kafka_access
from infra.settings import Settings
from schemas.codec import Codec
from schemas.ids import uuid7
from streams.routing import routing_key
from streams.topics import CLIENT, REQUESTS, RESPONSES

_REPLY_PARTITION = 0
_STEP = 1.15  # between the rates of the search for the highest sustained one
_RETREAT = 0.93


class KnownPath:
    """One run: its servers, its questions, and what was measured so far."""

    def __init__(self, settings: Settings, asked: Sequence[str], texts: Sequence[str]) -> None:
        self._settings = settings
        self._asked = {
            "exact": [partial(as_request, q, settings) for q in asked],
            "semantic": [partial(as_request, reworded(q), settings) for q in asked],
            "small-model": [partial(as_small, t, settings) for t in texts],
        }
        self.tier = "exact"
        self._codec = Codec(ConfluentRegistry(settings.registry))
        self._loop = OpenLoop(kafka_access(settings, CLIENT), RESPONSES, _REPLY_PARTITION)
        self.rows: list[dict[str, Any]] = []
        asyncio.run(make_known(asked, settings, self._codec))

    def load(self, count: int) -> Load:
        """`count` requests, each with an id of its own, the questions in turn."""
        now, tenant = time.time_ns() // 1_000_000, self._settings.tenants[0]
        ids = [uuid7() for _ in range(count)]
        asked = self._asked[self.tier]
        made = [asked[n % len(asked)](request_id, now) for n, request_id in enumerate(ids)]
        headers = [("event", b"InferenceRequested"), ("tenant", tenant.encode()), ("reply-to", f"{RESPONSES}/{_REPLY_PARTITION}".encode())]
        values = [self._codec.encode(REQUESTS, request) for request in made]
        return Load(REQUESTS, [routing_key(request) for request in made], values, [i.encode() for i in ids], headers)

    def side(self, side: Side) -> RunningSide:
        """A side, known to run when it answers."""
        log = self._settings.home / "logs" / f"{side.name.replace(' ', '-')}.log"
        return RunningSide(side, self._settings, lambda: self._loop.run(self.load(5), 50, drain_s=2.0).answered == 5, log)

    def cell(self, running: RunningSide, rate: float, seconds: float, kind: str) -> Outcome:
        """Measure one rate, and keep the row."""
        load = self.load(int(rate * seconds))
        before = running.cpu_s()
        outcome = self._loop.run(load, rate)
        used = [(after - start) / len(load.ids) * 1e6 for start, after in zip(before, running.cpu_s(), strict=True)]
        self.rows.append({"side": self._name(running), "kind": kind, **outcome.as_dict(), "cpu_us": used[0], "broker_cpu_us": used[1]})
        typer.echo(
            f"  {self._name(running):22} {kind:9} {rate:7.0f}/s  p50 {outcome.p50:8.2f}  p95 {outcome.p95:8.2f}  p99 {outcome.p99:8.2f}  "
            f"max {outcome.max:8.1f} ms  {'sustained' if outcome.sustained else 'not sustained'}"
        )
        return outcome

    def _name(self, running: RunningSide) -> str:
        return running.side.name if self.tier == "exact" else f"{running.side.name}, {self.tier}"

    def highest_sustained(self, running: RunningSide, start: float, probe_s: float, hold_s: float) -> float:
        """Climb in short probes until one fails, then hold the highest that can be held for `hold_s`; its rate."""
        rate = start
        while self.cell(running, rate * _STEP, probe_s, "probe").sustained:
            rate *= _STEP
        while not self.cell(running, rate, hold_s, "hold").sustained and rate > start / 4:
            rate *= _RETREAT
        return rate

    def median(self, side: str, rate: float, field: str) -> float:
        """Median over the rounds of a fixed rate."""
        cells = [r for r in self.rows if r["side"] == side and r["kind"] == "fixed" and r["rate"] == rate]
        return statistics.median(float(cell[field]) for cell in cells)


def main(
    *,
    rates: Annotated[str, typer.Option(help="Fixed rates, requests/s.")] = "50,300,1000,3000",
    seconds: Annotated[float, typer.Option(help="Length of a cell at a fixed rate.")] = 15,
    rounds: Annotated[int, typer.Option(help="How often each side takes its turn at the fixed rates; medians are compared.")] = 3,
    hold: Annotated[float, typer.Option(help="How long the highest rate must be held.")] = 60,
    quick: Annotated[bool, typer.Option("--quick", help="Short cells, one round, the highest rate held for 10 s.")] = False,
    output: Annotated[str, typer.Option(help="Name of the results in benchmarks/results.")] = "known_path",
) -> None:
    """Measure known answers beside the two echoes. Example: ./headrace bench known_path --quick"""
    if quick:
        seconds, rounds, hold = 5, 1, 10
    fixed = [float(rate) for rate in rates.split(",")]
    sides = (RAW_ECHO, FAUST_ECHO, HEADRACE)
    facts = machine()
    with servers() as settings:
        (asked, origin), (texts, texts_origin) = questions(settings, 500), intents(settings, 500)
        typer.echo(f"questions: {origin}; texts: {texts_origin}")
        run = KnownPath(settings, asked, texts)
        sustained: dict[str, list[float]] = {side.name: [] for side in sides}
        for turn in range(rounds):
            for side in sides if turn % 2 == 0 else reversed(sides):  # so that no side always follows the same one
                with run.side(side) as running:
                    run.cell(running, 300, 3, "warm-up")
                    for rate in fixed:
                        run.cell(running, rate, seconds, "fixed")
                    if turn == rounds - 1:
                        sustained[side.name].append(run.highest_sustained(running, 2500, max(5.0, hold / 6), hold))
        for tier in ("semantic", "small-model"):  # no other side has them; what they cost shows beside the exact answers
            run.tier = "exact"
            with run.side(HEADRACE) as running:
                run.tier = tier
                run.cell(running, 50, 3, "warm-up")
                for rate in (rate for rate in fixed if rate <= 300):
                    run.cell(running, rate, seconds, "fixed")
                sustained[f"{HEADRACE.name}, {tier}"] = [run.highest_sustained(running, 40, max(5.0, hold / 6), hold)]
    highest = {name: rates_[-1] for name, rates_ in sustained.items()}
    _report(run, fixed, highest, {**facts, "questions": origin}, output)


def _report(run: KnownPath, fixed: Sequence[float], highest: dict[str, float], facts: dict[str, Any], output: str) -> None:
    fields = ("p50", "p95", "p99", "max", "cpu_us", "broker_cpu_us")
    measured = dict.fromkeys((r["side"], r["rate"]) for r in run.rows if r["kind"] == "fixed")
    table = [{"side": s, "rate": rate, **{f: run.median(s, rate, f) for f in fields}} for s, rate in sorted(measured, key=lambda m: m[1])]
    print_table("known answers: medians over the rounds, ms (CPU in µs a record)", table)
    print_table("highest sustained rate, requests/s", [{"side": name, "rate": rate} for name, rate in highest.items()])
    at = 300.0 if 300.0 in fixed else fixed[0]
    targets = [
        Target(f"p50 at {at:.0f}/s ÷ raw echo's", run.median(HEADRACE.name, at, "p50") / run.median(RAW_ECHO.name, at, "p50"), 1.5),
        Target(f"p99 at {at:.0f}/s ÷ raw echo's", run.median(HEADRACE.name, at, "p99") / run.median(RAW_ECHO.name, at, "p99"), 2.0),
        Target("highest sustained ÷ raw echo's", highest[HEADRACE.name] / highest[RAW_ECHO.name], 0.6, at_most=False),
        Target("highest sustained ÷ stock Faust echo's", highest[HEADRACE.name] / highest[FAUST_ECHO.name], 1.5, at_most=False),
    ]
    for target in targets:
        typer.echo(str(target))
    told = [{"what": t.what, "measured": t.measured, "bound": t.bound, "met": t.met} for t in targets]
    path = write_json(output, {"machine": facts, "targets": told, "highest": highest, "table": table, "cells": run.rows})
    names = dict.fromkeys(side for side, _ in measured)
    series = {s: [(r, run.median(s, r, "p50"), run.median(s, r, "p99")) for side, r in measured if side == s] for s in names}
    picture = plot_latencies(output, "known answers", series)
    typer.echo(f"written: {path}, {Path(picture)}")


if __name__ == "__main__":
    typer.run(main)
