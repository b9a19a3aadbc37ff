#!/usr/bin/env python
"""Do answers to different types of questions come from different places?

    nnblip experiment question_types
    nnblip experiment question_types --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER \\
        --images download --nu 5 --n 100

Questions of different types have different words, so tokens are aligned by their role (`nnblip.roles`): the effect
of a role is the mean over the words that have it. Cells that restore by construction are left out. Numbers are
indirect effects on P(answer), means over examples of means over draws.

Each image is asked about once, so that examples are independent, those of different types too. For each two types the
difference of every layer and role is tested by permutation, with the correction of `effects.compare` for all cells of
a map and by Holm for all pairs and components together. The strongest cell of a type is chosen by one half of its
examples and measured on the other (`effects.picked`); where the halves choose different cells, none is named.
"""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import nnblip
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import ALPHA, above, differ, everywhere, holm, of_several
from nnblip.experiments.figures import tidy
from nnblip.experiments.maps import by_role, enough, later_minus_earlier, of_type, strongest
from nnblip.experiments.numbers import bounds, compared, intervals_are, mean
from nnblip.experiments.texts import table


def maps_of(effect: xr.DataArray, own: np.ndarray, types: list[str]) -> xr.Dataset:
    """Of each type the mean of each cell with its interval, and `units`, of how many examples: (type, layer, role)."""
    every = [bounds(of_type(effect, own, one)) for one in types]
    return xr.concat(every, xr.Variable("type", types))


