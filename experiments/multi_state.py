#!/usr/bin/env python
"""What do several states of BLIP restore together: windows, pairs, and the fewest states for half of the effect?

    python experiments/multi_state.py --out build/multi_state
    python experiments/multi_state.py --out build/blip --model Salesforce/blip-vqa-base

Runs offline in a minute on the small model. Each question has a dataset and a figure, and `summary.md` is
computed from the numbers:

windows   Does restoring a token in more neighbouring layers bring more back? Every window of every width in
          the question encoder (`result.zarr`, with the maps of single states). The decoder sees the picture
          only through the encoder's last layer, and the wider windows are, the more of them reach it: so those
          with one end are shown apart.
pairs     Do two states bring back more, or less, than the sum of each alone? The strongest token of every
          layer of both components, two at a time (`pairs.zarr`).
greedy    How few states of the question encoder restore half of the total effect? From nothing, always the
          state that raises the mean probability most (`greedy.zarr`); a smaller set may exist.

The best of many states on a few draws of the noise looks better there than it is: pairs and sets are chosen on
the draws of one seed and measured on those of another.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import xarray as xr
from common import bounds, diagnoses, interval, intervals_are, legend, table, tidy
from matplotlib.figure import Figure

import nnblip
from nnblip.effects import THRESHOLD, interaction
from nnblip.results import save
from nnblip.sites import TEXT_COMPONENTS, Site, pairs, windows

ENCODER = "question_encoder"
#: Not crossattention: what follows it in a layer works on each token by itself, so its windows are those of block.
KINDS = {"block": ("#0072B2", "o"), "attention": ("#D55E00", "s"), "crossattention_out": ("#009E73", "^")}
ENDS = ["all windows", "ending in the last layer", "ending one layer earlier"]
SEEDS = {"chosen": 0, "fresh": 1}
Trace = Callable[..., xr.DataTree]  # causal_trace with the model, ν and the number of draws

# ---- windows ---------------------------------------------------------------------------------


def window_curves(result: xr.DataTree) -> xr.DataArray:
    """Mean indirect effect with its interval, over the windows of a kind and width; NaN where there are none."""
    effect = nnblip.indirect_effect(result)["cells"].probability.isel(nu=0).transpose("example", "draw", "cell")
    end, layers = effect.layer + effect.width, int(effect.width.max())
    within = dict(zip(ENDS, (end > 0, end == layers, end == layers - 1), strict=True))
    labels = {"end": ENDS, "kind": list(KINDS), "width": range(1, layers + 1), "bound": ["mean", "low", "high"]}
    curves = xr.DataArray(np.nan, labels, list(labels))
    for where, kind, width in product(ENDS, KINDS, range(1, layers + 1)):
        here = within[where] & (effect.kind == kind) & (effect.width == width)
        if here.any():
            curves.loc[where, kind, width] = bounds(effect[..., here.values].mean("cell"))
    return curves


def plot_windows(curves: xr.DataArray) -> Figure:
    figure = Figure(figsize=(7.8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(ENDS), sharex=True, sharey=True)
    for axes, end in zip(panels, ENDS, strict=True):
        for at, (kind, (colour, marker)) in enumerate(KINDS.items()):
            mean, low, high = curves.sel(end=end, kind=kind).values.T
            aside = curves.width + 0.12 * (at - 1)  # so that the intervals do not cover each other
            style = dict(fmt=f"{marker}-", color=colour, markersize=4, linewidth=1.2, elinewidth=0.8)
            axes.errorbar(aside, mean, (mean - low, high - mean), label=kind, **style)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.set_xticks(curves.width)
        tidy(axes, end, "window width (layers)", "mean indirect effect, 95 % interval" if axes is panels[0] else "")
    legend(figure, panels[0])
    return figure


# ---- pairs -----------------------------------------------------------------------------------


def strongest(result: xr.DataTree) -> list[list[Site]]:
    """For each example the strongest token of every layer; not the decoder's last layer, which is the answer."""
    sites: list[list[Site]] = [[] for _ in result.example]
    for component in TEXT_COMPONENTS:
        effect = nnblip.indirect_effect(result)[component].probability.isel(nu=0, kind=0).mean("draw")
        for row, layers in zip(sites, effect.transpose("example", "layer", "token").values, strict=True):
            row += [Site(component, "block", at, int(np.nanargmax(tokens))) for at, tokens in enumerate(layers)]
    return [row[:-1] for row in sites]


