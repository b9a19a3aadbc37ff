#!/usr/bin/env python
"""How strong should the noise be? Γ(ν) over a ladder of ν, for each component, noise and type of question.

    python experiments/noise_level.py --out build/noise_level
    python experiments/noise_level.py --out build/blip --model Salesforce/blip-vqa-base \\
        --dataset cocoqa:FOLDER --images download --n 50 --draws 10

Runs offline in two minutes on the small model; stopped, the same command goes on. For each noise there is a
dataset, `NOISE.zarr`; what is computed from them is in `levels.zarr`, `noise_level.png` and `summary.md`:

total effect   how much of the answer's probability the noise takes away, and the median share of it.
overtaken      Share of draws in which the token that came second in the clean run beats the answer's first token.
               The answer has then changed; how often another token wins was not stored, but where the answer's
               probability is above one half none can. So the share of answers that begin otherwise lies between
               `overtaken` and `open`, the share of draws where the second is ahead or the probability at most 0.5.
Γ              relevance averaged over layers and tokens, of the examples of which the noise takes away at least
               `--threshold` (mean over draws).
agreement      Pearson's correlation of two maps of one example: mean indirect effect of even and of odd draws.
               Draws needed: how many, averaged, are expected to agree with as many others to 0.9 (Spearman-Brown).

ν is recommended by a rule: the smallest at which the median share of the probability that is lost is at least
one half. Weaker noise leaves the answer in place; stronger noise leads the model farther away from what it was
trained on and makes maps agree less. The agreement is no part of the rule, as more draws always raise it.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import xarray as xr
from common import (
    STYLES,
    bounds,
    by_type,
    diagnoses,
    examples_of,
    interval,
    intervals_are,
    legend,
    load,
    opened,
    parser,
    passed_over,
    remembered,
    table,
    tidy,
)
from matplotlib.figure import Figure

import nnblip
from nnblip.effects import THRESHOLD
from nnblip.noise import NOISES, get_noise
from nnblip.results import save
from nnblip.sites import TEXT_COMPONENTS

LOST = 0.5  # the rule: the share that must be lost
AGREE = 0.9
ALL = "all questions"
AGREEMENT = {name: f"agreement, {name.replace('_', ' ')}" for name in TEXT_COMPONENTS}
GAMMA = {name: f"Γ {name.replace('_', ' ')}" for name in TEXT_COMPONENTS}
SHARE, EVERYWHERE = (0.0, 1.0), (-np.inf, np.inf)
MEASURES = ["total effect", "overtaken", "open", *GAMMA.values(), *AGREEMENT.values()]

# ---- numbers ---------------------------------------------------------------------------------


def agreement(effect: xr.DataArray) -> xr.DataArray:
    """How far the mean maps of even and of odd draws correlate, for each example and ν; padding is left out."""
    first, second = (effect.isel(draw=slice(at, None, 2)).mean("draw") for at in (0, 1))
    return xr.corr(first, second, ("layer", "token"))


def measured(tree: xr.DataTree, threshold: float) -> xr.Dataset:
    """Every measure of every example and ν, most of them for each draw."""
    total, corrupted = nnblip.total_effect(tree)["corrupted"].probability, tree["corrupted"]
    behind = corrupted.logit_difference < 0
    known = corrupted.probability.notnull()  # what failed is no answer that stayed
    gamma, effect = nnblip.gamma(tree, threshold).sel(kind="block"), nnblip.indirect_effect(tree)
    found = {
        "total effect": total,
        "overtaken": behind.where(known),
        "open": (behind | (corrupted.probability <= 0.5)).where(known),
        **{title: gamma[name] for name, title in GAMMA.items()},
        "share lost": total.mean("draw") / tree["clean"].probability,
    }
    if tree.sizes["draw"] > 1:
        found |= {title: agreement(effect[name].probability.sel(kind="block")) for name, title in AGREEMENT.items()}
    return xr.Dataset({name: values.reset_coords(drop=True) for name, values in found.items()})


def levels_of(tree: xr.DataTree, groups: list[str], threshold: float) -> xr.Dataset:
    """Means with intervals over the examples of each type, (group, nu, bound), and the median share lost."""
    every, types = measured(tree, threshold), tree.question_type.values
    labels = {"group": groups, "nu": tree.nu.values, "bound": ["mean", "low", "high"]}
    levels = xr.Dataset(
        {name: (list(labels), np.full((len(groups), tree.sizes["nu"], 3), np.nan)) for name in MEASURES}
    )
    levels = levels.assign_coords(labels)
    median = xr.full_like(levels["total effect"].isel(bound=0, drop=True), np.nan)
    defined = median.copy()
    for group in groups:
        here = every.isel(example=(types == group) | (group == ALL))
        median.loc[group] = here["share lost"].median("example")
        defined.loc[group] = here[GAMMA["question_encoder"]].notnull().sum("example")
        for name in MEASURES:
            if name in here:  # Γ is a share, of which nothing bounds the range
                support = {**dict.fromkeys(GAMMA.values(), EVERYWHERE), "overtaken": SHARE, "open": SHARE}.get(name)
                levels[name].loc[group] = bounds(here[name].astype(float), support)
    return levels.assign({"median share lost": median, "examples with Γ": defined})


def recommended(levels: xr.Dataset) -> float | None:
    """The smallest ν of one noise and group that fits the rule."""
    fit = levels.nu.values[levels["median share lost"].values >= LOST]
    return float(fit.min()) if fit.size else None


def draws_needed(agreement: float, draws: int) -> str:
    """By Spearman and Brown: how many draws agree to `AGREE` with as many others, if half of `draws` agree so far."""
    if np.isnan(agreement):
        return ""
    if agreement <= 0:
        return "not to be told"
    if agreement >= 1:
        return "1"
    return str(max(1, math.ceil(draws // 2 * AGREE * (1 - agreement) / (agreement * (1 - AGREE)))))


# ---- figure ----------------------------------------------------------------------------------


def plot(levels: dict[str, xr.Dataset]) -> Figure:
    rows = ["total effect", "overtaken", *GAMMA.values(), *AGREEMENT.values()]
    figure = Figure(figsize=(1.2 + 2.1 * max(len(levels), 2), 1.7 * len(rows) + 0.9), layout="constrained")
    panels = figure.subplots(len(rows), len(levels), sharex=True, sharey="row", squeeze=False)
    for column, (noise, data) in enumerate(levels.items()):
        data, best = data.sortby("nu"), recommended(data.sel(group=ALL))
        for name, axes in zip(rows, panels[:, column], strict=True):
            for group, (colour, marker) in zip(data.group.values[1:], STYLES * len(data.group), strict=False):
                line = data[name].sel(group=group, bound="mean")
                axes.plot(range(data.sizes["nu"]), line, f"{marker}-", color=colour, ms=3, lw=0.8, label=group)
            mean, low, high = data[name].sel(group=ALL).values.T
            style = dict(color="black", lw=1.6, elinewidth=1, capsize=2, label=f"{ALL}, 95 % interval")
            axes.errorbar(range(len(mean)), mean, (mean - low, high - mean), **style)
            if best is not None:
                axes.axvline(data.nu.values.tolist().index(best), color="0.8", lw=5, zorder=0)
            title = f"{noise}, recommended: {'none' if best is None else f'{best:g}'}" if name == rows[0] else ""
            y = name.replace(", ", ",\n").replace("Γ ", "Γ\n") if column == 0 else ""
            tidy(axes, title, "noise factor ν" if name == rows[-1] else "", y)
            axes.set_xticks(range(data.sizes["nu"]), [f"{nu:g}" for nu in data.nu.values])
            if np.isnan(data[name]).all():
                axes.text(0.5, 0.5, "one draw", transform=axes.transAxes, ha="center", va="center", fontsize=8)
    for row, name in enumerate(rows):
        if name in GAMMA.values():  # the interval of two or three examples may be many times as wide as all else
            means = np.concatenate([data[name].sel(bound="mean").values.ravel() for data in levels.values()])
            if np.isfinite(means).any():
                panels[row, 0].set_ylim(np.nanmin(means) - 0.1, np.nanmax(means) + 0.1)
    legend(figure, panels[0, 0])
    return figure


# ---- summary ---------------------------------------------------------------------------------


def row_of(at: xr.Dataset) -> list[str]:
    """The cells of a table for one noise, group and ν."""
    cells = [interval(at["total effect"].values), f"{at['median share lost'].item():.2f}"]
    cells += [f"{at['overtaken'].sel(bound='mean').item():.2f} to {at['open'].sel(bound='mean').item():.2f}"]
    cells += [interval(at[name].values) for name in GAMMA.values()] + [str(int(at["examples with Γ"]))]
    for name in AGREEMENT.values():
        cells += [interval(at[name].values), draws_needed(at[name].sel(bound="mean").item(), at.attrs["draws"])]
    return cells


def summary(levels: dict[str, xr.Dataset], trees: dict[str, xr.DataTree], told: str, threshold: float) -> str:
    first = next(iter(trees.values()))
    failed = {noise: int((tree.status == "failed").sum()) for noise, tree in trees.items()}
    untraced = ", ".join(f"{count} ({noise})" for noise, count in failed.items())
    head = ["total effect", "median share lost", "answer begins otherwise", *GAMMA.values(), "n"]
    for title in AGREEMENT.values():
        head += [title, "draws needed"]
    text = f"""{first.sizes["example"]} examples, {first.attrs["model"]}. Means over examples of means over draws, \
