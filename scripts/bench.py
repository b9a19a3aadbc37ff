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
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nnblip import BlipVQA, Site, causal_trace, engine
from nnblip.noise import corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.plan import INPUT, Plan, Point, Step, make_plans
from nnblip.sites import HEAD_KINDS, KINDS, TEXT_COMPONENTS, heatmap

QUESTION, ANSWER, NU = "what is the color of the character", "red", 5.0
DTYPES = ("float32", "bfloat16")
#: Hidden size, layers, heads, intermediate size, image, patch; text and vision alike.
SIZES = {"real": (768, 12, 12, 3072, 384, 16), "small": (64, 3, 4, 128, 64, 16)}
SAMPLE = 12  # cells that stand for all in "one by one"
SWEEP = 1000  # examples of the large sweep

Row = dict[str, Any]
Series = dict[str, list[float]]


def write_model(folder: str, size: str) -> None:
    """A BLIP with random weights in transformers' format: config, safetensors, processor."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.utils.logging import disable_progress_bar

    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    vision: dict[str, Any] = dict(zip(names, SIZES[size], strict=True)) | {"initializer_range": 0.02}
    hidden, side = vision["hidden_size"], {"height": vision["image_size"], "width": vision["image_size"]}
    text = {name: vision[name] for name in (*names[:4], "initializer_range")} | {"encoder_hidden_size": hidden}
    text |= {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0}
    text |= {"max_position_embeddings": 512, "is_decoder": True}
    disable_progress_bar()
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config=vision, initializer_range=0.02, image_text_hidden_size=hidden)
    BlipForQuestionAnswering(config).save_pretrained(folder)

    words = [f"[unused{i}]" for i in range(30524)]
    words[0], words[100:104], words[30522:] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["[DEC]", "[ENC]"]
    for i, word in enumerate(dict.fromkeys([*QUESTION.split(), ANSWER]), start=2000):
        words[i] = word
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=512)
    BlipProcessor(BlipImageProcessorPil(size=side), tokenizer).save_pretrained(folder)


class Bench:
    """One example, ready to be traced, with the plan of its whole map; `module` has the weights without nnsight."""

    def __init__(self, model: BlipVQA, module: Any = None) -> None:
        side = model.config.vision_config.image_size
        picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        self.model, self.module, self.picture = model, module, picture
        self.encoded, self.answer_ids = model.encode(picture, QUESTION), model.encode_answer(ANSWER)
        embeds, noise = model.image_embeds(self.encoded), get_noise("multiplicative")
        self.clean, logits = engine.run_alone(model, engine.Forward(self.encoded, embeds, self.answer_ids))
        self.rival = rival_of(logits, self.answer_ids)
        self.noisy = corrupt(noise, embeds, unit_noise(noise, tuple(embeds.shape), 0, self.encoded.key, 0), NU)
        self.forward = engine.Forward(self.encoded, self.noisy, self.answer_ids)
        extent = model.extent(len(self.encoded.tokens), len(self.answer_ids))
        cells = [cell for component in TEXT_COMPONENTS for cell in heatmap(extent, component)]
        self.sites = [site for (site,) in cells]
        (self.plan,) = make_plans(cells, extent.layers, least=engine.least_rows(extent))
        text, tokens = model.config.text_config, extent.question_tokens
        rows, wide, mlp = tokens * (1 + extent.layers * tokens), text.hidden_size, text.intermediate_size
        self.shapes = [(rows, wide, wide), (rows, wide, mlp), (rows, mlp, wide)]  # where most work is: (rows, in, out)
        inputs = model.forward_inputs(self.encoded, self.answer_ids)
        self.inputs = {name: value.to(embeds.device) for name, value in inputs.items()}

    def run_map(self) -> Outcome:
        return engine.run_plan(self.model, self.forward, self.rival, self.clean, self.plan)


# --- the same with plain PyTorch hooks, no nnsight -----------------------------------

LAYERS = {"question_encoder": "text_encoder.encoder.layer", "answer_decoder": "text_decoder.bert.encoder.layer"}


def hook_step(b: Bench, point: Point, step: Step) -> Any:
    """Put a forward hook on the module at a point: rows are born, then states are overwritten."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        state = torch.cat([state, state[:1].expand(step.births, -1, -1)]) if step.births else state.clone()
        if step.rows:
            state[step.rows, step.tokens] = b.clean[point.component, point.kind, point.layer][0, step.tokens]
        return (state, *output[1:]) if isinstance(output, tuple) else state

    part = {"block": "", "mlp_out": ".output.dense"}.get(point.kind, "." + point.kind.replace("_out", ".output.dense"))
    return b.module.get_submodule(f"{LAYERS[point.component]}.{point.layer}{part}").register_forward_hook(hook)


