#!/usr/bin/env python
"""Which method finds what is planted?

    nnblip experiment planted

Planted models (`nnblip.planted`) have weights set by hand, so that it is known which states, edges and attention edges
carry the answer. Every method gives a number to each of many candidates; its AUROC is the probability that one that
is planted gets a larger number than one that is not (0.5: by chance). What a reader of a map looks at are its strongest
cells, and among thousands AUROC hardly sees a few wrong ones at the top: so the table also has, of the strongest, as
many as are planted, the share that is planted (R-precision). The damage is always the picture that the
example has as its partner (`noise="swap"`, ν = 1), the number the size of the mean effect over examples, on the
answer's log-probability.

Candidates are of three sorts. *States*: of every kind, layer, token and head. *Edges*: between whole sublayers, from
every patch, and from the question encoder's last layer. *Cross-attention*: what a token reads of one patch or one
question token in one layer, which is where attention weights and Grad-CAM are defined (mean over heads).

Two truths: the *whole plant*, and what the question of a method *can show* when each thing is changed alone
(`plant.shown`): of two ways that both are needed, restoring one gives nothing back; of two of which one suffices,
damaging one takes nothing away; a backup hides a cut. A method that finds all that can be shown and not the whole
plant is right, and its question is another one.

Models are in float64, where everything off the plant is 0 to rounding; numbers below 1e-6 count as 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.stats import mannwhitneyu

import nnblip
from nnblip import effects, sites
from nnblip.experiments import Experiment, Run
from nnblip.experiments.claims import FAILS, HOLDS, Verdict, above, of_several
from nnblip.experiments.experiment import Defaults
from nnblip.experiments.numbers import Mean, mean
from nnblip.experiments.texts import table
from nnblip.plants.kinds import KINDS
from nnblip.plants.wiring import SIDE, TOKENS

SUBLAYERS = ("attention_out", "crossattention_out", "mlp_out")
#: Of each plant.
EXAMPLES = 2
#: Of integrated gradients.
STEPS = 20
ZERO = 1e-6
EXACT = 1 - 1e-9


class Sort(NamedTuple):
    """Candidates of one sort, and which of them are planted."""

    candidates: list[Any]
    planted: np.ndarray
    shown: dict[str, np.ndarray]


class Method(NamedTuple):
    """What gives a number to each candidate.

    Attributes:
        sort: of the candidates.
        score: (plant, candidates) -> numbers.
        exact: runs the model with each candidate changed, and estimates nothing.
        shows: the direction that says what it can show, or the whole plant.
    """

    sort: str
    score: Callable[[Any, Sequence[Any]], np.ndarray]
    exact: bool = False
    shows: str | None = None


# --- candidates ----------------------------------------------------------------------------


def sorts_of(plant: Any) -> dict[str, Sort]:
    """The three sorts of candidates of a plant, with both truths."""
    extent = plant.model.extent(TOKENS, 1)
    kinds = {name: sites.IMAGE_KINDS if name == "image_encoder" else sites.KINDS for name in sites.COMPONENTS}
    states = [cell[0] for name in sites.COMPONENTS for cell in sites.heatmap(extent, name, kinds[name])]
    families = [sites.edges(SUBLAYERS, name, (*SUBLAYERS, "block"), regions=SIDE) for name in sites.TEXT_COMPONENTS]
    edges = [edge for family in families for edge in family(extent)]
    patches = {str(patch): [patch] for patch in range(1 + SIDE**2)}
    cuts = [
        cut
        for where, sources in (("image_to_question", patches), ("question_to_answer", "each"))
        for cut in sites.knock_outs(where, sources, "each")(extent)
    ]
    every_cut = {cut for leg in plant.legs.values() for cut in leg.knock_outs}
    two = {way: plant.shown(way) for way in ("denoising", "noising")}
    return {
        "states": _sort(states, plant.sites, {way: shown.sites for way, shown in two.items()}),
        "edges": _sort(edges, plant.edges, {way: shown.edges for way, shown in two.items()}),
        "cross-attention": _sort(cuts, every_cut, {"cutting": plant.shown("cutting").knock_outs}),
    }


def _sort(candidates: list[Any], planted: Any, shown: dict[str, Any]) -> Sort:
    def among(truth: Any) -> np.ndarray:
        return np.array([one in set(truth) for one in candidates])

    return Sort(candidates, among(planted), {way: among(truth) for way, truth in shown.items()})


# --- methods -------------------------------------------------------------------------------


def _sizes(tree: xr.DataTree, count: int) -> np.ndarray:
    """Of each cell of the only list in a result, the size of its mean effect."""
    cut = "knock_outs" in tree.children
    found = effects.knock_out_effect(tree) if cut else effects.indirect_effect(tree)
    (node,) = [one for one in getattr(found, "children", {"": found}).values() if "log_probability" in one]
    values = node["log_probability"].mean("example").values.reshape(count)
    return np.abs(values)


def exact(plant: Any, candidates: Sequence[Any], direction: str = "denoising") -> np.ndarray:
    """Every candidate restored, damaged or cut alone."""
    tree = nnblip.causal_trace(
        plant.model, plant.examples, nu=1, draws=1, noise="swap", direction=direction, cells=list(candidates),
        progress=False,
    )  # fmt: skip
    return _sizes(tree, len(candidates))


def estimated(plant: Any, candidates: Sequence[Any], steps: int = 1) -> np.ndarray:
    """By gradients: attribution patching, or integrated gradients of more steps."""
    tree = nnblip.attribution_trace(
        plant.model, plant.examples, nu=1, draws=1, noise="swap", steps=steps, sample=2, cells=list(candidates),
        progress=False,
    )  # fmt: skip
    return _sizes(tree.drop_nodes("check"), len(candidates))


def looked(plant: Any, candidates: Sequence[Any], variable: str = "attention") -> np.ndarray:
    """What a token looks at: weights, or Grad-CAM, mean over heads."""
    tree = nnblip.attention(plant.model, plant.examples, kinds=["crossattention"], progress=False)
    found = {
        edges: tree[f"{component}/crossattention"][variable].mean(("example", "head"))
        for edges, component in (("image_to_question", "question_encoder"), ("question_to_answer", "answer_decoder"))
    }
    return np.array([
        float(found[cut.edges].sel(layer=cut.layers[0], token=cut.target[0]).isel(source=cut.source[0]))
        for cut in candidates
    ])  # fmt: skip


METHODS = {
    "states, restored": Method("states", exact, True, "denoising"),
    "states, damaged": Method("states", partial(exact, direction="noising"), True, "noising"),
    "states, attribution patching": Method("states", estimated),
    "states, integrated gradients": Method("states", partial(estimated, steps=STEPS)),
    "edges, restored": Method("edges", exact, True, "denoising"),
    "edges, damaged": Method("edges", partial(exact, direction="noising"), True, "noising"),
    "edges, attribution patching": Method("edges", estimated),
    "edges, integrated gradients": Method("edges", partial(estimated, steps=STEPS)),
    "knock-out map": Method("cross-attention", exact, True, "cutting"),
    "attention weights": Method("cross-attention", looked),
    "Grad-CAM": Method("cross-attention", partial(looked, variable="grad_cam")),
}


def auroc(numbers: np.ndarray, truth: np.ndarray) -> float:
    """The probability that what is true has the larger number, half of it for equal ones; by Mann and Whitney's U."""
    numbers = np.where(numbers < ZERO, 0, numbers)
    true, other = numbers[truth], numbers[~truth]
    return float(mannwhitneyu(true, other).statistic / (len(true) * len(other)))


