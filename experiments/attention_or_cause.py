#!/usr/bin/env python
"""Do attention maps point where the answer comes from?

    nnblip experiment attention_or_cause
    nnblip experiment attention_or_cause --model Salesforce/blip-vqa-base --dataset table:BOXES.csv --n 200

What people draw over a picture are the weights of the question encoder's cross-attention, or Grad-CAM of them. Held
against them is the causal map: each patch of the image embeddings is damaged alone, and the map says how much of the
logit difference of the answer is lost. Scenes know the boxes of what they are asked about; each is asked once, and
the small model was trained on none. A table needs a column `box` ("left,upper,right,lower" in pixels).

pointing   Does the strongest patch touch the object, and how much of a map lies in its box?
rank       Do both maps order the patches alike? Spearman's rank correlation of each layer and head with the causal map,
           over patches; weights are means over the question's tokens, and the image's [CLS] is left out. How near
           a map can come to it is what another causal map says: of a picture that is damaged before the image
           encoder, each patch takes its state at the encoder's end from it.
regions    All patches that touch the object, restored or damaged together, against random regions of the same size
           and shape that touch none of it (as in 2410.07149).

Not all of an answer need lie on the object: where a thing is ("where is the circle": sand) is seen beside it.
The layer whose map is nearest is chosen by one half of the examples and measured on the other (`effects.picked`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tqdm.auto import tqdm

import nnblip
from nnblip.datasets.records import lot
from nnblip.effects import picked
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import above, below
from nnblip.experiments.figures import STYLES, legend, line, tidy
from nnblip.experiments.numbers import bounds, intervals_are, mean
from nnblip.experiments.pointing import Pointed, boxes_of, coverage, pointed, regions
from nnblip.experiments.sources import BOX
from nnblip.experiments.texts import table
from nnblip.results import VARIABLES

ENCODER, IMAGE = "question_encoder", "image_encoder"
#: What of the tracing is shown: P(answer) hides what saturates.
VALUE = VARIABLES[2]
#: So many examples are done between two stores; random regions of each; scenes that are drawn.
TOGETHER, RANDOM, SHOWN = 25, 8, 6
#: Where the other damage is done, against which the causal map is held.
OTHER = "patch_embeds"
#: A rank correlation from which on one map may stand in for another.
STAND_IN = 0.5
MAPS = {"attention": "cross-attention", "grad_cam": "Grad-CAM"}
WHAT = {"hit": "strongest patch touches the object", "mass": "share of the map in the box", "rank": "rank correlation"}
SUPPORT = {"hit": (0.0, 1.0), "mass": (0.0, 1.0), "rank": (-1.0, 1.0)}
ALL = "all layers"


# ---- what is computed of a few examples ----------------------------------------------------------


def attended(run: Run, examples: Sequence[nnblip.Example]) -> xr.Dataset:
    """Cross-attention and Grad-CAM, means over the question's tokens (example, layer, head, patch)."""
    tree = nnblip.attention(run.model, examples, [ENCODER], kinds=["crossattention"], progress=False)
    node: Any = tree[f"{ENCODER}/crossattention"]
    maps = node.to_dataset(inherit=True)[list(MAPS)]
    return maps.mean("token").isel(source=slice(1, None)).rename(source="patch").drop_vars("source_text")


