#!/usr/bin/env python
"""Do the intervals hold what they say, and how reliable are maps? Measured, as tables.

    python scripts/calibrate.py                       # all parts, half an hour; stopped, the same command goes on
    python scripts/calibrate.py tests reliability     # some of them
    python scripts/calibrate.py --write docs/calibration.md

Parts: `intervals` and `tests` on simulated data whose truth is known (`simulated.py`), `real` on draws of the small
model (160 draws of a scene are the truth), `reliability` of maps for every noise over a ladder of ν, `cost` of an
interval. What is done is kept in build/calibration; `--write` puts the tables between the marks of a page.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from simulated import DRAWS, SHAPES, TOTALS, Counted, as_result, counted, means, ratios, rejected, singles

import nnblip
from nnblip import effects
from nnblip.passes.reliability import split_half

BUILD = Path("build/calibration")
#: Examples x draws.
SIZES = [(5, 3), (8, 3), (8, 10), (12, 10), (20, 3), (20, 10), (50, 3), (50, 10), (200, 3), (200, 10)]
#: How many draws of one example.
FEW = [9, 10, 15, 20, 40, 80]
#: Which test of how many examples.
TESTS = [
    ("paired", (8, 8)), ("paired", (12, 12)), ("paired", (50, 50)), ("groups", (8, 12)), ("groups", (20, 20)),
    ("groups", (12, 60)), ("map", (12, 12)),
]  # fmt: skip
#: How many scenes are traced; of how many draws the reliability is read, and how many are the truth.
SCENES, READ, TRUTH = 20, 40, 160
#: A mean total effect from which on there is something to map.
SEEN = 0.1
REAL: dict[str, tuple[float, ...]] = {"multiplicative": (2, 3, 5), "additive": (3,), "shuffle": (0.5,)}
#: What the reliability is read of: noise, where it falls, its ladder of ν.
LADDERS: dict[tuple[str, str], tuple[float, ...]] = {
    ("multiplicative", "image_embeds"): (0.5, 1, 2, 3, 5, 10),
    ("additive", "image_embeds"): (0.5, 1, 2, 3, 5, 10),
    ("uniform", "image_embeds"): (1, 3, 5),
    ("shuffle", "image_embeds"): (0.25, 0.5, 0.75),
    ("shuffle", "patch_embeds"): (0.5,),
    ("shuffle", "pixels"): (0.5, 1),
    ("mean", "image_embeds"): (0.5, 1),
    ("scale", "image_embeds"): (1, 3, 10),
}
ALIKE = ("mean", "scale")  # whose draws do not differ
Rows = list[list[str]]


class Kept:
    """What was computed once, each in a file of its own by its name."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.quick, self.folder = quick, folder / ("quick" if quick else "full")
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        path = self.folder / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.json"
        if not path.exists():
            found = compute()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found))
            partial.replace(path)
            print(f"{name}: {found}", flush=True)
        return json.loads(path.read_text())


def table(rows: Rows) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def crossed(
    kept: Kept,
    name: str,
    corner: str,
    rows: Mapping[str, Any],
    columns: Mapping[str, Any],
    compute: Callable[[Any, Any], Any],
) -> str:
    """A table of `compute(row, column)`: coverage in percent, or a share."""
    lines: Rows = [[corner, *columns]]
    for row, first in rows.items():
        found = [kept(f"{name} {row} {label}", partial(compute, first, second)) for label, second in columns.items()]
        lines.append([row, *(told(*one) if isinstance(one, list) else f"{100 * one:.1f}" for one in found)])
    return table(lines)


def told(covered: float, none: float, width: float) -> str:
    """Coverage in percent, and where many have no interval, how many."""
    return "none" if none == 1 else f"{100 * covered:.1f}" + (f" ({100 * none:.0f} % none)" if none > 0.005 else "")


def same(names: Any) -> dict[str, str]:
    return {name: name for name in names}


def off(share: float, trials: int) -> str:
    """Two standard errors of a share that was counted, in percent."""
    return f"± {200 * (share * (1 - share) / trials) ** 0.5:.1f}"


# ---- simulated -------------------------------------------------------------------------------