def among_strongest(numbers: np.ndarray, truth: np.ndarray) -> float:
    """R-precision: of the largest numbers, as many as are true, the share that is true; of equal ones by chance."""
    numbers, count = np.where(numbers < ZERO, 0, numbers), int(truth.sum())
    last = np.sort(numbers)[-count]
    equal = np.isclose(numbers, last, rtol=1e-9, atol=0)
    larger = (numbers > last) & ~equal
    return float((truth[larger].sum() + truth[equal].mean() * (count - larger.sum())) / count)


def scores(kind: str, seed: int) -> xr.Dataset:
    """Of one plant, (method): AUROC and R-precision against the whole plant, and AUROC against what can be shown."""
    plant = nnblip.planted(kind, seed, examples=EXAMPLES, dtype="float64")
    sorts = sorts_of(plant)
    whole, first, shown = [], [], []
    for method in METHODS.values():
        sort = sorts[method.sort]
        numbers = method.score(plant, sort.candidates)
        whole.append(auroc(numbers, sort.planted))
        first.append(among_strongest(numbers, sort.planted))
        shown.append(auroc(numbers, sort.shown[method.shows]) if method.shows else np.nan)
    counts = {f"{name} planted": int(sort.planted.sum()) for name, sort in sorts.items()}
    counts |= {name: len(sort.candidates) for name, sort in sorts.items()}
    data = {"auroc": whole, "among_strongest": first, "auroc_of_shown": shown}
    return xr.Dataset({name: ("method", values) for name, values in data.items()}, {"method": list(METHODS)}, counts)