def of_regions(run: Run, examples: Sequence[nnblip.Example]) -> xr.Dataset:
    """What the object's region, which is 0, and random ones restore, and what is lost with them (example, region)."""
    o, extent = run.options, run.model.extent(1, 1)
    found = np.full((2, len(examples), RANDOM + 1), np.nan)
    for number, example in enumerate(tqdm(examples, unit="scene", desc="regions", leave=False, disable=None)):
        rng = np.random.default_rng(list(lot(o.seed, example.id)))
        places = regions(coverage(example, extent.side), RANDOM, rng)
        layer = extent.image_layers - 1
        cells = [[nnblip.Site(IMAGE, layer=layer, token=patch + 1) for patch in place] for place in places]
        for row, direction in enumerate(("denoising", "noising")):
            tree = nnblip.causal_trace(
                run.model, [example], nu=o.nu[0], draws=o.draws, noise=o.noise[0], seed=o.seed, cells=cells,
                direction=direction, progress=False,
            )  # fmt: skip
            effect = nnblip.indirect_effect(tree)["cells"].to_dataset()[VALUE].mean("draw")
            found[row, number, : len(cells)] = effect.values.ravel()
    dims = ("example", "region")
    return xr.Dataset(
        {"restored": (dims, found[0]), "lost": (dims, found[1])}, {"example": [example.id for example in examples]}
    )


def traced(run: Run, name: str, examples: list[nnblip.Example], **settings: Any) -> xr.DataArray:
    """The causal map of each example: what is lost when the last state of a patch is damaged (example, patch)."""
    extent = run.model.extent(1, 1)
    patches = [nnblip.Site(IMAGE, layer=extent.image_layers - 1, token=patch + 1) for patch in range(extent.side**2)]
    tree = run.sweep(name, examples, cells=patches, direction="noising", **settings)
    effect = nnblip.indirect_effect(tree)["cells"][VALUE].mean("draw").isel(nu=0)
    return effect.rename(cell="patch").reset_coords(drop=True).sel(example=[example.id for example in examples])


def in_parts(run: Run, name: str, make: Callable[..., xr.Dataset], examples: list[nnblip.Example]) -> xr.Dataset:
    """What `make` gives of all examples, stored part by part, so that a stopped run goes on."""
    parts = [examples[at : at + TOGETHER] for at in range(0, len(examples), TOGETHER)]
    bar = tqdm(parts, desc=name, disable=None)
    trees = [run.stage(f"{name}-{number}", partial(make, run, part)) for number, part in enumerate(bar)]
    return xr.concat([tree.to_dataset() for tree in trees], "example", combine_attrs="drop_conflicts").load()


# ---- maps against boxes --------------------------------------------------------------------------


def judged(maps: xr.DataArray, covers: np.ndarray, truth: np.ndarray) -> xr.Dataset:
    """`hit`, `mass` and `rank` of maps (example, ..., patch): (example, ...)."""
    outer = [dim for dim in maps.dims if dim != "patch"]
    values = maps.transpose(*outer, "patch").values
    found = np.full((*values.shape[:-1], len(Pointed._fields)), np.nan)
    for place in np.ndindex(values.shape[:-1]):
        cover, causal = covers[place[0]], truth[place[0]]
        found[place] = pointed(values[place].reshape(cover.shape).astype(float), cover, causal)
    coords = {dim: maps[dim] for dim in outer}
    return xr.Dataset({name: (outer, found[..., at]) for at, name in enumerate(Pointed._fields)}, coords)


def with_all(judge: Callable[[xr.DataArray], xr.Dataset], maps: xr.DataArray) -> xr.Dataset:
    """Of means over heads: of each layer, and of the mean over all of them, which is the last (example, layer)."""
    layers = maps.mean("head")
    layers = layers.assign_coords(layer=[str(layer) for layer in layers.layer.values])
    return judge(xr.concat([layers, layers.mean("layer").expand_dims(layer=[ALL])], "layer"))


def by_head(values: xr.DataArray) -> xr.Dataset:
    """Means over examples of each layer and head, with their intervals."""
    every = [bounds(values.sel(head=head), SUPPORT["rank"]) for head in values["head"].values]
    return xr.concat(every, xr.Variable("head", values["head"].values))


# ---- figures -------------------------------------------------------------------------------------


