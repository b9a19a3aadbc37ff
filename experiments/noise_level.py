#!/usr/bin/env python
"""How strong should the noise be?

    nnblip experiment noise_level
    nnblip experiment noise_level --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download \\
        --n 50 --draws 10 --nu 0.5 1 2 3 5 10

For each noise there is a dataset, `NOISE.zarr`, over a ladder of ν; what is computed from them is in `levels.zarr`, in
a figure for each measure and in `summary.md`:

share lost     how much of the answer's probability the noise takes away: mean over the examples of the total effect,
               of which the draws are averaged, divided by the clean probability.
overtaken      share of draws in which the token that came second in the clean run beats the answer's first token.
               The answer has then changed; how often another token wins was not stored, but where the answer's
               probability is above one half none can. So the share of answers that begin otherwise lies between
               `overtaken` and `open`, the share of draws where the second is ahead or the probability at most 0.5.
Γ              relevance averaged over layers and tokens, of the examples of which the noise takes away at least
               0.05 (mean over draws); blank where it does so in none.
agreement      Pearson's correlation of two maps of one example: mean indirect effect of even and of odd draws.

ν is recommended by a rule: the smallest of the ladder at which the mean share of the probability that is lost is at
least one half. Weaker noise leaves the answer in place; stronger noise leads the model farther away from what it was
trained on and makes maps agree less. The agreement is no part of the rule, as more draws always raise it.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nnblip
from nnblip.effects import THRESHOLD
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import OPEN, Verdict, above, alike, everywhere, of_several
from nnblip.experiments.figures import MOST_LINES, legend, line, near_means, tidy
from nnblip.experiments.maps import of_type
from nnblip.experiments.numbers import SHARE, bounds, compared, intervals_are, mean
from nnblip.experiments.texts import table
from nnblip.noise import get_noise
from nnblip.sites import TEXT_COMPONENTS

LOST = 0.5  # the rule: the share that must be lost
MARGIN = 0.05  # Γ that differ by less are taken for the same
PAPER = ("multiplicative", 5.0)  # of Palit et al. 2023
ALL = "all questions"
AGREEMENT = {name: f"agreement, {name.replace('_', ' ')}" for name in TEXT_COMPONENTS}
GAMMA = {name: f"Γ, {name.replace('_', ' ')}" for name in TEXT_COMPONENTS}
LOSS = (-np.inf, 1.0)  # what is there can be lost
SUPPORT = {
    "share lost": LOSS,
    "total effect": (-1.0, 1.0),
    "overtaken": (0.0, 1.0),
    "open": (0.0, 1.0),
    **dict.fromkeys(AGREEMENT.values(), (-1.0, 1.0)),
}
#: One figure for each message, with a row for each measure.
FIGURES = {
    "damage": ["share lost", "overtaken"],
    "gamma": list(GAMMA.values()),
    "agreement": list(AGREEMENT.values()),
}


def agreement(effect: xr.DataArray) -> xr.DataArray:
    """How far the mean maps of even and of odd draws correlate, for each example and ν; padding is left out."""
    first, second = (effect.isel(draw=slice(at, None, 2)).mean("draw") for at in (0, 1))
    return xr.corr(first, second, ("layer", "token"))


def measured(tree: xr.DataTree) -> xr.Dataset:
    """Every measure of every example and ν, (example, nu); draws are averaged."""
    total, corrupted = nnblip.total_effect(tree)["corrupted"].probability, tree["corrupted"]
    behind = corrupted.logit_difference < 0
    known = corrupted.probability.notnull()  # what failed is no answer that stayed
    gamma, effect = nnblip.gamma(tree).sel(kind="block"), nnblip.indirect_effect(tree)
    found = {
        "total effect": total.mean("draw"),
        "share lost": total.mean("draw") / tree["clean"].probability,
        "overtaken": behind.where(known).mean("draw"),
        "open": (behind | (corrupted.probability <= 0.5)).where(known).mean("draw"),
        **{title: gamma[name] for name, title in GAMMA.items()},
    }
    if tree.sizes["draw"] > 1:
        found |= {title: agreement(effect[name].probability.sel(kind="block")) for name, title in AGREEMENT.items()}
    return xr.Dataset({name: values.reset_coords(drop=True) for name, values in found.items()})


def levels_of(every: xr.Dataset, own: np.ndarray, groups: list[str]) -> xr.DataTree:
    """Of each measure the mean over the examples of each group with its interval, (group, nu)."""
    nodes = {}
    for name, values in every.items():
        support = SUPPORT.get(str(name), SHARE)
        parts = [bounds(values if group == ALL else of_type(values, own, group), support) for group in groups]
        nodes[str(name)] = xr.concat(parts, xr.Variable("group", groups))
    return xr.DataTree.from_dict(nodes)


def recommended(levels: xr.DataTree, group: str) -> float | None:
    """The smallest ν that fits the rule."""
    lost = levels["share lost"].to_dataset().sel(group=group)
    fit = lost.nu.values[lost.value.values >= LOST]
    return float(fit.min()) if fit.size else None


def plot(levels: dict[str, xr.DataTree], rows: list[str]) -> Figure:
    """A column for each noise: every group, and all questions with their interval."""
    rows = [row for row in rows if any(row in data.children for data in levels.values())]
    figure = Figure(figsize=(6.9, 2.1 * len(rows) + 1.0), layout="constrained")
    panels = figure.subplots(len(rows), len(levels), sharex=True, sharey="row", squeeze=False)
    for column, (noise, data) in enumerate(levels.items()):
        best = recommended(data, ALL)
        for name, axes in zip(rows, panels[:, column], strict=True):
            title = f"{noise}, recommended ν: {'none' if best is None else f'{best:g}'}" if name == rows[0] else ""
            tidy(axes, title, "noise factor ν" if name == rows[-1] else "", name if column == 0 else "")
            if name not in data.children:
                axes.text(0.5, 0.5, "all draws are alike", transform=axes.transAxes, ha="center", fontsize=8)
                continue
            found = data[name].to_dataset().sortby("nu")
            at = np.arange(found.sizes["nu"])
            groups = [group for group in found.group.values if group != ALL]
            for number, group in enumerate(groups if len(groups) < MOST_LINES else []):
                one = found.sel(group=group)
                line(axes, at, one.assign(low=one.value, high=one.value), number, str(group), aside=0)
            one = found.sel(group=ALL)
            error = np.nan_to_num(np.maximum([one.value - one.low, one.high - one.value], 0))
            axes.errorbar(at, one.value, error, color="black", lw=1.6, elinewidth=1, capsize=2, label=f"{ALL}, 95 %")
            if best is not None:
                axes.axvline(list(found.nu.values).index(best), color="0.85", lw=5, zorder=0)
            if np.isnan(one.value).all():
                axes.text(0.5, 0.5, "undefined: no effect", transform=axes.transAxes, ha="center", fontsize=8)
            axes.set_xticks(at, [f"{nu:g}" for nu in found.nu.values])
    for row, axes in zip(rows, panels[:, 0], strict=True):
        near_means(axes, [data[row].value.values for data in levels.values() if row in data.children])
    legend(figure, panels[0, 0])
    return figure


def row_of(data: xr.DataTree, group: str, nu: float) -> list[str]:
    """The cells of a table for one noise, group and ν."""

    def cell(name: str) -> str:
        if name not in data.children:
            return "all draws alike"
        one = data[name].to_dataset().sel(group=group, nu=nu)
        if np.isnan(one.value):
            return f"none: total effect below {THRESHOLD:g}" if name in GAMMA.values() else "none"
        if np.isnan(one.low):
            return f"{one.value:+z.3f} (n = {int(one.units)}, too few)"
        n = f", n = {int(one.units)}" if name in GAMMA.values() else ""
        return f"{one.value:+z.3f} [{one.low:+z.3f}, {one.high:+z.3f}]{n}"

    begins = [f"{data[name].to_dataset().value.sel(group=group, nu=nu).item():.2f}" for name in ("overtaken", "open")]
    return [cell("share lost"), " to ".join(begins), *map(cell, [*GAMMA.values(), *AGREEMENT.values()])]


HEAD = ["share lost", "answer begins otherwise", *GAMMA.values(), *AGREEMENT.values()]


def run(run: Run) -> None:
    chosen = run.choose()
    examples = [example for group in chosen for example in group.examples]
    groups = [ALL, *(group.name for group in chosen)]
    levels: dict[str, xr.DataTree] = {}
    measures: dict[str, xr.Dataset] = {}
    for noise in run.options.noise:
        varied = get_noise(noise).unit((1, 2, 2), np.random.default_rng(0)).any()  # else all draws are alike
        tree = run.sweep(noise, examples, noise=noise, draws=run.options.draws if varied else 1)
        own = tree.question_type.values
        measures[noise] = measured(tree)
        levels[noise] = levels_of(measures[noise], own, groups)
    run.keep("levels", xr.DataTree.from_dict({f"{noise}/{n}": node.to_dataset() for noise, data in levels.items()
                                              for n, node in data.children.items()}))  # fmt: skip
    for name, shown in FIGURES.items():
        if any(row in data.children for data in levels.values() for row in shown):
            run.figure(name, plot(levels, shown))

    best = {noise: {group: recommended(data, group) for group in groups} for noise, data in levels.items()}
    rows = [["questions", *levels]]
    rows += [
        [group, *("none" if best[n][group] is None else f"{best[n][group]:g}" for n in levels)] for group in groups
    ]
    run.section("Recommended ν", f"The smallest at which the mean share lost is at least {LOST:g}.\n\n{table(*rows)}")
    for noise, data in levels.items():
        nus = sorted(data["share lost"].nu.values.tolist())
        by_nu = table(["ν", *HEAD], *([f"{nu:g}", *row_of(data, ALL, nu)] for nu in nus))
        nu, why = best[noise][ALL], "recommended"
        if nu is None:
            nu, why = nus[-1], "the largest; none is recommended"
        types = table(["questions", *HEAD], *([group, *row_of(data, group, nu)] for group in groups[1:]))
        run.section(noise, f"All questions, with {intervals_are()}:\n\n{by_nu}\n\nAt ν = {nu:g} ({why}):\n\n{types}")
    claims(run, measures, best, own, groups)


def claims(
    run: Run, measures: dict[str, xr.Dataset], best: dict[str, dict[str, float | None]], own: np.ndarray,
    groups: list[str],
) -> None:  # fmt: skip
    noise, nu = PAPER
    asked = f"not asked: ν = {nu:g} of noise {noise}"
    half = Verdict(OPEN, asked)
    if noise in measures and nu in measures[noise].nu:
        half = above(mean(measures[noise]["share lost"].sel(nu=nu), LOSS), LOST, "mean share lost")
    run.claim("paper", half)

    first, every = next(iter(measures)), next(iter(measures.values()))
    chosen, strongest = best[first][ALL], float(every.nu.max())
    for name in ("types", "agree", "flat"):
        run.claim(name, Verdict(OPEN, f"noise {first}: no ν takes away half, or only the strongest does"))
    if chosen is None:
        return
    counts = {group: int((own == group).sum()) for group in groups[1:]}
    ranked = [group for group, count in counts.items() if count >= MIN_EXAMPLES]
    lost = every["share lost"].sel(nu=chosen)
    level = of_several(len(ranked))
    tests = {g: above(mean(of_type(lost, own, g), LOSS, level), LOST, "mean share lost") for g in ranked}
    run.claim("types", everywhere(tests))
    if chosen == strongest:
        return
    if set(AGREEMENT.values()) <= {*every}:
        level = of_several(len(AGREEMENT))
        differences = {
            name: every[title].sel(nu=chosen) - every[title].sel(nu=strongest) for name, title in AGREEMENT.items()
        }
        what = f"agreement at ν = {chosen:g} minus that at {strongest:g}"
        run.claim("agree", everywhere({n: above(mean(d, (-2.0, 2.0), level), 0, what) for n, d in differences.items()}))
    flat = {}
    for name, title in GAMMA.items():
        one, other = (every[title].sel(nu=at, drop=True).expand_dims(component=[name]) for at in (chosen, strongest))
        flat[name] = alike(
            compared(one, other, True, of_several(len(GAMMA))), MARGIN, f"Γ at ν = {chosen:g} minus at {strongest:g}"
        )
    run.claim("flat", everywhere(flat))


EXPERIMENT = Experiment(
    name="noise_level",
    question="How strong should the noise be?",
    claims={
        "paper": f"The paper's noise, {PAPER[0]} of ν = {PAPER[1]:g}, takes away more than half of P(answer)",
        "types": "At the ν recommended for all questions, every type loses more than half",
        "agree": "Maps of one example agree better at the recommended ν than at the strongest noise",
        "flat": f"From the recommended ν to the strongest noise, Γ changes by less than {MARGIN:g}",
    },
    run=run,
    figure="damage",
    defaults=Defaults(
        dataset=("scenes",),
        n=8,
        nu=(0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
        draws=6,
        noise=("multiplicative", "additive", "scale"),
    ),
    needs=("types", "images"),
    ladder=True,
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
