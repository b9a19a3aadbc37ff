#!/usr/bin/env python
"""How fast nnblip is and how much memory it takes, on a BLIP of the real size with random weights.

    python scripts/bench.py                                   # both dtypes; a table, and build/bench.json
    python scripts/bench.py --size small --rounds 3           # does it all run?

Machines are shared and noisy, so nothing is compared across runs: in each round every
task is timed once, a ratio is taken within a round, and the table gives the median over
the rounds with the smallest and the largest. The targets are for the real size. To add a
figure, add what is timed to TASKS or a function that makes rows of the table to FIGURES.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import bench_grid
import numpy as np
import torch
from bench_tasks import (
    ANSWER,
    NU,
    QUESTION,
    SIZES,
    TASKS,
    Bench,
    Row,
    operations,
    row,
    run_cell,
    run_hooked,
    seconds,
    write_model,
)  # fmt: skip
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from nnblip import BlipVQA, NnblipWarning, attention, causal_trace, demo, lens
from nnblip.blip import decoding
from nnblip.passes import engine
from nnblip.passes.plan import Plan, make_plans
from nnblip.passes.room import least_rows
from nnblip.sites import HEAD_KINDS, KINDS, TEXT_COMPONENTS, heatmap, image_regions

DTYPES = ("float32", "bfloat16")
SWEEP = 1000  # examples of the large sweep
FEW_ROWS = 64

Series = dict[str, list[float]]


# --- figures: each makes rows of the table -------------------------------------------


def agreement(b: Bench) -> list[Row]:
    """The three ways of computing the map give the same numbers, or no time means anything."""
    traced, hooks = b.run_map().logit_difference, run_hooked(b).logit_difference
    chosen = range(0, len(b.sites), max(1, len(b.sites) // b.sample))
    alone = torch.cat([run_cell(b, b.sites[i]).logit_difference for i in chosen])
    gap, extent = traced[[b.plan.cells.index(i) for i in chosen]] - alone, float(traced.max() - traced.min())
    close = 0.01 if b.noisy.dtype == torch.float32 else None  # bfloat16 rounds by the shapes of its products
    return [
        row("logit difference, its range over the cells", extent, "logits"),
        row("largest gap, map and bare hooks", float((traced - hooks).abs().max()), "logits", "at most", 1e-5),
        row("largest gap, map and one by one, of that range", float(gap.abs().max()) / extent, "", "at most", close),
    ]


def speed(b: Bench, series: Series) -> list[Row]:
    plain, one_pass, hooks, cells = (np.array(series[name]) for name in ("plain", "map", "hooks", "cells"))
    sampled = f", from {b.sample} a round" if len(b.sites) > b.sample else ""
    most = 1.3 if b.noisy.dtype == torch.float32 else None
    return [
        row("plain forward pass", plain, "s"),
        row(f"map of {len(b.sites)} cells in one pass", one_pass, "s"),
        row("the same plan with bare hooks", hooks, "s"),
        row(f"one by one with hooks{sampled}", cells, "s"),
        row("clean run with all states, once an example", series["clean"], "s"),
        row("map / plain forward pass", one_pass / plain, "x", "at most", most),
        row("one by one / map", cells / one_pass, "x", "at least", 15),
        row("map / the same plan with bare hooks", one_pass / hooks, "x", "at most", 1.1),
    ]


def limit(b: Bench, series: Series) -> list[Row]:
    """The share of the map's time that its matrix products would take alone at the machine's rate.

    82 % on a machine with AVX-512, 65 to 70 % on one with AVX2: there 87 % of the map's time
    passes inside matrix products, and what they lose is at the shapes that the map has (110 rows
    in the answer decoder run at 60 % of the rate of a large square).
    """

    flops, plain = operations(lambda: run_hooked(b)), operations(lambda: b.module(**b.inputs))
    one_pass, square, shapes = (np.array(series[name]) for name in ("map", "square", "shapes"))
    return [
        row("operations of a plain forward pass", plain / 1e9, "GFLOP"),
        row("operations of the map", flops / 1e9, "GFLOP"),
        row("matrix products, 2048 x 2048 x 2048", square / 1e9, "GFLOP/s"),
        row("matrix products, best of the map's shapes", shapes / 1e9, "GFLOP/s"),
        row("map's share of the limit, its shapes", 100 * flops / shapes / one_pass, "%", "at least", 75),
        row("map's share of the limit, square", 100 * flops / square / one_pass, "%"),
        row("map's time inside matrix products", 100 * share_in_products(b), "%"),
    ]


def share_in_products(b: Bench) -> float:
    """How much of the map's time passes in matrix products and fused attention: what is left is the rest's share."""
    with torch.profiler.profile() as profiler:
        b.run_map()
    spent = {event.key: event.self_cpu_time_total + event.self_device_time_total for event in profiler.key_averages()}
    inside = sum(time for name, time in spent.items() if name.endswith(("mm", "mm_")) or "attention" in name)
    return inside / sum(spent.values())


def kinds(b: Bench, _: Series) -> list[Row]:
    """The full map of every kind, and of image regions, against a plain forward pass beside it; a ladder of ν."""
    rows, extent = [], b.model.extent(len(b.encoded.tokens), len(b.answer_ids))
    maps = {kind: [cell for name in TEXT_COMPONENTS for cell in heatmap(extent, name, [kind])] for kind in KINDS}
    grid = 6 if extent.side % 6 == 0 else extent.side
    for kind, cells in (maps | {f"{grid} x {grid} image regions": image_regions(grid)(extent)}).items():
        plans = make_plans(cells, extent.layers, 256, least_rows(extent))

        def run(plans: list[Plan] = plans) -> None:
            for plan in plans:
                engine.run_plan(b.model, b.forward, b.rival, b.clean, plan)

        pairs = [(seconds(run), TASKS["plain"](b)) for _ in range(2 if kind in HEAD_KINDS else 3)]
        most = 20.0 if kind in HEAD_KINDS else 1.6 if kind in KINDS else 6.0
        name = f"map of {kind} / plain forward pass ({len(cells)} cells)"
        rows.append(row(name, [one / plain for one, plain in pairs], "x", "at most", most))
    example = [(b.picture, QUESTION, ANSWER)]

    def traced(nu: list[float]) -> float:
        return seconds(lambda: causal_trace(b.model, example, nu=nu, draws=1))

    calls = np.array([(traced([1, 2, 3, 5, 10]), traced([NU])) for _ in range(2)])
    return [*rows, row("causal_trace of five ν / of one", calls[:, 0] / calls[:, 1], "x", "at most", 5.2)]


def reading(b: Bench, _: Series) -> list[Row]:
    """`nnblip.attention` and `nnblip.lens` as they are called, an answer given, against a plain pass beside them.

    Random weights never end what they say: the model's own answer, which both look for too, has two tokens at most
    here, so that one is decoded after the pass, as the end of an answer of one token is.
    """
    example = [(b.picture, QUESTION, ANSWER)]
    calls: dict[str, Callable[[], Any]] = {
        "attention with Grad-CAM": lambda: attention(b.model, example, progress=False),
        "attention without Grad-CAM": lambda: attention(b.model, example, grad_cam=False, progress=False),
        "lens": lambda: lens(b.model, example, progress=False),
    }
    rows = []
    with mock.patch.object(decoding, "MAX_ANSWER_TOKENS", 2):
        for name, call in calls.items():
            call()  # warms up
            pairs = [(seconds(call), TASKS["plain"](b)) for _ in range(5)]
            rows.append(row(f"{name} / plain forward pass", [one / plain for one, plain in pairs], "x", "at most", 1.2))
    return rows


def memory(b: Bench, _: Series) -> list[Row]:
    """In a fresh process, where nothing else of this script counts."""
    dtype, device = str(b.noisy.dtype).removeprefix("torch."), str(b.noisy.device)
    call = [sys.executable, __file__, "--model", b.model.name, "--dtype", dtype, "--device", device, "--only-memory"]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    known = "allocated" if "cuda" in device else "resident" if sys.platform == "linux" else "growth of the peak"
    return [
        row("weights", found["weights"] / 1e9, "GB"),
        row(f"peak above the loaded model ({known})", found["above"] / 1e9, "GB", "at most", 1),
        row("peak in all, libraries included", found["peak"] / 1e9, "GB"),
        row(
            f"peak above the loaded model, a map of heads, {FEW_ROWS} rows a pass",
            found["heads"] / 1e9,
            "GB",
            "at most",
            1,
        ),
        row("peak above the loaded model, 10 draws, the bound chosen", found["grid"] / 1e9, "GB", "at most", 1.074),
        row("growth from the 50th to the 200th trace, bundled model", found["growth"] / 1e6, "MB", "at most", 10),
    ]


def grids(b: Bench, _: Series) -> list[Row]:
    """Many draws and ν in one pass; of the bundled model, whose dtype is float32, too."""
    shared = [*bench_grid.real(b), *bench_grid.connections(b)]
    return [*shared, *(bench_grid.bundled() if b.noisy.dtype == torch.float32 else [])]


def sweeps(b: Bench, _: Series) -> list[Row]:
    """On the bundled model, whose dtype is float32, in a fresh process (`bench_sweep.py`)."""
    if b.noisy.dtype != torch.float32:
        return []
    call = [sys.executable, str(Path(__file__).with_name("bench_sweep.py")), "--json", "--n", str(SWEEP)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def only_memory(repo: str, dtype: str, device: str) -> dict[str, int]:
    """Bytes at the peak of encoding, vision model, clean run and map, above those of the loaded model."""
    model = BlipVQA(repo, dtype=dtype, device_map=device)
    weights = list(model._module.parameters())
    sum(float(weight.sum()) for weight in weights)  # pages of a mapped file count once they are read
    before = peak_memory(device, reset=True)
    Bench(model).run_map()
    peak = peak_memory(device)
    found = {"weights": sum(weight.nbytes for weight in weights), "above": peak - before, "peak": peak}
    example = [(np.zeros((64, 64, 3), np.uint8), QUESTION, ANSWER)]
    before = peak_memory(device, reset=True)
    causal_trace(model, example, draws=1, kinds=["attention_head"], max_rows=FEW_ROWS)
    found["heads"] = peak_memory(device) - before
    before = peak_memory(device, reset=True)
    causal_trace(model, example, draws=10)
    found["grid"] = peak_memory(device) - before
    bundled = BlipVQA(device_map=device)
    for number in range(200):
        causal_trace(bundled, demo.examples()[:1], draws=1, progress=False)
        if number == 49:
            before = peak_memory(device, reset=True)
    found["growth"] = peak_memory(device, reset=True) - before
    return found


def peak_memory(device: str, reset: bool = False) -> int:
    """The peak so far, in bytes; after a reset, which only Linux and CUDA know, it starts from what is in use."""
    if "cuda" in device:
        torch.cuda.reset_peak_memory_stats() if reset else None
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        if reset:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def precision(plain: dict[str, Series]) -> list[Row]:
    """bfloat16 against float32: their times, and the numbers of the bundled model.

    All cells of the bundled scenes at ν = 5, means of four draws. Rounding the weights alone to
    bfloat16 gives 0.994 on probabilities: the rest of the gap to 1 is not the engine's to close.
    """
    ratios = {task: np.array(plain["float32"][task]) / plain["bfloat16"][task] for task in ("plain", "map")}
    rows = [row(f"{task}, float32 / bfloat16", ratio, "x", "at least", 2) for task, ratio in ratios.items()]
    single, half = BlipVQA(), BlipVQA(dtype="bfloat16")
    asked = [(e.image, e.question, single.answer(e.image, e.question).text) for e in demo.examples()]
    trees = [causal_trace(model, asked, nu=NU, draws=4) for model in (single, half)]
    for name in ("probability", "log_probability"):
        maps = [[tree[c].to_dataset()[name].mean("draw").values.ravel() for c in TEXT_COMPONENTS] for tree in trees]
        one, other = (np.concatenate(parts) for parts in maps)
        found = spearmanr(one, other, nan_policy="omit").statistic
        rows.append(row(f"rank correlation of the two, {name}, bundled model", found, "", "at least", 0.99))
    return rows


FIGURES: tuple[Callable[[Bench, Series], list[Row]], ...] = (speed, limit, kinds, grids, reading, memory, sweeps)


def show(title: str, rows: list[Row]) -> None:
    table = Table("", "median", "unit", "smallest to largest", "target", "met", title=title, title_justify="left")
    for r in rows:
        spread = f"{r['low']:.4g} to {r['high']:.4g}" if r["low"] < r["high"] else ""
        target, met = ("", "") if r["met"] is None else (f"{r['sense']} {r['target']:g}", "yes" if r["met"] else "NO")
        table.add_row(r["name"], f"{r['value']:.4g}", r["unit"], spread, target, met)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    global SWEEP
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="real")
    parser.add_argument("--model", help="a folder or hub id, instead of random weights of --size")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the numbers are written")
    parser.add_argument(
        "--all-cells", action="store_true", help=f"one by one means all cells, not {Bench.sample} a round"
    )
    parser.add_argument(
        "--remote",
        action="store_true",
        help="instead: what a request costs, of the bundled model unless --model is given (needs nnblip[serve])",
    )
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore", NnblipWarning)  # random weights never end their answer
    random.seed(0)
    if args.remote:
        import bench_remote

        bench_remote.main(args.model, args.rounds)
        return
    if args.only_memory:
        print(json.dumps(only_memory(args.model, args.dtype[0], args.device)))
        return
    Bench.sample = 10**9 if args.all_cells else Bench.sample
    SWEEP = 1000 if args.size == "real" else 50
    settings = vars(args) | {"json": str(args.json), "torch": torch.__version__, "threads": torch.get_num_threads()}
    written: dict[str, Any] = {"settings": settings | {"machine": platform.machine()}, "dtypes": {}}
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            write_model(folder, args.size)
        for dtype in args.dtype:
            model, again = (BlipVQA(args.model or folder, dtype=dtype, device_map=args.device) for _ in range(2))
            b, series = Bench(model, again._module), Series()
            rows = agreement(b)
            if wrong := [r["name"] for r in rows if r["met"] is False]:
                sys.exit(f"{dtype}: nothing is timed, for {' and '.join(wrong)} is too large")
            for task in TASKS.values():  # warms up
                task(b)
            for turn in range(args.rounds):
                for name in reversed(TASKS) if turn % 2 else TASKS:
                    series.setdefault(name, []).append(TASKS[name](b))
            rows += [line for figure in FIGURES for line in figure(b, series)]
            count = sum(p.numel() for p in model._module.parameters()) / 1e6
            what = f"{args.model or args.size + ' size, random weights'}, {count:.0f} M parameters, {dtype}"
            show(f"{what}, {args.rounds} rounds, {settings['threads']} threads", rows)
            written["dtypes"][dtype] = {"rows": rows, "series": series}
            _write(args.json, written)
    if len(written["dtypes"]) == 2 and not args.model:
        rows = precision({dtype: found["series"] for dtype, found in written["dtypes"].items()})
        show("bfloat16 and float32", rows)
        _write(args.json, written | {"precision": rows})


def _write(path: Path, written: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