def plot_pointing(
    found: dict[str, xr.Dataset], causal: xr.Dataset, chance: dict[str, xr.DataArray], title: str
) -> Figure:
    """A panel for each number: by layer, beside the causal map's and chance."""
    figure = Figure(figsize=(6.9, 3.1), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), WHAT, strict=True):
        labels = next(iter(found.values())).layer.values.tolist()
        at = np.arange(len(labels))
        for number, (kind, data) in enumerate(found.items()):
            line(axes, at, bounds(data[name], SUPPORT[name]), number, MAPS[kind])
        if name in chance:
            own, color = mean(causal[name], SUPPORT[name]), STYLES[2][0]
            axes.axhline(own.value, color=color, linewidth=1.1, label="causal map")
            axes.axhspan(own.low, own.high, color=color, alpha=0.15, linewidth=0)
            axes.axhline(float(chance[name].mean()), color="0.5", linewidth=1, linestyle=":", label="chance")
            axes.set_ylim(0, 1)
            first = axes
        else:
            axes.axhline(0, color="0.5", linewidth=1, linestyle=":")
        tidy(axes, WHAT[name] + (" with\nthe causal map" if name == "rank" else ""), "layer")
        axes.set_xticks(at, ["all" if label == ALL else label for label in labels])
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    legend(figure, first)
    return figure


