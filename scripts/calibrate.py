#!/usr/bin/env python
"""Do the intervals hold what they say, how reliable are maps, what do the diagnostics find? Measured, as tables.

    python scripts/calibrate.py                       # all parts, hours; stopped, the same command goes on
    python scripts/calibrate.py tests reliability     # some of them
    python scripts/calibrate.py --write docs/calibration.md

Parts: `intervals` and `tests` on simulated data whose truth is known (`simulated.py`), `real` on draws of the small model
(160 draws of a scene are the truth), `reliability` of maps for every noise over a ladder of ν, `diagnostics` on results
with one fault each and on sound ones. What is done is kept in build/calibration; `--write` puts the tables between the
marks of a page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from simulated import (
    DRAWS,
    SHAPES,
    TOTALS,
    Counted,
    as_result,
    counted,
    one_example,
    rejected,
    shares,
    twice_resampled,
    two_levels,
)

import nnblip
from nnblip import effects
from nnblip.effects.intervals import METHODS
from nnblip.passes.reliability import reliability

BUILD = Path("build/calibration")
#: The scenes whose draws are the truth, and how many draws that is.
SCENES, TRUTH = 20, 160
#: What is traced: noise, where it falls, its ladder of ν, and whether its draws differ.
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
    """Rows that were computed once, in a file of their own by their name."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder / ("quick" if quick else "full"), quick
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


# ---- intervals -------------------------------------------------------------------------------


def said(found: Any) -> str:
    """Coverage in percent, and where many have no interval, how many."""
    one = Counted(*found)
    none = f" ({100 * one.none:.0f} % none)" if one.none > 0.005 else ""
    return "none" if one.none == 1 else f"{100 * one.covered:.1f}{none}"


def intervals(kept: Kept) -> Iterator[str]:
    trials = 300 if kept.quick else 4000
    sizes = (
        [(8, 3), (20, 10)]
        if kept.quick
        else [(5, 3), (8, 3), (8, 10), (12, 10), (20, 3), (20, 10), (50, 10), (200, 3), (200, 10)]
    )
    yield "Means over examples: 95 % intervals hold the truth in so many percent."
    rows: Rows = [["examples x draws", *SHAPES]]
    for examples, draws in sizes:
        cells = []
        for shape in SHAPES:

            def cover(shape: str = shape, examples: int = examples, draws: int = draws) -> Counted:
                data, truth = two_levels(shape, examples, draws, trials)
                return counted(effects.interval(data), truth)

            cells.append(said(kept(f"mean {examples} {draws} {shape}", cover)))
        rows.append([f"{examples} x {draws}", *cells])
    yield table(rows)

    yield "Other methods, of 20 examples of 3 draws (why bootstrap-t over examples was chosen):"
    rows = [["method", *SHAPES]]
    for method in [*METHODS[:3], "draws resampled too"]:
        cells = []
        for shape in SHAPES:

            def by(shape: str = shape, method: str = method) -> Counted:
                data, truth = two_levels(shape, 20, 3, trials, seed=1)
                other = method not in METHODS
                return counted(twice_resampled(data) if other else effects.interval(data, method=method), truth)

            cells.append(said(kept(f"method {method} {shape}", by)))
        rows.append([method, *cells])
    yield table(rows)

    yield "Relevance: the mean of the examples' ratios, and pooled."
    rows = [["examples x draws", *(f"{shape}, {how}" for how in ("mean", "pooled") for shape in TOTALS)]]
    for examples, draws in sizes:
        cells = []
        for pooled in (False, True):
            for shape in TOTALS:

                def ratio(
                    shape: str = shape, pooled: bool = pooled, examples: int = examples, draws: int = draws
                ) -> Counted:
                    tree, mean, together = shares(shape, examples, draws, min(trials, 2000))
                    found = effects.interval(tree, "relevance", pooled=pooled)["question_encoder"].to_dataset()
                    return counted(found, together if pooled else mean)

                cells.append(said(kept(f"relevance {pooled} {examples} {draws} {shape}", ratio)))
        rows.append([f"{examples} x {draws}", *cells])
    yield table(rows)

    yield "One example over its draws:"
    rows = [["draws", *DRAWS]]
    for draws in [10, 20] if kept.quick else [3, 5, 9, 10, 15, 20, 40, 80]:
        cells = []
        for shape in DRAWS:

            def single(shape: str = shape, draws: int = draws, method: str | None = None) -> Counted:
                data, truth = one_example(shape, draws, trials)
                return counted(effects.interval(data, method=method), truth)

            cells.append(said(kept(f"single {draws} {shape}", single)))
        rows.append([str(draws), *cells])
    for method in ("student", "percentile-t", "bca"):
        cells = []
        for shape in DRAWS:

            def other(shape: str = shape, method: str = method) -> Counted:
                data, truth = one_example(shape, 10, trials)
                return counted(effects.interval(data, method=method), truth)

            cells.append(said(kept(f"single {method} {shape}", other)))
        rows.append([f"10, {method}", *cells])
    yield table(rows)