def trace_pairs(trace: Trace, example: nnblip.Example, sites: list[Site]) -> xr.Dataset:
    """The `effect` of each state and each pair, and the `interaction` of each pair, on fresh draws."""
    tree = trace([example], cells=pairs(sites), seed=SEEDS["fresh"])
    states = [f"{site.component.replace('_', ' ')} {site.layer}" for site in sites]
    both = [f"{a} and {b}" for a, b in combinations(states, 2)]  # in the order of pairs()
    data = {
        "token": ("state", [site.token for site in sites]),
        "effect": (("draw", "cell"), nnblip.indirect_effect(tree)["cells"].probability.values[0, 0]),
        "interaction": (("draw", "pair"), interaction(tree).probability.values[0, 0]),
    }
    return xr.Dataset(data, {"state": states, "pair": both, "cell": states + both}, tree.attrs)


def plot_pairs(data: xr.Dataset) -> Figure:
    names, mean = data.state.values, data[["effect", "interaction"]].mean(("example", "draw"))
    values = np.diag(mean.effect.sel(cell=names).values)
    values.T[np.triu_indices(len(names), 1)] = mean.interaction
    bound = max(float(np.abs(mean.interaction).max()), 0.01)
    figure = Figure(figsize=(0.45 * len(names) + 2.0, 0.36 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.tri(len(names), k=-1), values, np.nan)
    axes.imshow(shown, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    for a, b in np.argwhere(np.tri(len(names))):
        box = dict(facecolor="0.9", edgecolor="none", pad=2.5) if a == b else None
        colour = "white" if abs(shown[a, b]) > 0.6 * bound else "black"
        axes.text(b, a, f"{values[a, b]:z.2f}", ha="center", va="center", fontsize=7, color=colour, bbox=box)
    tidy(axes, "Interaction of two layers' states on P(answer); grey: effect of one alone")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    return figure


# ---- greedy ----------------------------------------------------------------------------------


def greedy(trace: Trace, example: nnblip.Example, sites: list[Site], most: int) -> list[Site]:
    """Sites in the order in which they were added, until they restore half of the total effect or are `most`."""
    path: list[Site] = []
    while len(path) < most:
        left = [site for site in sites if site not in path]
        tree = trace([example], cells=[[*path, site] for site in left], seed=SEEDS["chosen"])
        means = tree["cells"].probability.mean("draw").values.ravel()
        path.append(left[means.argmax()])
        if means.max() >= (tree["clean"].probability + tree["corrupted"].probability.mean("draw")).item() / 2:
            break
    return path


def trace_greedy(trace: Trace, example: nnblip.Example, words: list[str], layers: int, most: int) -> xr.Dataset:
    """What the states that `greedy` finds restore, on the draws on which they were chosen and on fresh ones.

    `probability` is by step (0: corrupted) and `share` the part of the mean total effect that is back, `end` after
    the last step, `early` with all states before the last layer.
    """
    sites = [Site(ENCODER, "block", layer, token) for layer in range(layers) for token in range(len(words))]
    path = greedy(trace, example, sites, most)
    cells = [path[:step] for step in range(1, len(path) + 1)] + [sites[: -len(words)]]
    trees = [trace([example], cells=cells, seed=seed) for seed in SEEDS.values()]
    corrupted = np.stack([tree["corrupted"].probability.values[0, 0] for tree in trees])[..., None]
    restored = np.stack([tree["cells"].probability.values[0, 0] for tree in trees])
    clean = trees[0]["clean"].probability.item()
    share = np.concatenate([corrupted, restored], -1).mean(1)
    share = (share - share[:, :1]) / (clean - share[:, :1])
    data = {
        "clean": ((), clean),
        "probability": (("noise", "draw", "step"), np.concatenate([corrupted, restored[..., :-1]], -1)),
        "share": (("noise", "step"), share[:, :-1]),
        "end": ("noise", share[:, -2]),
        "early": ("noise", share[:, -1]),
        "states": ((), len(path)),
        "late": ((), sum(site.layer == layers - 1 for site in path)),  # how many of them are in the last layer
        "tokens": ((), len(words)),
        "site": ("step", ["", *(f"{site.layer}.{site.token} {words[site.token]}" for site in path)]),
    }
    return xr.Dataset(data, {"noise": list(SEEDS), "step": range(len(path) + 1)}, trees[0].attrs)


def plot_greedy(sets: xr.Dataset) -> Figure:
    """One panel for each example; the states that are added stand along its axis."""
    columns, lowest = min(4, sets.sizes["example"]), min(float(sets.share.min()), float(sets.early.min()))
    rows = -(-sets.sizes["example"] // columns)
    figure = Figure(figsize=(max(2.3 * columns + 0.5, 3.5), 2.4 * rows + 0.3), layout="constrained")
    for at in range(sets.sizes["example"]):
        one, axes = sets.isel(example=at), figure.add_subplot(rows, columns, at + 1)
        for noise, line, fill in (("chosen", "-", "#0072B2"), ("fresh", ":", "white")):
            label = "fresh draws" if noise == "fresh" else "draws on which the states were chosen"
            axes.plot(one.share.sel(noise=noise), f"o{line}", color="#0072B2", mfc=fill, markersize=4, label=label)
        early = one.early.sel(noise="fresh")
        axes.axhline(early, color="#D55E00", linestyle="--", label="all states before the last layer, fresh draws")
        axes.axhline(0.5, color="0.75", linewidth=0.8, zorder=0)
        title = f"{textwrap.fill(one.question.item(), 34)}:\n{one.answer.item()}"
        tidy(axes, title, y="" if at % columns else "share of total effect")
        ticks = range(one.states.item() + 1)
        axes.set_xticks(ticks, ["corrupted", *one.site.values[ticks[1:]]], rotation=90, fontsize=7)
        axes.margins(x=0.15)
        axes.set_ylim(lowest - 0.1, 1.1)
    legend(figure, axes)
    return figure


# ---- all three -------------------------------------------------------------------------------


def summary(result: xr.DataTree, curves: xr.DataArray, pair: xr.Dataset, sets: xr.Dataset) -> str:
    total = nnblip.total_effect(result)["corrupted"].probability.isel(nu=0).transpose("example", "draw")
    columns = [curves.sel(end=ENDS[0], kind=kind) for kind in KINDS]
    columns += [curves.sel(end=end, kind="block") for end in ENDS[1:]]
    by_width = [["width", *KINDS, *(f"block, {end}" for end in ENDS[1:])]]
    by_width += [[f"{w}", *(interval(curve.sel(width=w).values) for curve in columns)] for w in curves.width.values]

    mean = pair[["effect", "interaction"]].mean(("example", "draw"))
    strong = [["states", "each alone", "interaction"]]
    for name in mean.pair.values[np.argsort(-np.abs(mean.interaction.values))[:8]]:
        alone = ", ".join(f"{effect:+z.3f}" for effect in mean.effect.sel(cell=name.split(" and ")).values)
        extra = pair.interaction.sel(pair=name)
        strong.append([name, alone, interval(bounds(extra, (-2.0, 2.0)))])

    half = (sets.end >= 0.5).sum("example")
    found = [["question: answer", "states", "share", "fresh draws", "all before the last layer, fresh draws"]]
    for at in range(sets.sizes["example"]):
        one = sets.isel(example=at)
        path = f"{one.states.item()}: {', '.join(one.site.values[1 : one.states.item() + 1])}"
        shares = (*one.end.sel(noise=list(SEEDS)).values, one.early.sel(noise="fresh").item())
        found.append([f"{one.question.item()}: {one.answer.item()}", path, *(f"{share:+z.2f}" for share in shares)])

    return f"""{result.sizes["example"]} examples, {result.sizes["draw"]} draws, ν = {result.nu.item():g}, \
{result.attrs["model"]}. Effects are on P(answer): means over examples with \
{intervals_are(result.sizes["example"])}. The total effect is {interval(bounds(total))}.

## Windows of the question encoder

{table(*by_width)}

Means over tokens. Windows of crossattention would have the numbers of block.

## Pairs

Interaction is the effect of both minus the sum of each alone; below 0 either does what the other would. Fresh draws.

{table(*strong)}

The later of two states of the answer decoder replaces the earlier if the answer has one token: their interaction is
minus the earlier one's effect.

## Fewest states for half of the total effect

Greedy sets of the question encoder's blocks, each as layer.token and its text. They restore half in \
{half.sel(noise="chosen").item()} of {sets.sizes["example"]} examples on the draws on which they were chosen, and in \
{half.sel(noise="fresh").item()} on fresh draws. {sets.late.sum().item()} of their {sets.states.sum().item()} states \
are in the last layer: the decoder sees the picture only through it. In {(sets.late == sets.tokens).sum().item()} \
examples they hold all of its tokens, which is the clean answer by construction. All states before it together \
restore {sets.early.sel(noise="fresh").mean("example").item():+z.2f} of the total effect (mean over examples).

{table(*found)}

{diagnoses(result=result)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--model", help="hub id or folder; by default the small model")
    parser.add_argument("--nu", type=float, default=5.0)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--n", type=int, default=8, help="how many of the bundled scenes")
    parser.add_argument("--steps", type=int, default=12, help="the largest greedy set")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    model, examples = nnblip.BlipVQA(args.model), nnblip.demo.examples()[: args.n]
    layers = model.config.text_config.num_hidden_layers
    trace = partial(nnblip.causal_trace, model, nu=args.nu, draws=args.draws, progress=False)
    every = [windows(range(1, layers + 1), kind, ENCODER) for kind in KINDS]
    result = trace(examples, kinds=["block"], cells=every, seed=SEEDS["chosen"])
    save(result, args.out / "result.zarr")
    curves = window_curves(result)
    plot_windows(curves).savefig(args.out / "windows.png", dpi=200)

    total = nnblip.total_effect(result)["corrupted"].probability.isel(nu=0).mean("draw")
    there = np.flatnonzero(total >= THRESHOLD)  # elsewhere there is nothing to restore
    if not there.size:
        raise nnblip.NnblipError(f"noise of ν = {args.nu:g} takes away less than {THRESHOLD:g} in every example")
    examples, seen = [examples[at] for at in there], result.isel(example=there)
    texts = [[str(text) for text in row if text] for row in seen[ENCODER].token_text.values]  # without padding
    coords = {name: ("example", seen[name].values) for name in ("example", "question", "answer")}
    both = [trace_pairs(trace, *given) for given in zip(examples, strongest(seen), strict=True)]
    pair = xr.concat(both, "example").assign_coords(coords)
    found = [trace_greedy(trace, *given, layers, args.steps) for given in zip(examples, texts, strict=True)]
    sets = xr.concat(found, "example", join="outer", fill_value={"site": ""}, combine_attrs="override")
    sets = sets.assign_coords(coords)
    for name, data, plot in (("pairs", pair, plot_pairs), ("greedy", sets, plot_greedy)):
        save(xr.DataTree(data), args.out / f"{name}.zarr")
        plot(data).savefig(args.out / f"{name}.png", dpi=200)
    text = summary(result, curves, pair, sets)
    (args.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