def plot_heads(ranks: dict[str, xr.Dataset]) -> Figure:
    """Rank correlation with the causal map of each layer and head; hatched where its interval holds 0."""
    figure = Figure(figsize=(6.9, 2.6), layout="constrained")
    panels = figure.subplots(1, len(ranks), squeeze=False)[0]
    limit = max(float(np.nanmax(np.abs(data.value.values))) for data in ranks.values())
    for axes, (kind, data) in zip(panels, ranks.items(), strict=True):
        data = data.transpose("head", "layer", ...)
        mesh = axes.pcolormesh(data.value.values, cmap="RdBu_r", vmin=-limit, vmax=limit, edgecolors="white")
        open_ = ~((data.low > 0) | (data.high < 0)).values
        for head, layer in np.argwhere(open_):
            axes.add_patch(Rectangle((layer, head), 1, 1, fill=False, hatch="/////", edgecolor="0.3", linewidth=0))
        tidy(axes, MAPS[kind], "layer", "head" if axes is panels[0] else "")
        axes.set_xticks(np.arange(data.sizes["layer"]) + 0.5, data.layer.values)
        axes.set_yticks(np.arange(data.sizes["head"]) + 0.5, data["head"].values)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=panels, aspect=20, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.set_ylabel("rank correlation\nwith the causal map", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def plot_scenes(examples: list[nnblip.Example], maps: dict[str, np.ndarray]) -> Figure:
    """Scenes in columns: the picture, and each map (example, row, column), with the boxes of what is asked about."""
    figure = Figure(figsize=(6.9, 1.2 * (len(maps) + 1) + 0.2), layout="constrained")
    panels = figure.subplots(len(maps) + 1, len(examples), squeeze=False)
    for column, example in enumerate(examples):
        picture = nnblip.examples.load_image(example.image)
        panels[0, column].imshow(picture, extent=(0, picture.width, picture.height, 0))
        for axes, of_all in zip(panels[1:, column], maps.values(), strict=True):
            one = np.maximum(of_all[column], 0)
            axes.imshow(one, cmap="viridis", extent=(0, picture.width, picture.height, 0), vmin=0)
        width, height = picture.size
        for axes in panels[:, column]:
            axes.set_xticks([])
            axes.set_yticks([])
            for left, upper, right, lower in boxes_of(example):
                corner, size = (left * width, upper * height), ((right - left) * width, (lower - upper) * height)
                axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#D55E00", linewidth=1))
        words = example.question.split()
        half = (len(words) + 1) // 2
        asked = f"{' '.join(words[:half])}\n{' '.join(words[half:])}"
        panels[0, column].set_title(f"{asked}\n{example.answer}", fontsize=6.5, parse_math=False)
    for axes, name in zip(panels[:, 0], ["picture", *maps], strict=True):
        axes.set_ylabel(name, fontsize=8)
    return figure


# ---- the experiment ------------------------------------------------------------------------------


def run(run: Run) -> None:
    groups = run.choose(keep=lambda example: bool(example.extra.get(BOX)))
    examples = [example for group in groups for example in group.examples]
    side = run.model.extent(1, 1).side
    covers = np.stack([coverage(example, side) for example in examples])  # refuses a bad box before anything is traced
    causal = traced(run, "causal", examples)
    again = traced(run, OTHER, examples, noise_at=OTHER)
    truth = causal.values.reshape(covers.shape).astype(float)
    judge = partial(judged, covers=covers, truth=truth)
    weights = in_parts(run, "attention", attended, examples)
    found = {kind: with_all(judge, weights[kind]) for kind in MAPS}
    heads = {kind: judge(weights[kind]) for kind in MAPS}
    own, second = judge(causal), judge(again)
    labels = {"example": causal.example}
    chance = {
        "hit": xr.DataArray((covers > 0).mean((1, 2)), labels, ("example",)),
        "mass": xr.DataArray(covers.mean((1, 2)), labels, ("example",)),
    }

    rows = [["map", *WHAT.values()], ["causal map", *(str(mean(own[name], SUPPORT[name])) for name in chance), ""]]
    rows.append(["causal map of the other damage", *(str(mean(second[name], SUPPORT[name])) for name in WHAT)])
    for kind, data in found.items():
        for layer in data.layer.values:
            one = data.sel(layer=layer)
            at = layer if layer == ALL else f"layer {layer}"
            rows.append([f"{MAPS[kind]}, {at}", *(str(mean(one[name], SUPPORT[name])) for name in WHAT)])
    rows.append(["a map that knows nothing", *(f"{float(one.mean()):.3f}" for one in chance.values()), "0"])
    kinds = np.array([example.question_type for example in examples])
    run.section(
        "Pointing",
        f"The causal map is the loss of {VALUE.replace('_', ' ')} when one of {side} x {side} patches is damaged; a map"
        f" is its positive part. Means with {intervals_are()}; rank correlation is with the causal map, over patches."
        f"\n\n{table(*rows)}",
    )
    rows = [["questions", *(f"{name}: {WHAT[what]}" for name in ("causal map", *MAPS.values()) for what in ("hit",))]]
    rows[0] += [f"{name}: {WHAT['rank']}" for name in MAPS.values()]
    for group in dict.fromkeys(kinds.tolist()):
        here = {"example": np.flatnonzero(kinds == group)}
        every = [own, *(data.sel(layer=ALL) for data in found.values())]
        hits = [str(mean(one["hit"].isel(here), SUPPORT["hit"])) for one in every]
        rows.append([group, *hits, *(str(mean(one["rank"].isel(here), SUPPORT["rank"])) for one in every[1:])])
    run.section("By type", f"Maps over all layers.\n\n{table(*rows)}")
    run.claim("causal", above(mean(own["hit"] - chance["hit"]), 0, "hits of the causal map minus chance"))
    for kind, name in MAPS.items():
        all_ = found[kind].sel(layer=ALL)
        more = mean(all_["hit"] - chance["hit"])
        run.claim(f"{kind}_points", above(more, 0, f"hits of {name}, all layers, minus chance"))
        less = mean(all_["mass"] - own["mass"])
        run.claim(
            f"{kind}_less", below(less, 0, f"share in the box of {name}, all layers, minus that of the causal map")
        )

    rows = [["map", "layer that is nearest to the causal map", "its rank correlation", "nearest head"]]
    best = None
    for kind, name in MAPS.items():
        layers = picked(found[kind]["rank"].drop_sel(layer=ALL), ("layer",))
        single = picked(heads[kind]["rank"], ("layer", "head"))
        where, which = (", ".join(map(str, cells)) for cells in ([c[0] for c in layers.cells], single.cells))
        value, alone = mean(layers.values, SUPPORT["rank"]), mean(single.values, SUPPORT["rank"])
        one_head = f"layer and head {which}: {alone}" if len(single.cells) == 1 else "the halves choose different ones"
        rows.append([name, where if len(layers.cells) == 1 else f"{where} (the halves differ)", str(value), one_head])
        if best is None or value.value > best[1].value:
            best = f"{name}, layer {where}", value, layers.values
    run.section(
        "The best stand-in",
        "The layer (mean over heads), and the head, whose maps correlate best with the causal map: chosen by one half"
        f" of the examples, measured on the other.\n\n{table(*rows)}",
    )
    assert best is not None
    run.claim("stand_in", above(best[1], STAND_IN, f"rank correlation of {best[0]}"))
    less = mean(best[2] - second["rank"].drop_vars("example").assign_coords(example=best[2].example))
    run.claim("farther", below(less, 0, f"rank correlation of {best[0]} minus that of the other damage"))

    region = in_parts(run, "regions", of_regions, examples)
    rows = [["", "the object", "random regions, mean", "difference"]]
    damage = nnblip.total_effect(nnblip.results.open_result(run.out / "causal.zarr"))["corrupted"]
    total = damage.to_dataset()[VALUE].isel(nu=0)
    for name in ("restored", "lost"):
        effect = region[name]
        elsewhere = effect.isel(region=slice(1, None)).mean("region")
        more = mean(effect.isel(region=0) - elsewhere)
        told = f"{name}, {VALUE.replace('_', ' ')}"
        rows.append([told, str(mean(effect.isel(region=0))), str(mean(elsewhere)), str(more)])
        run.claim(name, above(more, 0, "the object's region minus random ones"))
    room = int(region["lost"].isel(region=1).notnull().sum())
    run.section(
        "Regions",
        f"All patches that touch the object, against up to {RANDOM} random regions of the same size and shape beside it"
        f" (there is room for them in {room} of {len(examples)} scenes). Damaging all patches costs {mean(total)}."
        f"\n\n{table(*rows)}",
    )
    run.keep("pointing", xr.DataTree.from_dict({"causal": own, OTHER: second, **found, "regions": region}))
    ranks = {kind: by_head(heads[kind]["rank"]) for kind in MAPS}
    o = run.options
    run.figure("pointing", plot_pointing(found, own, chance, f"{len(examples)} scenes, {o.noise[0]}, ν = {o.nu[0]:g}"))
    run.figure("heads", plot_heads(ranks))
    first = [int(np.flatnonzero(kinds == group)[at]) for at in range(2) for group in dict.fromkeys(kinds.tolist())
             if at < (kinds == group).sum()][:SHOWN]  # fmt: skip
    drawn = {"causal map": truth} | {
        MAPS[kind]: weights[kind].mean(("layer", "head")).values.reshape(covers.shape) for kind in MAPS
    }
    run.figure("scenes", plot_scenes([examples[i] for i in first], {name: maps[first] for name, maps in drawn.items()}))


EXPERIMENT = Experiment(
    name="attention_or_cause",
    question="Do attention maps point where the answer comes from?",
    claims={
        "causal": "The causal map points at the object more often than chance",
        "attention_points": "Cross-attention points at the object more often than chance",
        "grad_cam_points": "Grad-CAM points at the object more often than chance",
        "attention_less": "Less of cross-attention than of the causal map lies on the object",
        "grad_cam_less": "Less of Grad-CAM than of the causal map lies on the object",
        "stand_in": f"A layer's map can stand in for the causal map (rank correlation above {STAND_IN:g})",
        "farther": "No layer's map is as near to the causal map as the causal map of another damage",
        "restored": "Restoring the object brings more back than restoring as much of the rest",
        "lost": "Damaging the object costs more than damaging as much of the rest",
    },
    run=run,
    figure="pointing",
    needs=("boxes", "images"),
    defaults=Defaults(dataset=("scenes:6000",), n=125, nu=(1.0,), draws=1, noise=("mean",)),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