def tests(kept: Kept) -> Iterator[str]:
    trials = 300 if kept.quick else 4000
    yield "A true null is rejected at 5 % in so many percent (exact tests of few examples can only be below)."
    rows: Rows = [["test", "examples", *SHAPES]]
    sizes = [("paired", (8, 8)), ("groups", (8, 12))]
    if not kept.quick:
        sizes += [("paired", (12, 12)), ("paired", (50, 50)), ("groups", (20, 20)), ("groups", (12, 60))]
    sizes += [("map", (12, 12))]
    for test, (a, b) in sizes:
        cells = []
        for shape in SHAPES:
            count = trials // 8 if test == "map" else trials
            share = kept(f"test {test} {a} {b} {shape}", lambda s=shape, c=count: rejected(test, s, (a, b), c))  # noqa: B023
            cells.append(f"{100 * share:.1f}")
        name = {"map": "paired, any of 20 cells (max)"}.get(test, test)
        rows.append([name, f"{a}" if test != "groups" else f"{a} and {b}", *cells])
    yield table(rows)


# ---- real draws ------------------------------------------------------------------------------


def scenes() -> list[nnblip.Example]:
    """The bundled ones and generated ones, each with the model's own answer."""
    more = nnblip.datasets.open_dataset("scenes").sample(30, 5)
    return [*nnblip.demo.examples(), *(replace(one, answer=None) for one in more)][:SCENES]


class Traces:
    """Traces of the scenes, made once and kept."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick, self._model = folder / "traces", quick, None

    def __call__(self, noise: str, place: str, scene: int) -> xr.DataTree:
        draws = 1 if noise in ALIKE else 40 if self.quick else TRUTH
        path = self.folder / f"{noise}_{place}_{scene:02d}_{draws}.zarr"
        if not path.exists():
            self._model = self._model or nnblip.BlipVQA()  # type: ignore[assignment]
            tree = nnblip.causal_trace(
                self._model, [scenes()[scene]], LADDERS[noise, place], draws, noise, noise_at=place, progress=False
            )
            nnblip.results.save(tree, path)
        return nnblip.results.open_result(path).load()


def real(kept: Kept, traces: Traces) -> Iterator[str]:
    trials, count = (10, 3) if kept.quick else (100, SCENES)
    yield (
        f"Draws of the small model, taken at random from {TRUTH} of each of {count} scenes, whose means are the truth. One"
        " scene at a time, over its draws; means over scenes and states."
    )
    rows: Rows = [
        ["noise", "ν", "draws", "total effect", "single states", "relevance of states", "Γ of the question encoder"]
    ]
    for noise, nus in (("multiplicative", (2, 3, 5)), ("additive", (3,)), ("shuffle", (0.5,))):
        for nu in nus:
            for draws in (10, 20, 40):

                def cover(noise: str = noise, nu: float = nu, draws: int = draws) -> list[Counted]:
                    return over_draws(
                        [traces(noise, "image_embeds", s).sel(nu=[nu]) for s in range(count)], draws, trials
                    )

                found = kept(f"real {noise} {nu} {draws}", cover)
                rows.append([noise, f"{nu:g}", str(draws), *map(said, found)])
    yield table(rows)

    yield "As many scenes as said, taken at random from the 20 with 10 draws each; the truth is the mean of all 20."
    rows = [["noise", "ν", "scenes", "total effect", "decoder's states", "Γ of the question encoder", "Γ, pooled"]]
    for noise, nu in (("multiplicative", 3), ("shuffle", 0.5)):
        for size in (8, 20, 60):

            def among(noise: str = noise, nu: float = nu, size: int = size) -> list[Counted]:
                return over_examples(
                    [traces(noise, "image_embeds", s).sel(nu=[nu]) for s in range(count)], size, 10 * trials
                )

            found = kept(f"real examples {noise} {nu} {size}", among)
            rows.append([noise, f"{nu:g}", str(size), *map(said, found)])
    yield table(rows)


def over_draws(trees: list[xr.DataTree], draws: int, trials: int) -> list[Counted]:
    rng = np.random.default_rng(draws)
    counts: list[list[Counted]] = [[], [], [], []]
    asked = ("total_effect", "indirect_effect", "relevance", "gamma")
    for tree in trees:
        truths = [effects.interval(tree, value, resamples=100) for value in asked]
        for trial in range(trials):
            some = tree.isel(draw=rng.integers(0, tree.sizes["draw"], draws))
            for place, value in enumerate(asked):
                name = "corrupted" if value == "total_effect" else "question_encoder"
                found, truth = (
                    t[name].to_dataset()
                    for t in (effects.interval(some, value, resamples=500, seed=trial), truths[place])
                )
                varied = tree[name].probability.std("draw").max() > 1e-6
                if truth.value.notnull().any() and bool(varied):
                    differs = (tree["question_encoder"].probability - tree["corrupted"].probability).std("draw") > 1e-6
                    held = counted(
                        found.where(differs) if name != "corrupted" and value != "gamma" else found, truth.value
                    )
                    undefined = found.reason.isin(["total effect below the threshold", "no numbers"]).all()
                    counts[place] += [] if undefined or np.isnan(held.covered) else [held]
    return [Counted(*(float(np.mean([one[k] for one in group])) for k in range(3))) for group in counts]


def over_examples(trees: list[xr.DataTree], size: int, trials: int) -> list[Counted]:
    """Total effect, the decoder's states, Γ and Γ pooled, of scenes that are drawn with all their draws."""
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
    result = as_result(*here)
    found = [
        counted(effects.interval(xr.DataArray(here[0], dims=("example", "trial", "draw"))), total.mean()),
        counted(
            effects.interval(xr.DataArray(states[chosen, drawn], dims=("example", "trial", "draw", "layer"))),
            xr.DataArray(states.mean((0, 1)), dims="layer"),
        ),
        counted(effects.interval(result, "gamma")["question_encoder"].to_dataset(), float(np.nanmean(ratio))),
        counted(
            effects.interval(result, "gamma", pooled=True)["question_encoder"].to_dataset(), back.mean() / total.mean()
        ),
    ]
    return found