with {intervals_are(first.sizes["example"])}. Could not be traced: {untraced}.

{told}

## Recommended ν

The smallest ν at which the median share of the answer's probability that is lost is at least {LOST:g}.

"""
    groups = next(iter(levels.values())).group.values
    best = {noise: {group: recommended(data.sel(group=group)) for group in groups} for noise, data in levels.items()}
    rows = [["questions", *(f"{noise} ({trees[noise].sizes['draw']} draws)" for noise in levels)]]
    for group in groups:
        found = [best[noise][group] for noise in levels]
        rows.append([group, *("none" if nu is None else f"{nu:g}" for nu in found)])
    text += table(*rows).replace("(1 draws)", "(1 draw)")
    for noise, data in levels.items():
        by_nu = [["ν", *head], *([f"{nu:g}", *row_of(data.sel(group=ALL, nu=nu))] for nu in data.nu.values)]
        shown = best[noise][ALL] or float(data.nu.max())
        why = "recommended" if best[noise][ALL] else "the largest; none is recommended"
        types = [["questions", *head], *([group, *row_of(data.sel(group=group, nu=shown))] for group in groups[1:])]
        text += f"\n\n## {noise}\n\n{table(*by_nu)}\n\nAt ν = {shown:g} ({why}):\n\n{table(*types)}"
    return f"""{text}

