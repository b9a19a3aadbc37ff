"""Figures of `bench.py` about grids: many draws and ν in one pass against one pass each, and whose time a pass is."""

from __future__ import annotations

import cProfile
import pstats
from collections import Counter
from typing import Any

import numpy as np
from bench_tasks import ANSWER, QUESTION, TASKS, Bench, Row, operations, row, seconds

import nnblip
from nnblip import causal_trace, demo
from nnblip.passes.measure import Asked, Ready, measure
from nnblip.passes.room import fit
from nnblip.passes.settings import Settings

LADDER = (1.0, 2.0, 3.0, 5.0)
ROUNDS = 5


def bundled(rounds: int = ROUNDS) -> list[Row]:
    """The bundled model: grids against single passes, and what nnsight costs."""
    model, example = nnblip.BlipVQA(), demo.examples()[0]
    single = _rows_of_one_base(model, example)

    def traced(**asked: Any) -> float:
        return seconds(lambda: causal_trace(model, [example], progress=False, **asked))

    def ratios(**asked: Any) -> list[float]:
        traced(**asked)
        return [traced(max_rows=single, **asked) / traced(**asked) for _ in range(rounds)]

    what = "bundled model, single passes / grid"
    return [
        row(f"{what}, 10 draws at 4 ν", ratios(draws=10, nu=LADDER), "x", "at least", 2),
        row(f"{what}, 10 draws", ratios(draws=10), "x", "at least", 1.7),
        row(f"{what}, one draw", ratios(draws=1), "x", "at least", 0.95),
        *_parts(model, example),
    ]


def real(b: Bench, rounds: int = 3) -> list[Row]:
    """The model at hand: maps of 10 draws, against plain passes and the rate of matrix products."""
    example = nnblip.Example(b.picture, QUESTION, ANSWER)
    settings = Settings.of(draws=10)
    asked = Asked.of(b.model, example, settings)
    ready = Ready.of(b.model, asked, settings)
    plans, width = fit(b.model, settings, ready.extent, ready.cells)
    series: dict[str, list[float]] = {}

    def run() -> object:
        return measure(b.model, settings, asked)

    once = operations(lambda: measure(b.model, Settings.of(draws=1, max_rows=2 * plans[0].rows), asked))
    before = operations(lambda: Ready.of(b.model, asked, settings))
    flops = operations(run) - before
    for _ in range(rounds):
        for name, time in (
            ("ready", seconds(lambda: Ready.of(b.model, asked, settings))), ("all", seconds(run)),
            ("plain", TASKS["plain"](b)), ("square", TASKS["square"](b)), ("shapes", TASKS["shapes"](b)),
        ):  # fmt: skip
            series.setdefault(name, []).append(time)
    found = {name: np.array(values) for name, values in series.items()}
    maps, single = found["all"] - found["ready"], b.noisy.element_size() == 4
    best = np.maximum(found["square"], found["shapes"])
    return [
        row(f"10 draws: bases in a pass (of {plans[0].rows} rows)", width, ""),
        row("10 draws: operations of a map in the grid", flops / 10 / 1e9, "GFLOP"),
        row("one draw: operations of the map", (once - before) / 1e9, "GFLOP"),
        row("10 draws: a map / plain forward pass", maps / 10 / found["plain"], "x", "at most", 1.1),
        row("10 draws: share of the matrix rate", 100 * flops / maps / best, "%", "at least", 75 if single else 45),
    ]


def _rows_of_one_base(model: nnblip.BlipVQA, example: nnblip.Example) -> int:
    settings = Settings.of(draws=1)
    ready = Ready.of(model, Asked.of(model, example, settings), settings)
    ((plan,), _) = fit(model, settings, ready.extent, ready.cells)
    return plan.rows


def _parts(model: nnblip.BlipVQA, example: nnblip.Example, runs: int = 20) -> list[Row]:
    """Shares of the time of a map of one draw, by whose functions it passes in (built-in ones: who called them)."""
    settings = Settings.of(draws=1)
    asked = Asked.of(model, example, settings)
    profile = cProfile.Profile()
    measure(model, settings, asked)
    profile.enable()
    for _ in range(runs):
        measure(model, settings, asked)
    profile.disable()
    spent: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file != "~":
            spent[_whose(file)] += own
        else:
            for (caller, _, _), (_, _, part, _) in callers.items():
                spent[_whose(caller)] += part
    total = sum(spent.values())
    return [
        row(f"one draw, bundled model: {name}", 100 * spent[name] / total, "% of the time") for name in
        ("torch and transformers", "nnsight", "nnblip")
    ]  # fmt: skip


def _whose(file: str) -> str:
    return "nnsight" if "/nnsight/" in file else "nnblip" if "/nnblip/" in file else "torch and transformers"
