#!/usr/bin/env python
"""What do several states restore together: windows, pairs, and the fewest states for half of the effect?

    nnblip experiment multi_state
    nnblip experiment multi_state --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download --n 20

windows   Does restoring a token in more neighbouring layers bring more back? Every window of every width in
          the question encoder (`result.zarr`, with the maps of single states). The decoder sees the picture
          only through the encoder's last layer, and the wider windows are, the more of them reach it: so those
          with one end are shown apart, and windows are compared with the state at their end alone.
pairs     Do two states bring back more, or less, than the sum of each alone? The strongest token of every
          layer of both components, two at a time (`pairs.zarr`).
greedy    How few states of the question encoder restore half of the total effect? From nothing, always the
          state that raises the mean probability most (`greedy.zarr`); a smaller set may exist.

The best of many states on a few draws of the noise looks better there than it is: pairs and sets are chosen on
the draws of one seed and measured on those of the next, the fresh draws.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from functools import partial
from itertools import combinations, product

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nnblip
from nnblip.effects import THRESHOLD, interaction
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import ALPHA, above, below
from nnblip.experiments.figures import legend, line, tidy
from nnblip.experiments.numbers import SHARE, bounds, compared, intervals_are, mean
from nnblip.experiments.texts import table
from nnblip.sites import TEXT_COMPONENTS, Site, pairs, windows

ENCODER = "question_encoder"
#: Not crossattention: what follows it in a layer works on each token by itself, so its windows are those of block.
KINDS = ("block", "attention", "crossattention_out")
ENDS = ["all windows", "ending in the last layer", "ending one layer earlier"]
#: The largest greedy set.
STEPS = 12
NOISES = ["chosen", "fresh"]
Trace = Callable[..., xr.DataTree]  # causal_trace with the model, ν and the number of draws

# ---- windows ---------------------------------------------------------------------------------


def windows_of(result: xr.DataTree) -> xr.DataArray:
    """Of each example the mean indirect effect of the windows (example, end, kind, width)."""
    effect = nnblip.indirect_effect(result)["cells"].probability.isel(nu=0).mean("draw")
    end, layers = effect.layer + effect.width, int(effect.width.max())
    within = dict(zip(ENDS, (end > 0, end == layers, end == layers - 1), strict=True))
    labels = {"example": effect.example.values, "end": ENDS, "kind": list(KINDS), "width": range(1, layers + 1)}
    found = xr.DataArray(np.full([len(one) for one in labels.values()], np.nan), labels, list(labels))
    for where, kind, width in product(ENDS, KINDS, range(1, layers + 1)):
        here = within[where] & (effect.kind == kind) & (effect.width == width)
        if here.any():
            found.loc[:, where, kind, width] = effect.isel(cell=np.flatnonzero(here)).mean("cell").values
    return found


def wider(result: xr.DataTree) -> xr.DataArray:
    """Of each example: windows of two blocks minus the later block of each alone, mean over tokens and ends."""
    effect = nnblip.indirect_effect(result)["cells"].probability.isel(nu=0).mean("draw")
    blocks = effect.isel(cell=np.flatnonzero(effect.kind == "block"))
    first, token, width = (blocks[name].values for name in ("layer", "token", "width"))
    at = {key: place for place, key in enumerate(zip(first + width - 1, token, width, strict=True))}
    two = [key for key in at if key[2] == 2]
    later = blocks.isel(cell=[at[end, token, 1] for end, token, _ in two])
    both = blocks.isel(cell=[at[key] for key in two])
    return xr.DataArray(np.nanmean(both.values - later.values, 1), {"example": effect.example}, ("example",))


def plot_windows(found: xr.DataArray) -> Figure:
    figure = Figure(figsize=(6.9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(ENDS), sharex=True, sharey=True)
    for axes, end in zip(panels, ENDS, strict=True):
        for number, kind in enumerate(KINDS):
            line(axes, found.width.values, bounds(found.sel(end=end, kind=kind)), number, kind)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.set_xticks(found.width)
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


def trace_pairs(trace: Trace, example: nnblip.Example, sites: list[Site], seed: int) -> xr.Dataset:
    """The `effect` of each state and each pair, and the `interaction` of each pair, on fresh draws."""
    tree = trace([example], cells=pairs(sites), seed=seed)
    states = [f"{site.component.replace('_', ' ')} {site.layer}" for site in sites]
    both = [f"{a} and {b}" for a, b in combinations(states, 2)]  # in the order of pairs()
    data = {
        "token": ("state", [site.token for site in sites]),
        "effect": (("draw", "cell"), nnblip.indirect_effect(tree)["cells"].probability.values[0, 0]),
        "interaction": (("draw", "pair"), interaction(tree).probability.values[0, 0]),
    }
    return xr.Dataset(data, {"state": states, "pair": both, "cell": states + both}, tree.attrs)


def plot_pairs(data: xr.Dataset) -> Figure:
    names, means = data.state.values, data[["effect", "interaction"]].mean(("example", "draw"))
    values = np.diag(means.effect.sel(cell=names).values)
    values.T[np.triu_indices(len(names), 1)] = means.interaction
    bound = max(float(np.abs(means.interaction).max()), 0.01)
    figure = Figure(figsize=(0.45 * len(names) + 2.0, 0.36 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.tri(len(names), k=-1), values, np.nan)
    axes.imshow(shown, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    for a, b in np.argwhere(np.tri(len(names))) if len(names) <= 16 else ():
        box = dict(facecolor="0.9", edgecolor="none", pad=2.5) if a == b else None
        colour = "white" if abs(shown[a, b]) > 0.6 * bound else "black"
        axes.text(b, a, f"{values[a, b]:z.2f}", ha="center", va="center", fontsize=7, color=colour, bbox=box)
    tidy(axes, "Interaction of two layers' states on P(answer); grey: effect of one alone")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    return figure


# ---- greedy ----------------------------------------------------------------------------------


def greedy(trace: Trace, example: nnblip.Example, sites: list[Site], seed: int) -> list[Site]:
    """Sites in the order in which they were added, until they restore half of the total effect or are `STEPS`."""
    path: list[Site] = []
    while len(path) < STEPS:
        left = [site for site in sites if site not in path]
        tree = trace([example], cells=[[*path, site] for site in left], seed=seed)
        means = tree["cells"].probability.mean("draw").values.ravel()
        path.append(left[means.argmax()])
        if means.max() >= (tree["clean"].probability + tree["corrupted"].probability.mean("draw")).item() / 2:
            break
    return path


def trace_greedy(trace: Trace, example: nnblip.Example, words: list[str], layers: int, seed: int) -> xr.Dataset:
    """What the states that `greedy` finds restore, on the draws on which they were chosen and on fresh ones.

    `probability` is by step (0: corrupted) and `share` the part of the mean total effect that is back, `end` after
    the last step, `early` with all states before the last layer.
    """
    sites = [Site(ENCODER, "block", layer, token) for layer in range(layers) for token in range(len(words))]
    path = greedy(trace, example, sites, seed)
    cells = [path[:step] for step in range(1, len(path) + 1)] + [sites[: -len(words)]]
    trees = [trace([example], cells=cells, seed=one) for one in (seed, seed + 1)]
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
    return xr.Dataset(data, {"noise": NOISES, "step": range(len(path) + 1)}, trees[0].attrs)


def plot_greedy(sets: xr.Dataset, most: int = 12) -> Figure:
    """One panel for each of the first examples; the states that are added stand along its axis."""
    count = min(most, sets.sizes["example"])
    columns, lowest = min(4, count), min(float(sets.share.min()), float(sets.early.min()))
    rows = -(-count // columns)
    figure = Figure(figsize=(max(2.3 * columns + 0.5, 3.5), 2.4 * rows + 0.3), layout="constrained")
    for at in range(count):
        one, axes = sets.isel(example=at), figure.add_subplot(rows, columns, at + 1)
        for noise, stroke, fill in (("chosen", "-", "#0072B2"), ("fresh", ":", "white")):
            label = "fresh draws" if noise == "fresh" else "draws on which the states were chosen"
            axes.plot(one.share.sel(noise=noise), f"o{stroke}", color="#0072B2", mfc=fill, markersize=4, label=label)
        early = one.early.sel(noise="fresh")
        axes.axhline(early, color="#D55E00", linestyle="--", label="all states before the last layer, fresh draws")
        axes.axhline(0.5, color="0.75", linewidth=0.8, zorder=0)
        title = f"{textwrap.fill(one.question.item(), 34)}:\n{one.answer.item()}"
        tidy(axes, title, y="" if at % columns else "share of total effect")
        ticks = range(one.states.item() + 1)
        axes.set_xticks(ticks, ["corrupted", *one.site.values[ticks[1:]]], rotation=90, fontsize=7, parse_math=False)
        axes.margins(x=0.15)
        axes.set_ylim(lowest - 0.1, 1.1)
    legend(figure, axes)
    return figure


# ---- all three -------------------------------------------------------------------------------


def say_windows(run: Run, result: xr.DataTree) -> None:
    found = windows_of(result)
    run.figure("windows", plot_windows(found))
    columns = [found.sel(end=ENDS[0], kind=kind) for kind in KINDS]
    columns += [found.sel(end=end, kind="block") for end in ENDS[1:]]
    rows = [["width", *KINDS, *(f"block, {end}" for end in ENDS[1:])]]
    rows += [[f"{w}", *(mean(one.sel(width=w)).bare for one in columns)] for w in found.width.values]
    total = nnblip.total_effect(result)["corrupted"].probability.isel(nu=0)
    run.section(
        "Windows of the question encoder",
        f"Indirect effects on P(answer), means over tokens, with {intervals_are()}; n = {result.sizes['example']}. The"
        f" total effect is {mean(total)}. Windows of crossattention would have the numbers of block.\n\n{table(*rows)}",
    )
    run.claim("wider", above(mean(wider(result)), 0, "two blocks minus the later one alone"))


def say_pairs(run: Run, data: xr.Dataset) -> None:
    extra = data.interaction.mean("draw")
    tested = compared(extra, xr.zeros_like(extra), True)
    sure = [name for name in tested.pair.values if float(tested.p_corrected.sel(pair=name)) < ALPHA]
    rows = [["states", "each alone", "interaction", "corrected p"]]
    for name in sorted(sure, key=lambda name: -abs(float(tested.difference.sel(pair=name)))):
        alone = [data.effect.sel(cell=one).mean().item() for one in name.split(" and ")]
        p = tested.p_corrected.sel(pair=name).item()
        rows.append(
            [name, ", ".join(f"{one:+z.3f}" for one in alone), mean(extra.sel(pair=name), (-2.0, 2.0)).bare, f"{p:.3g}"]
        )
    encoder = [name for name in data.pair.values if all(part.startswith("question") for part in name.split(" and "))]
    told = table(*rows) if sure else "None."
    run.section(
        "Pairs",
        "Interaction is the effect of both minus the sum of each alone; below 0 either does what the other would. Fresh"
        f" draws; n = {data.sizes['example']}. Of {data.sizes['pair']} pairs those whose interaction is established"
        f" (permutation test, corrected for all pairs):\n\n{told}\n\nThe later of two states of the answer decoder"
        " replaces the earlier if the answer has one token: their interaction is minus the earlier one's effect.",
    )
    found = mean(extra.sel(pair=encoder).mean("pair"), (-2.0, 2.0))
    run.claim("redundant", below(found, 0, "mean interaction of pairs of the question encoder"))


def say_greedy(run: Run, sets: xr.Dataset) -> None:
    rows = [["question: answer", "states", "share", "fresh draws", "all before the last layer, fresh draws"]]
    for at in range(sets.sizes["example"]):
        one = sets.isel(example=at)
        path = f"{one.states.item()}: {', '.join(one.site.values[1 : one.states.item() + 1])}"
        shares = (*one.end.sel(noise=NOISES).values, one.early.sel(noise="fresh").item())
        rows.append([f"{one.question.item()}: {one.answer.item()}", path, *(f"{share:+z.2f}" for share in shares)])
    half = (sets.end >= 0.5).sum("example")
    whole = (sets.late == sets.tokens).sum().item()
    run.section(
        "Fewest states for half of the total effect",
        "Greedy sets of the question encoder's blocks, each as layer.token and its text. They restore half in"
        f" {half.sel(noise='chosen').item()} of {sets.sizes['example']} examples on the draws on which they were"
        f" chosen, and in {half.sel(noise='fresh').item()} on fresh draws. {sets.late.sum().item()} of their"
        f" {sets.states.sum().item()} states are in the last layer: the decoder sees the picture only through it. In"
        f" {whole} examples they hold all of its tokens, which is the clean answer by construction.\n\n{table(*rows)}",
    )
    fresh = sets.sel(noise="fresh")
    run.claim("sets", above(mean(fresh.end, SHARE), 0.5, "share that they restore on fresh draws"))
    run.claim("early", above(mean(fresh.early, SHARE), 0.5, "share that all of them restore, fresh draws"))


def run(run: Run) -> None:
    groups, options = run.choose(by_type=False), run.options
    chosen = [example for group in groups for example in group.examples]
    layers = run.model.config.text_config.num_hidden_layers
    every = [windows(range(1, layers + 1), kind, ENCODER) for kind in KINDS]
    result = run.sweep("result", chosen, kinds=["block"], cells=every)

    total = nnblip.total_effect(result)["corrupted"].probability.isel(nu=0).mean("draw")
    there = np.flatnonzero((total >= THRESHOLD).values)  # elsewhere there is nothing to restore
    if there.size < run.experiment.least:
        raise nnblip.NnblipError(
            f"noise of ν = {options.nu[0]:g} takes away at least {THRESHOLD:g} in {there.size} of {len(chosen)}"
            f" examples, expected at least {run.experiment.least}: take a larger --nu or --n"
        )
    examples, seen = [chosen[at] for at in there], result.isel(example=there)
    texts = [[str(text) for text in row if text] for row in seen[ENCODER].token_text.values]  # without padding
    coords = {name: ("example", seen[name].values) for name in ("example", "question", "answer")}
    trace = partial(
        nnblip.causal_trace, run.model, nu=options.nu[0], draws=options.draws, noise=options.noise[0], progress=False
    )
    both, found = [], []
    for number, (example, sites, words) in enumerate(zip(examples, strongest(seen), texts, strict=True)):
        pair = partial(trace_pairs, trace, example, sites, options.seed + 1)
        both.append(run.stage(f"pairs/{number:04d}", pair).to_dataset())
        sets = partial(trace_greedy, trace, example, words, layers, options.seed)
        found.append(run.stage(f"greedy/{number:04d}", sets).to_dataset())
    pair_data = xr.concat(both, "example", combine_attrs="override").assign_coords(coords)
    set_data = xr.concat(found, "example", join="outer", fill_value={"site": ""}, combine_attrs="override")
    set_data = set_data.assign_coords(coords)
    run.keep("pairs", pair_data)
    run.keep("greedy", set_data)
    run.figure("pairs", plot_pairs(pair_data))
    run.figure("greedy", plot_greedy(set_data))
    say_windows(run, result)
    say_pairs(run, pair_data)
    say_greedy(run, set_data)


EXPERIMENT = Experiment(
    name="multi_state",
    question="What do several states restore together: windows, pairs, and the fewest states for half of the effect?",
    claims={
        "wider": "A token restored in two neighbouring layers brings more back than in the later of them alone",
        "redundant": "Two states of the question encoder bring back less than the sum of each alone",
        "sets": "Greedy sets restore half of the total effect on other draws of the noise, too",
        "early": "All states of the question encoder before its last layer restore at least half of the total effect",
    },
    run=run,
    figure="windows",
    defaults=Defaults(dataset=("scenes",), n=10, nu=(5.0,)),
    needs=("images",),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