"Answer begins otherwise" is known between two bounds: the second of the clean run is ahead; or it is, or the answer's \
probability is at most one half. n: examples of which the noise takes away at least {threshold:g}, of which alone Γ \
is the mean. Draws needed: for two maps of one example to agree to {AGREE:g}, each the mean of so many draws.

{diagnoses(**trees)}
"""


def main() -> None:
    arguments = parser(__doc__, n=4, per="type", draws=6)
    arguments.add_argument("--nu", type=float, nargs="+", default=[0.5, 1.0, 2.0, 3.0, 5.0, 10.0])
    noises = [name for name in NOISES if name != "swap"]  # which needs partners
    some = ["multiplicative", "additive", "uniform", "scale"]
    arguments.add_argument("--noise", nargs="+", choices=noises, default=some)
    arguments.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="the least mean total effect that has a Γ"
    )
    run(arguments.parse_args())


def run(args: argparse.Namespace) -> None:
    model, sets = load(args), opened(args)
    chosen = remembered(args, lambda: by_type(model, sets, args.n, args.seed))
    examples = examples_of(chosen, sets)
    groups = [ALL, *(one.group for one in chosen if one.ids)]
    trees, levels = {}, {}
    for noise in args.noise:
        varied = get_noise(noise).unit((1, 2, 2), np.random.default_rng(0)).any()  # else all draws are alike
        draws, out = args.draws if varied else 1, args.out / f"{noise}.zarr"
        trees[noise] = nnblip.sweep(model, examples, out, args.nu, draws, noise, seed=args.seed)
        levels[noise] = levels_of(trees[noise], groups, args.threshold).assign_attrs(draws=draws)
    save(xr.DataTree.from_dict(dict(levels)), args.out / "levels.zarr", overwrite=True)
    plot(levels).savefig(args.out / "noise_level.png", dpi=200)
    text = summary(levels, trees, passed_over(chosen, sets), args.threshold)
    (args.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
