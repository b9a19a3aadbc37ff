#!/usr/bin/env python
"""Do answers to different types of questions come from different places? Maps by type, and their differences.

    python experiments/question_types.py --out build/question_types
    python experiments/question_types.py --out build/blip --model Salesforce/blip-vqa-base \\
        --dataset cocoqa:FOLDER --images download --nu 5 --n 100

Runs offline in a minute on the small model (with the ν that noise_level.py recommends for it); stopped, the same
command goes on. Writes the dataset (`result.zarr`), the maps and differences (`maps.zarr`), figures and `summary.md`.

Questions of different types have different words, so tokens are aligned by their role (`nnblip.roles`): the effect
of a role is the mean over the tokens that have it. Cells that restore by construction are left out. Numbers are
indirect effects on P(answer), means over examples of means over draws. The examples of two types are independent, so
the interval of a difference is Welch's, and each map's differences hold together with 95 % (Bonferroni over its cells).
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import xarray as xr
from common import (
    bounds,
    by_type,
    diagnoses,
    examples_of,
    interval,
    intervals_are,
    load,
    opened,
    parser,
    passed_over,
    remembered,
    table,
    tidy,
)
from matplotlib.figure import Figure
from scipy.special import stdtrit

import nnblip
from nnblip.effects import by_role, structural
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.results import save
from nnblip.sites import TEXT_COMPONENTS

# ---- numbers ---------------------------------------------------------------------------------


def maps_of(effect: xr.DataArray, own: np.ndarray, types: list[str]) -> xr.Dataset:
    """Of each type the mean map (type, layer, role), its interval, the variance of the mean, and of how many examples.

    Args:
        effect: of each example, (example, draw, layer, role); NaN where its question has no word of the role.
        own: the type of each example.
        types: in the order in which they are shown.
    """
    effect, found = effect.mean("draw"), []
    for one in types:
        here = effect.isel(example=np.flatnonzero(own == one))
        count = here.notnull().sum("example")
        mean, low, high = np.moveaxis(bounds(here), -1, 0)
        maps = {"mean": mean, "low": low, "high": high}
        data = xr.Dataset({name: (("layer", "role"), values) for name, values in maps.items()}, {"layer": here.layer})
        error = here.var("example", ddof=1) / count.where(count > 1)
        found.append(data.assign(error=error, examples=count).reset_coords(drop=True))
    return xr.concat(found, xr.Variable("type", types))


def contrast(maps: xr.Dataset, weights: xr.DataArray) -> xr.Dataset:
    """A weighted sum of the types' maps, weights (type, role), with Welch's interval, by Bonferroni for all cells."""
    used = weights != 0

    def summed(values: xr.DataArray) -> xr.DataArray:
        return values.where(used, 0.0).sum("type", skipna=False)

    value, error = summed(maps["mean"] * weights), summed(maps.error * weights**2)
    freedom = error**2 / summed((maps.error * weights**2) ** 2 / (maps.examples - 1))
    half = stdtrit(freedom, 1 - 0.025 / max(1, int(value.notnull().sum()))) * np.sqrt(error)
    enough = ((maps.examples >= MIN_EXAMPLES) | ~used).all("type")
    half = half.where(error != 0, 0.0).where(enough)  # 0: all examples alike
    return xr.Dataset({"difference": value, "low": value - half, "high": value + half})


def from_others(maps: xr.Dataset) -> xr.Dataset:
    """Each type minus the mean of the other types; for each role of those that have it."""
    have = (maps.examples > 0).any("layer")
    found = []
    for one in maps.type.values:
        this = maps.type == one
        others = have & ~this
        found.append(contrast(maps, xr.where(this, 1.0, others / -others.sum("type"))))  # without others NaN
    return xr.concat(found, maps.type)


def pairs(maps: xr.Dataset) -> xr.Dataset:
    """The difference of each two types."""
    names = list(combinations(maps.type.values.tolist(), 2))
    sign = [(maps.type == a) * 1.0 - (maps.type == b) for a, b in names]
    every = [contrast(maps, one.expand_dims(role=maps.role)) for one in sign]
    return xr.concat(every, xr.Variable("pair", [f"{a} - {b}" for a, b in names]))


def correlation(maps: xr.Dataset, a: str, b: str) -> float:
    """Of two mean maps over the layers and roles that both have."""
    return xr.corr(*(maps["mean"].sel(type=one) for one in (a, b))).item()


# ---- figures ---------------------------------------------------------------------------------


def plot(values: xr.DataArray, marked: xr.DataArray | None, examples: xr.DataArray, title: str) -> Figure:
    """One panel for each type, layers by roles; a dot where `marked`."""
    values = values.dropna("role", how="all")
    types, bound = values.type.values, max(float(np.abs(values).max()), 0.01)
    columns = min(4, len(types))
    rows, roles = -(-len(types) // columns), values.role.values
    size = (1.6 + 0.7 + columns * (0.5 + 0.2 * values.sizes["layer"]), 0.9 + rows * (0.6 + 0.2 * len(roles)))
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.ravel()[len(types) :]:
        axes.set_axis_off()
    for at, (name, axes) in enumerate(zip(types, panels.ravel(), strict=False)):
        one = values.sel(type=name).transpose("role", "layer")
        axes.set_facecolor("0.9")
        norm = dict(cmap="RdBu_r", vmin=-bound, vmax=bound)
        mesh = axes.pcolormesh(np.ma.masked_invalid(one.values), edgecolors="white", linewidth=0.4, **norm)
        if marked is not None:
            role, layer = np.nonzero(marked.sel(type=name, role=values.role).transpose("role", "layer").values)
            axes.plot(layer + 0.5, role + 0.5, "o", color="black", markersize=2)
        tidy(axes, f"{name}, n = {int(examples.sel(type=name).max())}", "layer" if at + columns >= len(types) else "")
        axes.set_xticks(np.arange(values.sizes["layer"]) + 0.5, values.layer.values)
        axes.set_yticks(np.arange(len(roles)) + 0.5, roles)
        axes.set_ylim(len(roles), 0)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=panels, aspect=25, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, width=0.6, length=3)
    return figure


# ---- summary ---------------------------------------------------------------------------------


def largest(data: xr.Dataset) -> str:
    """Where two types differ most, with the interval that holds for all cells, and how many of these are without 0."""
    flat = data.stack(cell=("layer", "role")).dropna("cell", subset=["difference"])
    if not flat.sizes["cell"]:
        return "no role in common"
    at = flat.isel(cell=int(np.abs(flat.difference.values).argmax()))
    layer, role = at.cell.item()
    sure = int(((flat.low > 0) | (flat.high < 0)).sum())
    found = at.difference.item(), at.low.item(), at.high.item()
    return f"{interval(found)} (layer {layer}, {role}); {sure} of {flat.sizes['cell']}"


def summary(tree: xr.DataTree, maps: dict[str, xr.Dataset], told: str) -> str:
    types = next(iter(maps.values())).type.values.tolist()
    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0)
    head = [name.replace("_", " ") for name in maps]
    rows = [["questions", "n", "total effect", *(f"{name}: strongest role" for name in head)]]
    for one in types:
        here = total.isel(example=np.flatnonzero(tree.question_type == one))
        cells = [one, str(int(here.notnull().all("draw").sum())), interval(bounds(here))]
        for data in maps.values():
            flat = data.sel(type=one).stack(cell=("layer", "role")).dropna("cell", subset=["mean"])
            at = flat.isel(cell=int(flat["mean"].values.argmax()))
            layer, role = at.cell.item()
            found = at["mean"].item(), at.low.item(), at.high.item()
            cells.append(f"{interval(found)} (layer {layer}, {role})")
        rows.append(cells)
    text = f"""{tree.attrs["model"]}, ν = {tree.nu.item():g}, {tree.sizes["draw"]} draws. Indirect effects on \