def plot(maps: dict[str, xr.Dataset], title: str) -> Figure:
    """A row for each component, a panel for each type: layers by roles. Hatched: fewer examples than are ranked."""
    types = next(iter(maps.values())).type.values
    largest = max(float(np.nanmax(np.abs(data.value.values))) for data in maps.values())
    norm = dict(cmap="RdBu_r", vmin=-max(largest, 0.01), vmax=max(largest, 0.01))
    roles = [data.value.dropna("role", how="all").role.values for data in maps.values()]
    heights = [0.7 + 0.19 * len(one) for one in roles]
    size = (max(6.9, 2.2 + 1.15 * len(types)), 0.8 + sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(maps), len(types), squeeze=False, sharey="row", height_ratios=heights)
    for row, ((name, data), own) in enumerate(zip(maps.items(), roles, strict=True)):
        for column, kind in enumerate(types):
            axes, one = panels[row, column], data.sel(type=kind, role=own).transpose("role", "layer", ...)
            axes.set_facecolor("0.9")
            mesh = axes.pcolormesh(np.ma.masked_invalid(one.value.values), edgecolors="white", linewidth=0.3, **norm)
            for role, layer in np.argwhere((one.units.values > 0) & (one.units.values < MIN_EXAMPLES)):
                axes.add_patch(Rectangle((layer, role), 1, 1, fill=False, hatch="/////", edgecolor="0.3", linewidth=0))
            tidy(axes, f"{kind}\nn = {int(one.units.max())}" if row == 0 else "", "layer" if row else "")
            if column == 0:
                axes.set_ylabel(name.replace("_", " "), fontsize=8)
            step = -(-one.sizes["layer"] // 6)
            axes.set_xticks(np.arange(0, one.sizes["layer"], step) + 0.5, one.layer.values[::step])
            axes.set_yticks(np.arange(len(own)) + 0.5, own)
            axes.set_ylim(len(own), 0)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=panels, aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.set_ylabel("mean indirect effect on P(answer)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def run(run: Run) -> None:
    chosen = run.choose(groups=2)
    tree = run.sweep("result", [example for group in chosen for example in group.examples])
    types = [group.name for group in chosen]
    ranked = [group.name for group in chosen if len(group.examples) >= MIN_EXAMPLES]
    own, cells = tree.question_type.values, by_role(tree)
    maps = {component: maps_of(effect, own, types) for component, effect in cells.items()}

    def of(component: str, kind: str) -> xr.DataArray:
        return of_type(cells[component], own, kind)

    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0)
    rows = [["questions", "total effect", *(f"{c.replace('_', ' ')}: strongest, its effect" for c in cells)]]
    for kind in types:
        where = ["too few"] * len(cells)
        if kind in ranked:
            found = [strongest(of(c, kind), ("layer", "role"))[:2] for c in cells]
            where = [name if value is None else f"{name}: {value}" for name, value in found]
        rows.append([kind, str(mean(of_type(total, own, kind))), *where])
    run.section(
        "Where",
        f"Indirect effects on P(answer), with {intervals_are()}. The strongest cell is chosen by one half of the"
        f" examples and measured on the other. Cells that restore by construction are left out.\n\n{table(*rows)}",
    )

    sets = {group.name: group.source for group in chosen}
    pairs = {
        f"{a} − {b}, {c.replace('_', ' ')}": compared(enough(of(c, a)), enough(of(c, b)), paired=False)
        for c in cells
        for a, b in combinations(ranked, 2)
        if sets[a] == sets[b]  # data sets are compared by cross_dataset
    }
    corrected = holm({name: float(data.p_corrected.min()) for name, data in pairs.items()})
    rows = [["difference", "smallest corrected p", "cells that differ", "the surest of them"]]
    for name, data in pairs.items():
        sure = (data.p_corrected * len(pairs) < ALPHA).values  # of single cells Holm's steps promise nothing
        rows.append(
            [
                name,
                f"{corrected[name]:.3g}",
                f"{int(sure.sum())} of {data.p.notnull().values.sum()}",
                surest(data, sure),
            ]
        )
    run.section(
        "Differences",
        f"Permutation tests of {len(pairs)} pairs, corrected for all layers and roles of each (of at"
        f" least {MIN_EXAMPLES} examples of either type) and for all pairs"
        f" (by Holm; single cells by Bonferroni); intervals of single differences are not corrected.\n\n{table(*rows)}",
    )
    run.claim("differ", differ(pairs, "pairs of types"))
    level = of_several(len(ranked) * len(cells))
    later = {c: later_minus_earlier(effect) for c, effect in cells.items()}
    halves = {
        f"{kind}, {c.replace('_', ' ')}": mean(of_type(later[c], own, kind), level=level)
        for c in cells
        for kind in ranked
    }
    rows = [["questions", "later minus earlier half"], *([name, str(found)] for name, found in halves.items())]
    run.section(
        "Layers",
        "Mean indirect effect of the later half of the layers minus that of the earlier half, mean over roles;"
        f" intervals hold together with 95 %.\n\n{table(*rows)}",
    )
    run.claim("late", everywhere({name: above(found, 0, "later minus earlier half") for name, found in halves.items()}))

    run.keep("maps", xr.DataTree.from_dict({**maps, "differences": joined(pairs)}))
    o = run.options
    run.figure("maps", plot(maps, f"{o.noise[0]}, ν = {o.nu[0]:g}, {o.draws} draws; hatched: too few examples to rank"))


def joined(pairs: dict[str, xr.Dataset]) -> xr.Dataset:
    """All differences as one, (pair, layer, role); NaN where types do not have a role both."""
    return xr.concat(list(pairs.values()), xr.Variable("pair", list(pairs)), join="outer", combine_attrs="override")


def surest(data: xr.Dataset, sure: np.ndarray) -> str:
    """The cell of the smallest p among those that differ, with the interval of its difference."""
    if not sure.any():
        return "none"
    flat = data.stack(cell=list(data.p.dims))
    at = flat.isel(
        cell=int(
            np.nanargmin(np.where(sure.ravel(), flat.p_corrected.values - abs(flat.difference.values) * 1e-9, np.nan))
        )
    )
    layer, role = (at[name].item() for name in ("layer", "role"))
    return f"layer {layer}, {role}: {at.difference.item():+z.3f} [{at.low.item():+z.3f}, {at.high.item():+z.3f}]"


EXPERIMENT = Experiment(
    name="question_types",
    question="Do answers to different types of questions come from different places?",
    claims={
        "differ": "The maps of at least two types of questions differ",
        "late": "For every type, later layers matter more than earlier ones",
    },
    run=run,
    figure="maps",
    defaults=Defaults(n=12),
    needs=("types", "images"),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
