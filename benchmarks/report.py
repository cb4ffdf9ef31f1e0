"""Writes what a benchmark measured: a table on the terminal, JSON, and a plot, with the machine's facts."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, slots=True)
class Target:
    """Something that was promised, with what was measured. `at_most` says which side of `bound` is the good one."""

    what: str
    measured: float
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {self.measured:.2f} (target {sign} {self.bound:g})"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "python": platform.python_version(),
        "system": platform.platform(), "load_before": os.getloadavg()[0], "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One column a key of the first row."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def write_json(name: str, content: Mapping[str, Any]) -> Path:
    """benchmarks/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def plots() -> Any:
    """matplotlib's pyplot, drawing to files; imported where a picture is made, since it takes a second."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_plot(name: str, figure: Any) -> Path:
    """benchmarks/results/NAME.png; the figure is closed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plots().close(figure)
    return path


def plot_latencies(name: str, title: str, series: Mapping[str, Sequence[tuple[float, float, float]]]) -> Path:
    """Latency against rate on logarithmic axes: for each side (rate, p50, p99). benchmarks/results/NAME.png."""
    plt = plots()
    figure, axes = plt.subplots(figsize=(8, 5))
    for (side, points), colour in zip(series.items(), ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"), strict=False):
        rates = [p[0] for p in points]
        axes.plot(rates, [p[1] for p in points], "o-", color=colour, label=f"{side}, p50")
        axes.plot(rates, [p[2] for p in points], "s--", color=colour, label=f"{side}, p99")
    axes.set(xscale="log", yscale="log", xlabel="offered rate, requests/s", ylabel="latency from the intended send time, ms", title=title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    return save_plot(name, figure)


def plot_shares(name: str, sets: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Path:
    """Wrong share of what is served against the share of duplicates served, a panel a set. benchmarks/results/NAME.png."""
    plt = plots()
    figure, panels = plt.subplots(1, len(sets), figsize=(6 * len(sets), 4.5), squeeze=False)
    for axes, (title, curves) in zip(panels[0], sets.items(), strict=True):
        for side, points in curves.items():
            axes.plot([100 * p[0] for p in points], [100 * p[1] for p in points], label=side)
        axes.axhline(2, color="grey", linestyle=":", label="2%")
        axes.set(xlabel="duplicates served, %", ylabel="wrong among served, %", title=title, ylim=(0, 35))
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    return save_plot(name, figure)