P(answer): means over examples of means over draws, with {intervals_are(max(len(types), 2))}. Could not be traced: \
{int((tree.status == "failed").sum())}.

{told}

## Where

{table(*rows)}

The strongest of many is rather too large. Cells that restore by construction are left out. A role may be missing in \
some of the questions: `examples` in `maps.zarr`.

## Differences

For each two types the correlation of their maps over the layers and roles that both have, the cell in which they \
differ most (first minus second), and in how many of all cells the interval is without 0. All intervals of a map hold \
together with 95 %, and each type has at least {MIN_EXAMPLES} examples, or there is none.
"""
    for data, spoken in zip(maps.values(), head, strict=True):
        rows, between = [["questions", "correlation", "largest difference; intervals without 0"]], pairs(data)
        for (a, b), pair in zip(combinations(types, 2), between.pair.values, strict=True):
            rows.append([f"{a} − {b}", f"{correlation(data, a, b):+z.2f}", largest(between.sel(pair=pair))])
        text += f"\n### {spoken}\n\n{table(*rows)}\n" if len(types) > 1 else f"\n{spoken}: one type only.\n"
    return f"{text}\n{diagnoses(result=tree)}\n"


def main() -> None:
    arguments = parser(__doc__, n=16, per="type", draws=10)
    arguments.add_argument("--nu", type=float, default=3.0)
    arguments.add_argument("--noise", default="multiplicative")
    run(arguments.parse_args())


def run(args: argparse.Namespace) -> None:
    model, sets = load(args), opened(args)
    chosen = remembered(args, lambda: by_type(model, sets, args.n, args.seed))
    examples = examples_of(chosen, sets)
    tree = nnblip.sweep(model, examples, args.out / "result.zarr", args.nu, args.draws, args.noise, seed=args.seed)
    types = [one.group for one in chosen if one.ids]
    settings = f"{args.noise}, ν = {args.nu:g}, mean of {args.draws} draws"
    effects, given, maps, nodes = nnblip.indirect_effect(tree), structural(tree), {}, {}
    for component in TEXT_COMPONENTS:
        effects[component].dataset = effects[component].to_dataset().where(~given[component].structural)
    effects = by_role(effects)
    for component in TEXT_COMPONENTS:
        data = maps[component] = maps_of(
            effects[component].probability.isel(nu=0).sel(kind="block"), tree.question_type.values, types
        )
        others = from_others(data)
        sure = (others.low > 0) | (others.high < 0)
        name = component.replace("_", " ")
        title = f"{name}: indirect effect on P(answer), {settings}"
        plot(data["mean"], None, data.examples, title).savefig(args.out / f"{component}.png", dpi=200)
        nodes[component] = data
        if len(types) > 1:
            nodes |= {f"{component}_from_others": others, f"{component}_pairs": pairs(data)}
            title = f"{name}: each type minus the mean of the others, {settings}; dot: interval without 0"
            plot(others.difference, sure, data.examples, title).savefig(
                args.out / f"{component}_differences.png", dpi=200
            )
    save(xr.DataTree.from_dict(nodes), args.out / "maps.zarr", overwrite=True)
    text = summary(tree, maps, passed_over(chosen, sets))
    (args.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