def intervals(kept: Kept, _: Traces) -> Iterator[str]:
    trials = 500 if kept.quick else 4000
    sizes = {
        f"{examples} x {draws}": (examples, draws) for examples, draws in SIZES[1:6] if not kept.quick or draws > 3
    }
    if not kept.quick:
        sizes = {f"{examples} x {draws}": (examples, draws) for examples, draws in SIZES}
    yield (
        f"95 % intervals hold the truth in so many percent of {trials} trials ({off(0.05, trials)}, two standard"
        f" errors; other methods and relevance {trials // 2} trials, {off(0.05, trials // 2)}). Means over examples, of"
        " so many examples x draws:"
    )
    yield crossed(kept, "mean", "", sizes, same(SHAPES), lambda size, shape: means(shape, size, trials))
    yield "The same of 20 examples of 3 draws by other methods (`twice`: examples, and their draws, percentiles):"
    methods = same(("percentile-t", "bca", "student", "twice"))
    yield crossed(
        kept, "method", "method", methods, same(SHAPES), lambda how, shape: means(shape, (20, 3), trials // 2, how)
    )
    yield "Relevance over examples, the mean of their ratios and pooled:"
    kinds = {f"{how}, {shape}": (shape, how == "pooled") for how in ("mean", "pooled") for shape in TOTALS}
    yield crossed(kept, "relevance", "", sizes, kinds, lambda size, kind: ratios(kind[0], size, trials // 2, kind[1]))
    yield "The mean of one example over so many draws:"
    few: dict[str, tuple[int, str | None]] = {str(draws): (draws, None) for draws in (FEW[1:4] if kept.quick else FEW)}
    few |= {f"10, {method}": (10, method) for method in ("percentile-t", "bca", "student")}
    yield crossed(kept, "single", "draws", few, same(DRAWS), lambda how, shape: singles(shape, how[0], trials, how[1]))


def tests(kept: Kept, _: Traces) -> Iterator[str]:
    trials = 300 if kept.quick else 4000
    maps = trials // 2
    yield (
        f"A true null is rejected at 5 % in so many percent of {trials} trials ({off(0.05, trials)}, two standard"
        f" errors; of maps {maps} trials, {off(0.05, maps)})."
    )
    names = {"paired": "paired, {} examples", "groups": "groups of {} and {}", "map": "paired map of 20 cells, {}, any"}
    rows = {names[test].format(*sizes): (test, sizes) for test, sizes in TESTS}
    yield crossed(
        kept, "test", "test", rows, same(SHAPES),
        lambda test, shape: rejected(test[0], shape, test[1], maps if test[0] == "map" else trials),
    )  # fmt: skip


def cost(kept: Kept, _: Traces) -> Iterator[str]:
    shape = (200, 5, 10)

    def measure(value: str, pooled: bool) -> list[float]:
        rng = np.random.default_rng(0)
        total = rng.beta(4, 2, shape).astype("float32")
        tree = as_result(total, total[..., None, None] * rng.beta(0.6, 3, (*shape, 12, 9)).astype("float32"))
        start = time.perf_counter()
        effects.interval(tree, value, pooled=pooled, resamples=2000)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        effects.interval(tree, value, pooled=pooled, resamples=2000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return [seconds, peak / 2**20]

    yield "`interval` of a map of 12 x 9 states, 200 examples x 10 draws x 5 ν, 2,000 resamples, on one core:"
    rows: Rows = [["of", "seconds", "MB beside the result"]]
    for value, pooled in (("indirect_effect", False), ("relevance", False), ("relevance", True)):
        seconds, peak = kept(f"cost {value} {pooled}", partial(measure, value, pooled))
        rows.append([value.replace("_", " ") + (", pooled" if pooled else ""), f"{seconds:.1f}", f"{peak:.0f}"])
    yield table(rows)


# ---- draws of the small model ----------------------------------------------------------------


@cache
def scenes() -> list[nnblip.Example]:
    """The bundled ones and generated ones, each with the model's own answer."""
    more = nnblip.datasets.open_dataset("scenes").sample(30, 5)
    return [*nnblip.demo.examples(), *(replace(one, answer=None) for one in more)][:SCENES]


@cache
def model() -> nnblip.BlipVQA:
    return nnblip.BlipVQA()


class Traces:
    """Traces of the scenes, made once and kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "traces"

    def __call__(self, scene: int, noise: str, place: str, nu: Sequence[float], draws: int) -> xr.DataTree:
        said = "_".join([noise, place, "-".join(f"{one:g}" for one in nu), str(draws), f"{scene:02d}"])
        path = self.folder / f"{said}.zarr"
        if not path.exists():
            tree = nnblip.causal_trace(
                model(), [scenes()[scene]], nu, draws, noise, noise_at=place, progress=False, kinds=["block"]
            )
            nnblip.results.save(tree, path)
        return nnblip.results.open_result(path).load()

    def truths(self, noise: str, nu: float, count: int) -> list[xr.DataTree]:
        """Of so many scenes, at one ν."""
        return [self(scene, noise, "image_embeds", REAL[noise], TRUTH).sel(nu=[nu]) for scene in range(count)]


def real(kept: Kept, traces: Traces) -> Iterator[str]:
    trials, count = (10, 3) if kept.quick else (50, SCENES)
    ladder = [(noise, nu) for noise, nus in REAL.items() for nu in nus]
    yield (
        f"Draws of the small model, taken at random from {TRUTH} of each of {count} scenes, whose means are the truth;"
        f" {trials} times for each scene, which has an interval over its draws. Means over scenes ± two standard errors"
        " over scenes; cells whose draws do not differ (by 1e-6) are left out."
    )
    rows: Rows = [["noise", "ν", "draws", "total effect", "states", "relevance", "Γ", "states by bootstrap-t"]]
    for noise, nu in ladder:
        for draws in (10, 20, 40):
            found = kept(
                f"real {noise} {nu} {draws}",
                partial(
                    lambda n, v, d: [over_draws(t, d, trials) for t in traces.truths(n, v, count)], noise, nu, draws
                ),
            )
            shares = np.array(found, float)
            error = 2 * np.nanstd(shares, 0) / np.sqrt(np.maximum((~np.isnan(shares)).sum(0), 1))
            cells = (f"{100 * a:.1f} ± {100 * b:.1f}" for a, b in zip(np.nanmean(shares, 0), error, strict=True))
            rows.append([noise, f"{nu:g}", str(draws), *cells])
    yield table(rows)
    yield (
        f"As many scenes as said, taken at random from the {count} with 10 draws each, {40 * trials} times; the truth"
        " is the mean of all scenes."
    )
    rows = [["noise", "ν", "scenes", "total effect", "decoder's states", "Γ of the question encoder", "Γ, pooled"]]
    for noise, nu in (("multiplicative", 3), ("shuffle", 0.5)):
        for size in (8, 20, 60):
            found = kept(
                f"real examples {noise} {nu} {size}",
                partial(lambda n, v, s: over_examples(traces.truths(n, v, count), s, 40 * trials), noise, nu, size),
            )
            rows.append([noise, f"{nu:g}", str(size), *(told(*one) for one in found)])
    yield table(rows)


def over_draws(tree: xr.DataTree, draws: int, trials: int) -> list[float]:
    """Coverage of one scene's total effect, states, their relevance, Γ, and states by another method; NaN for what is
    undefined."""
    chosen = np.random.default_rng(draws).integers(0, tree.sizes["draw"], (trials, draws))
    some = _resampled(tree, chosen)
    differ = (tree["question_encoder"].probability - tree["corrupted"].probability).isel(example=0, drop=True)
    found = []
    asked = ("total_effect", None), ("indirect_effect", None), ("relevance", None), ("gamma", None)
    for value, method in (*asked, ("indirect_effect", "percentile-t")):
        name = "corrupted" if value == "total_effect" else "question_encoder"
        truth, here = (
            effects.interval(data, value, over="draws", method=method, resamples=count, seed=draws)[name].to_dataset()
            for data, count in ((tree, 100), (some, 500))
        )
        known = truth.value.isel(example=0, drop=True)
        there = known.notnull() & (differ.std("draw") > 1e-6) if "token" in known.dims else known.notnull()
        found.append(counted(here.where(there), known).covered)
    return found


def _resampled(tree: xr.DataTree, chosen: np.ndarray) -> xr.DataTree:
    """A result whose examples are draws of one example, taken by number: (trial, draw)."""
    nodes = {}
    for name, node in tree.children.items():
        data = node.to_dataset(inherit=False)[list(nnblip.results.VARIABLES)].isel(example=0)
        data = data.isel(draw=xr.DataArray(chosen, dims=("example", "draw"))) if "draw" in data.dims else data
        data = data if "example" in data.dims else data.expand_dims(example=len(chosen))
        front = [dim for dim in ("example", "nu", "draw") if dim in data.dims]
        nodes[name] = data.transpose(*front, ...)
    axes = {"example": np.arange(len(chosen)), "nu": tree.nu.values, "draw": np.arange(chosen.shape[1])}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=axes), **nodes})


def over_examples(trees: list[xr.DataTree], size: int, trials: int) -> list[Counted]:
    """Total effect, the decoder's states, Γ and Γ pooled, of scenes that are drawn with some of their draws."""
    rng = np.random.default_rng(size)

    def effect(tree: xr.DataTree, name: str) -> np.ndarray:
        return nnblip.indirect_effect(tree)[name].probability.isel(nu=0, kind=0).values[0]

    total = np.stack([nnblip.total_effect(t)["corrupted"].probability.values[0, 0] for t in trees])  # (scene, draw)
    back = np.stack([np.nanmean(effect(t, "question_encoder"), (1, 2)) for t in trees])
    states = np.stack([effect(t, "answer_decoder")[:, :, 0] for t in trees])  # (scene, draw, layer)
    chosen = rng.integers(0, len(trees), (size, trials, 1))
    drawn = rng.integers(0, total.shape[1], (size, trials, 10))
    here = total[chosen, drawn], back[chosen, drawn]
    defined = total.mean(1) >= effects.THRESHOLD
    ratio = np.where(defined, back.mean(1) / total.mean(1), np.nan)
    result, dims = as_result(*here), ("example", "trial", "draw")

    def gamma(pooled: bool) -> xr.Dataset:
        return effects.interval(result, "gamma", pooled=pooled)["question_encoder"].to_dataset()

    layers = xr.DataArray(states.mean((0, 1)), dims="layer")
    return [
        counted(effects.interval(xr.DataArray(here[0], dims=dims)), total.mean()),
        counted(effects.interval(xr.DataArray(states[chosen, drawn], dims=(*dims, "layer"))), layers),
        counted(gamma(False), float(np.nanmean(ratio))),
        counted(gamma(True), back.mean() / total.mean()),
    ]


# ---- reliability -----------------------------------------------------------------------------


def reliability(kept: Kept, traces: Traces) -> Iterator[str]:
    count = 3 if kept.quick else SCENES
    yield (
        f"Maps of the question encoder's blocks, by probability, of {count} scenes and {READ} draws. Total effect: mean"
        f" over scenes. Where it is less than {SEEN} there is nothing to map; of the scenes where it is more,"
        " reliability of a mean of 10 draws (split halves, Spearman-Brown), median [quartiles] and least, and how many"
        " draws half of them, and nine of ten, need for 0.9."
    )
    rows: Rows = [
        ["noise", "at", "ν", "total effect", "scenes", "reliability", "least", "draws for 0.9", "of nine in ten"]
    ]
    for (noise, place), ladder in LADDERS.items():
        draws = 1 if noise in ALIKE else READ
        for level, nu in enumerate(ladder):
            found = kept(
                f"reliability {noise} {place} {nu}",
                partial(lambda *of: [of_map(traces(scene, *of[:-1]), of[-1]) for scene in range(count)],
                        noise, place, ladder, draws, level),
            )  # fmt: skip
            total, *reliable = np.array(found, float).T
            of_ten, of_all = np.array(reliable)[:, total >= SEEN]
            cells = [f"{total.mean():+.2f}", f"{len(of_ten)} of {count}"]
            if noise in ALIKE:
                cells += ["all draws are alike", "", "1", "1"]
            elif not len(of_ten):
                cells += [""] * 4
            else:
                one = np.maximum(of_all / (of_all + draws * (1 - of_all)), 1e-9)  # Spearman and Brown, backwards
                needed = np.ceil(9 * (1 - one) / one)
                low, half, high = np.quantile(of_ten, [0.25, 0.5, 0.75])
                cells += [f"{half:.2f} [{low:.2f}, {high:.2f}]", f"{of_ten.min():.2f}"]
                most = [np.quantile(needed, share, method="higher") for share in (0.5, 0.9)]
                cells += [f"{value:.0f}" if value < 1000 else "over 1000" for value in most]
            rows.append([noise, place, f"{nu:g}", *cells])
    yield table(rows)


def of_map(tree: xr.DataTree, level: int) -> list[float]:
    """Total effect, reliability of ten draws, and of all."""
    here = tree.isel(nu=level, example=0)
    total = float(nnblip.total_effect(here)["corrupted"].probability.mean())
    maps = here["question_encoder"].probability.values
    maps = maps.reshape(len(maps), -1)
    if len(maps) == 1:
        return [total, 1.0, 1.0]
    tens = [split_half(maps[start : start + 10]) for start in range(0, len(maps) - 9, 10)]
    return [total, float(np.nanmean(tens)), split_half(maps)]


# ---- all -------------------------------------------------------------------------------------


PARTS: dict[str, Callable[[Kept, Traces], Iterator[str]]] = {
    "intervals": intervals,
    "tests": tests,
    "cost": cost,
    "real": real,
    "reliability": reliability,
}


def written(page: str, part: str, text: str) -> str:
    """The page with a part's tables between its marks."""
    head, mark, rest = page.partition(f"<!-- {part} -->\n")
    _, end, tail = rest.partition(f"<!-- end of {part} -->")
    if not mark or not end:
        raise SystemExit(f"the page has no marks <!-- {part} --> and <!-- end of {part} -->")
    return f"{head}{mark}\n{text}\n\n{end}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="few trials, a few minutes; not for conclusions")
    parser.add_argument("--build", type=Path, default=BUILD, help="what is done is kept there")
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced, between its marks")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"part {unknown[0]!r}: expected some of {', '.join(PARTS)}")
    kept, traces = Kept(args.build, args.quick), Traces(args.build)
    for part in args.parts or PARTS:
        text = "\n\n".join(PARTS[part](kept, traces))
        print(f"\n## {part}\n\n{text}\n", flush=True)
        if args.write:
            args.write.write_text(written(args.write.read_text(), part, text))


if __name__ == "__main__":
    main()