# --- what is said --------------------------------------------------------------------------


def plot(found: xr.Dataset) -> Figure:
    """Methods by kinds of plants, each cell the mean AUROC over seeds; a star where all that can be shown is found.

    Beside them the share of the strongest that is planted, mean of all plants, which is read by other colours.
    """
    kinds = list(dict.fromkeys(found["kind"].values.tolist()))
    mean_of, all_shown = by_kind(found)
    first = found["among_strongest"].mean("plant").values[:, None]
    figure = Figure(figsize=(6.9, 1.2 + 0.28 * len(METHODS)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[len(kinds), 1], sharey=True)
    stars = np.where(all_shown & (mean_of < EXACT), "*", "")
    mesh = _cells(left, mean_of, stars, kinds, "PuOr_r", lambda value: abs(value - 0.5) > 0.35)
    _cells(right, first, np.full(first.shape, ""), ["all kinds"], "Greens", lambda value: value > 0.6)
    left.set_yticks(range(len(METHODS)), METHODS, fontsize=8)
    bar = figure.colorbar(mesh, ax=left, location="bottom", shrink=0.5, aspect=40, ticks=[0, 0.5, 1])
    bar.ax.set_xticklabels(["0", "0.5: chance", "1: finds it"], fontsize=8)
    bar.outline.set_visible(False)
    n = found.sizes["plant"] // len(kinds)
    left.set_title(
        f"AUROC against the whole plant, mean of {n} planted models of each kind\n* all that its question can show",
        fontsize=8, loc="left",
    )  # fmt: skip
    right.set_title("planted, of\nthe strongest", fontsize=8, loc="right")
    return figure


def _cells(
    axes: Axes, values: np.ndarray, stars: np.ndarray, columns: Sequence[str], cmap: str, dark: Callable[[float], bool]
) -> AxesImage:
    """Coloured cells with their numbers, and a gap between sorts of candidates."""
    mesh = axes.imshow(values, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if dark(value) else "black"
        axes.text(column, row, f"{value:.2f}{stars[row, column]}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    sorts = [method.sort for method in METHODS.values()]
    for number in range(1, len(sorts)):
        if sorts[number] != sorts[number - 1]:
            axes.axhline(number - 0.5, color="white", linewidth=3)
    return mesh


def by_kind(found: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(method, kind): mean AUROC against the whole plant, and whether all that can be shown is found in all of them."""
    kinds = list(dict.fromkeys(found["kind"].values.tolist()))
    parts = [found.isel(plant=np.flatnonzero(found["kind"].values == kind)) for kind in kinds]
    means = np.stack([part["auroc"].mean("plant").values for part in parts], axis=1)
    shown = np.stack([(part["auroc_of_shown"] >= EXACT).all("plant").values for part in parts], axis=1)
    return means, shown


def run(run: Run) -> None:
    plants = [(kind, run.options.seed + number) for number in range(run.options.n) for kind in KINDS]
    plants.sort(key=lambda one: list(KINDS).index(one[0]))
    every = [
        run.stage(f"plants/{kind}_{seed}", partial(scores, kind, seed)).to_dataset().drop_attrs()
        for kind, seed in plants
    ]
    found = xr.concat(every, "plant").assign_coords(
        kind=("plant", [kind for kind, _ in plants]), seed=("plant", [seed for _, seed in plants])
    )
    run.keep("auroc", found)
    run.figure("methods", plot(found))

    kinds = list(KINDS)
    numbers, shown = by_kind(found)
    rows = [["method", *kinds, "all", "of the strongest"]]
    for row, name in enumerate(METHODS):
        cells = [
            f"{n:.2f}" + ("*" if star and n < EXACT else "") for n, star in zip(numbers[row], shown[row], strict=True)
        ]
        rows.append([name, *cells, *(_mean(found[variable], name).bare.replace("+", "")
                                     for variable in ("auroc", "among_strongest"))])  # fmt: skip
    run.section(
        "Which method finds what is planted",
        f"AUROC against the whole plant, means over {run.options.n} planted models of each kind; of all"
        f" {len(plants)} with a 95 % interval over models. A star: all that its question can show is found, in each of"
        f" them, and the rest of the plant needs company (docs: planted). Last column: of the strongest candidates, as"
        f" many as are planted, the share that is, of all models.\n\n{table(*rows)}",
    )
    run.claim("shown", _exactly(found))
    run.claim("whole", _whole(found))
    level = of_several(2)
    for claim, variable, name in (
        ("attention", "auroc", "attention weights"),
        ("strongest", "among_strongest", "attention weights"),
        ("gradcam", "auroc", "Grad-CAM"),
    ):
        gap = _gap(found[variable], "knock-out map", name, level)
        what = "AUROC" if variable == "auroc" else "share of the strongest"
        run.claim(claim, above(gap, 0, f"{what} of the knock-out map minus that of {name}"))
    pairs = {
        sort: _gap(found["auroc"], f"{sort}, restored", f"{sort}, attribution patching", level)
        for sort in ("states", "edges")
    }
    lacking = {sort: above(gap, 0, f"{sort}: AUROC of restoring minus that of attribution patching")
               for sort, gap in pairs.items()}  # fmt: skip
    said = HOLDS if any(one.said == HOLDS for one in lacking.values()) else lacking["states"].said
    run.claim("estimates", Verdict(said, "; ".join(one.because for one in lacking.values())))


def _of(numbers: xr.DataArray, name: str) -> xr.DataArray:
    """(plant), as the units of `mean`, which are called examples."""
    return numbers.sel({"method": name}, drop=True).rename(plant="example").reset_coords(drop=True)


def _mean(numbers: xr.DataArray, name: str) -> Mean:
    return mean(_of(numbers, name), (0, 1))


def _gap(numbers: xr.DataArray, one: str, other: str, level: float) -> Mean:
    return mean(_of(numbers, one) - _of(numbers, other), (-1, 1), level)


def _exactly(found: xr.Dataset) -> Verdict:
    """Whether every exact method finds all that its question can show, in every plant: no statistics, all of them."""
    exacts = [name for name, method in METHODS.items() if method.exact]
    numbers = found["auroc_of_shown"].sel({"method": exacts})
    missed = int((numbers < EXACT).sum())
    least = float(numbers.min())
    told = f"{numbers.size - missed} of {numbers.size} pairs of method and plant have AUROC 1; the least is {least:.3f}"
    return Verdict(FAILS if missed else HOLDS, told)


def _whole(found: xr.Dataset) -> Verdict:
    """Whether the whole plant is found by restoring or by damaging."""
    best = found["auroc"].sel({"method": ["edges, restored", "edges, damaged"]}).max("method")
    lacking = sorted({str(kind) for kind in best["kind"].values[best.values < EXACT]})
    told = f"not for {', '.join(lacking)}" if lacking else f"all {best.size} plants, by edges"
    return Verdict(FAILS if lacking else HOLDS, told)


EXPERIMENT = Experiment(
    name="planted",
    question="Which method finds what is planted?",
    claims={
        "shown": "Exact tracing and knock-outs find everything that their question can show, in every planted model",
        "whole": "Restoring or damaging edges finds the whole plant, whatever its kind",
        "attention": "Knock-outs find the planted attention edges better than attention weights do, by AUROC",
        "strongest": "What knock-outs find strongest is planted more often than what attention weights do",
        "gradcam": "Knock-outs find them better than Grad-CAM does",
        "estimates": "Exact tracing finds plants that attribution patching misses",
    },
    run=run,
    figure="methods",
    defaults=Defaults(dataset=(), n=4, nu=(1.0,), draws=1),
    least=1,
    sets=0,
    planted=True,
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