# ---- reliability -----------------------------------------------------------------------------


def reliabilities(kept: Kept, traces: Traces) -> Iterator[str]:
    count = 3 if kept.quick else SCENES
    yield (
        f"Split-half reliability (Spearman-Brown) of the map of the question encoder's blocks, of {count} scenes: mean of 10"
        " draws [95 % interval over scenes], the least of all scenes, and how many draws its mean would take to be 0.9."
        " The total effect stands beside it: a map of no effect is the reliable map of nothing. All draws of `mean` and"
        " `scale` are alike."
    )
    rows: Rows = [["noise", "at", "ν", "total effect", "of clean", "reliability of 10 draws", "least", "draws for 0.9"]]
    for (noise, place), ladder in LADDERS.items():
        for level, nu in enumerate(ladder):

            def measure(noise: str = noise, place: str = place, level: int = level) -> list[list[float]]:
                return [told(traces(noise, place, scene), level) for scene in range(count)]

            total, lost, reliable, single = np.array(kept(f"reliability {noise} {place} {nu}", measure)).T
            low, high = bounds(reliable) if noise not in ALIKE else (1.0, 1.0)
            mean = float(np.nanmean(single))
            needed = 1 if noise in ALIKE else int(np.ceil(9 * (1 - mean) / mean)) if 0 < mean < 1 else 0
            rows.append([
                noise, place, f"{nu:g}", f"{total.mean():+.3f}", f"{100 * np.median(lost):.0f} %",
                f"{np.nanmean(reliable):.2f} [{low:.2f}, {high:.2f}]", f"{np.nanmin(reliable):.2f}", str(needed or "-"),
            ])  # fmt: skip
    yield table(rows)


def told(tree: xr.DataTree, level: int) -> list[float]:
    """Total effect, its share of the clean probability, reliability of ten draws, and of one."""
    here = tree.isel(nu=level)
    total = float(nnblip.total_effect(here)["corrupted"].probability.mean())
    node = here["question_encoder"].probability.values[0]
    maps = node.reshape(len(node), -1)
    if len(maps) == 1:
        return [total, total / float(here["clean"].probability), 1.0, 1.0]
    found = np.nanmean([reliability(maps[start : start + 10]).value for start in range(0, len(maps) - 9, 10)])
    every = reliability(maps).value
    one = every / (every + len(maps) * (1 - every))  # Spearman and Brown, backwards
    return [total, total / float(here["clean"].probability), float(found), float(one)]


def bounds(values: np.ndarray) -> tuple[float, float]:
    found = effects.interval(xr.DataArray(values, dims="example"))
    return float(found.low), float(found.high)


# ---- all -------------------------------------------------------------------------------------


def table(rows: Rows) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


PARTS: dict[str, Callable[[Kept, Traces], Iterator[str]]] = {
    "intervals": lambda kept, _: intervals(kept),
    "tests": lambda kept, _: tests(kept),
    "real": real,
    "reliability": reliabilities,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="few trials, a few minutes; not for conclusions")
    parser.add_argument("--build", type=Path, default=BUILD, help="what is done is kept there")
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced, between its marks")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"part {unknown[0]!r}: expected some of {', '.join(PARTS)}")
    kept, traces = Kept(args.build, args.quick), Traces(args.build, args.quick)
    for part in args.parts or PARTS:
        text = "\n\n".join(PARTS[part](kept, traces))
        print(f"\n## {part}\n\n{text}\n", flush=True)
        if args.write:
            page = args.write.read_text()
            marked = re.sub(
                rf"(<!-- {part} -->\n).*?(<!-- end of {part} -->)",
                lambda m: f"{m[1]}\n{text}\n\n{m[2]}",
                page,
                flags=re.DOTALL,
            )
            args.write.write_text(marked)


if __name__ == "__main__":
    main()