def shared_keys(attention: Any, hidden: Tensor, **options: Any) -> Any:
    """In place of a cross-attention's `forward`: the engine's own mathematics, outside a trace."""
    given: list[Any] = []
    parts = {name: getattr(attention, name) for name in ("num_attention_heads", "query", "key", "value")}
    engine._share_keys(SimpleNamespace(inputs=((hidden,), options), skip=given.append, **parts))
    return given[0]


def run_text(b: Bench) -> Outcome:
    states = b.module.text_encoder(input_ids=b.inputs["input_ids"], encoder_hidden_states=b.noisy).last_hidden_state
    answer = {"input_ids": b.inputs["decoder_input_ids"], "encoder_hidden_states": states}
    return outcome_of(b.module.text_decoder(**answer, use_cache=False).logits, b.answer_ids, b.rival)


def run_hooked(b: Bench) -> Outcome:
    """`engine.run_plan` without nnsight: hooks bear and write, another `forward` shares the keys."""
    rows, steps = 1, b.plan.steps
    with ExitStack() as undo:
        for component in TEXT_COMPONENTS:
            layers = b.module.get_submodule(LAYERS[component])
            start = rows + steps.get(Point(component, INPUT, 0), Step()).births
            rows += sum(step.births for point, step in steps.items() if point.component == component)

            def grow(_module: Any, args: Any, start: int = start) -> Any:
                return args[0].expand(start, -1, -1), *args[1:]

            undo.callback(layers[0].register_forward_pre_hook(grow).remove)
            for attention in (layer.crossattention.self for layer in layers):
                attention.forward = partial(shared_keys, attention)
                undo.callback(delattr, attention, "forward")
        for point, step in steps.items():
            if point.kind != INPUT:
                undo.callback(hook_step(b, point, step).remove)
        return run_text(b)


def run_cell(b: Bench, site: Site) -> Outcome:
    """One cell in a run of its own with one forward hook, the image embeddings at hand."""
    with ExitStack() as undo:
        step = Step(rows=[0], tokens=[site.token])
        undo.callback(hook_step(b, Point(site.component, site.kind, site.layer), step).remove)
        return run_text(b)


# --- tasks: each is timed once in every round ----------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    wait: Any = torch.cuda.synchronize if torch.cuda.is_available() else int
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def cell_by_cell(b: Bench) -> float:
    """Scaled up from a sample: one cell from each of SAMPLE equal stretches of their list."""
    stretches = np.array_split(np.arange(len(b.sites)), min(SAMPLE, len(b.sites)))
    sample = [b.sites[random.choice(stretch)] for stretch in stretches]
    return seconds(lambda: [run_cell(b, site) for site in sample]) * len(b.sites) / len(sample)


def matmul(b: Bench, *shapes: tuple[int, int, int]) -> float:
    """Operations per second of activations @ weights.T, the best of the shapes (rows, in, out)."""
    rates = []
    for rows, inner, outer in shapes:
        x, weight = (b.noisy.new_empty(n, inner).normal_() for n in (rows, outer))
        times = [seconds(partial(torch.mm, x, weight.t())) for _ in range(16)][2:]
        rates.append(2 * rows * inner * outer * len(times) / sum(times))
    return max(rates)


TASKS: dict[str, Callable[[Bench], float]] = {
    "plain": lambda b: seconds(lambda: b.module(**b.inputs)),
    "map": lambda b: seconds(lambda: b.run_map()),
    "hooks": lambda b: seconds(lambda: run_hooked(b)),
    "cells": cell_by_cell,
    "clean": lambda b: seconds(lambda: engine.run_alone(b.model, b.forward)),
    "square": lambda b: matmul(b, (2048, 2048, 2048)),
    "shapes": lambda b: matmul(b, *b.shapes),
}


