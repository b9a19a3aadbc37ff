"""Figures of `bench.py` about grids: many draws and ν in one pass against one pass each, and whose time a pass is."""

from __future__ import annotations

import cProfile
import pstats
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from bench_tasks import ANSWER, QUESTION, TASKS, Bench, Row, operations, row, seconds

import nnblip
from nnblip import causal_trace, demo
from nnblip.passes import engine
from nnblip.passes.measure import Asked, Ready, measure
from nnblip.passes.room import fit
from nnblip.passes.sending import send
from nnblip.passes.settings import Settings
from nnblip.sites import edges, knock_outs, regions

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


def connections(b: Bench, rounds: int = 3) -> list[Row]:
    """A knock-out map and edges of the model at hand, against a plain forward pass: what comes after the clean run.

    Whole knock-out maps and all edges of sublayers cannot be had for three plain passes: of the real size a row of the
    question encoder takes 1.6 GFLOP on the average, one of the answer decoder 0.16 (a third of it the head's words), a
    plain pass 130; so 648 and 7,986 rows are 8.2 and 10.2 plain passes of arithmetic alone (`operations` counted it).
    What can be had for less is the coarse map: the same edges with whole layers as senders.
    """
    extent = b.model.extent(len(b.encoded.tokens), len(b.answer_ids))
    side = 3 if extent.side % 3 == 0 else 2
    sources = {f"region {k}": tokens for k, tokens in enumerate(regions(extent, (side - 1, side) if side == 3 else 2))}
    cuts = knock_outs("image_to_question", sources, "each")(extent)
    into = edges("crossattention_out", senders=("attention_out", "crossattention_out", "mlp_out"))(extent)
    coarse = edges("crossattention_out", senders="block")(extent)
    every = edges(("attention_head", "crossattention_head", "mlp_out"))(extent)
    rng = np.random.default_rng(0)
    best = [every[place] for place in rng.permutation(len(every))[:1000]]
    noisy, _ = engine.run_alone(b.model, b.forward)

    def run(cells: Sequence[Any], donor: Any, forward: engine.Forward) -> None:
        for plan in fit(b.model, Settings.of(draws=1), extent, cells)[0]:
            engine.run_plan(b.model, forward, b.rival, donor, plan)

    def checked(cells: Sequence[Any]) -> float:
        return seconds(lambda: run(cells, send(b.model, dict(enumerate(cells)), noisy, b.clean), b.forward))

    clean = replace(b.forward, image=b.model.image_embeds(b.encoded))
    rows = []
    for name, time, most in (
        (f"knock-out map, {len(cuts)} cells", lambda: seconds(lambda: run(cuts, b.clean, clean)), 3),
        (f"all {len(into)} edges into the decoder's cross-attention", lambda: checked(into), 3),
        (f"{len(coarse)} edges from whole layers into it", lambda: checked(coarse), 3),
        (f"{len(best)} edges checked exactly", lambda: checked(best), 20),
    ):
        time()
        rows.append(row(f"{name} / plain", [time() / TASKS["plain"](b) for _ in range(rounds)], "x", "at most", most))
    return rows


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