# --- figures: each makes rows of the table -------------------------------------------


def row(name: str, values: Any, unit: str, sense: str = "", target: float | None = None) -> Row:
    """The median of the values, their range, and whether the median is "at most" or "at least" the target."""
    low, value, high = (float(pick(np.asarray(values))) for pick in (np.min, np.median, np.max))
    met = None if target is None else value <= target if sense == "at most" else value >= target
    measured = {"name": name, "value": value, "unit": unit, "low": low, "high": high}
    return measured | {"sense": sense, "target": target, "met": met}


def agreement(b: Bench) -> list[Row]:
    """The three ways of computing the map give the same numbers, or no time means anything."""
    traced, hooks = b.run_map().logit_difference, run_hooked(b).logit_difference
    chosen = range(0, len(b.sites), max(1, len(b.sites) // SAMPLE))
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
    sampled = f", from {SAMPLE} a round" if len(b.sites) > SAMPLE else ""
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

    75 % is not reached on the machine that this was written on (65 to 70 % in float32): 87 % of
    the map's time passes inside matrix products, so that with nothing else to do it would just
    be, and what they lose is at the shapes that the map has (110 rows in the answer decoder run
    at 60 % of the rate of a large square; a plain forward pass reaches 54 %).
    """

    def operations(call: Callable[[], Any]) -> int:
        sdpa: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know
        known = {sdpa: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            call()
        return counter.get_total_flops()

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
    """The full map of every kind against a plain forward pass beside it; a ladder of ν against single maps."""
    rows = []
    for kind in KINDS:
        extent = b.model.extent(len(b.encoded.tokens), len(b.answer_ids))
        cells = [cell for component in TEXT_COMPONENTS for cell in heatmap(extent, component, [kind])]
        plans = make_plans(cells, extent.layers, 256, engine.least_rows(extent))

        def run(plans: list[Plan] = plans) -> None:
            for plan in plans:
                engine.run_plan(b.model, b.forward, b.rival, b.clean, plan)

        pairs = [(seconds(run), TASKS["plain"](b)) for _ in range(2 if kind in HEAD_KINDS else 3)]
        most = 20.0 if kind in HEAD_KINDS else 1.6
        name = f"map of {kind} / plain forward pass ({len(cells)} cells)"
        rows.append(row(name, [one / plain for one, plain in pairs], "x", "at most", most))
    example = [(b.picture, QUESTION, ANSWER)]

    def traced(nu: list[float]) -> float:
        return seconds(lambda: causal_trace(b.model, example, nu=nu, draws=1))

    calls = np.array([(traced([1, 2, 3, 5, 10]), traced([NU])) for _ in range(2)])
    return [*rows, row("causal_trace of five ν / of one", calls[:, 0] / calls[:, 1], "x", "at most", 5.2)]


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
    ]


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
    return {"weights": sum(weight.nbytes for weight in weights), "above": peak - before, "peak": peak}


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


FIGURES: tuple[Callable[[Bench, Series], list[Row]], ...] = (speed, limit, kinds, memory, sweeps)


def show(title: str, rows: list[Row]) -> None:
    table = Table("", "median", "unit", "smallest to largest", "target", "met", title=title, title_justify="left")
    for r in rows:
        spread = f"{r['low']:.4g} to {r['high']:.4g}" if r["low"] < r["high"] else ""
        target, met = ("", "") if r["met"] is None else (f"{r['sense']} {r['target']:g}", "yes" if r["met"] else "NO")
        table.add_row(r["name"], f"{r['value']:.4g}", r["unit"], spread, target, met)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> None:
    global SAMPLE, SWEEP
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="real")
    parser.add_argument("--model", help="a folder or hub id, instead of random weights of --size")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the numbers are written")
    parser.add_argument("--all-cells", action="store_true", help=f"one by one means all cells, not {SAMPLE} a round")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    random.seed(0)
    if args.only_memory:
        print(json.dumps(only_memory(args.model, args.dtype[0], args.device)))
        return
    SAMPLE = 10**9 if args.all_cells else SAMPLE
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
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
