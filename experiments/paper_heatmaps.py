#!/usr/bin/env python
"""The protocol of Palit et al. 2023: mean maps over the first correctly answered color questions of seven words.

    python experiments/paper_heatmaps.py --out build/paper_heatmaps
    python experiments/paper_heatmaps.py --out build/paper --model Salesforce/blip-vqa-base \\
        --dataset palit:color_coco_qa.csv --images download --n 466

Runs offline in a minute on the small model; stopped, the same command goes on. For each data set there is a
dataset, `DATASET.zarr`, its mean maps (`mean_DATASET.zarr`) and their figures; `summary.md` is computed from them.

As in the paper: the data set in its order, the type color, seven words, the questions that the model answers
correctly, noise `multiplicative` with ν = 5, ten draws, the model's own answer, the mean of P(answer) with one
state restored over examples and draws. Questions whose tokens do not align are left out and counted.

Otherwise than in the paper's code: a draw of the noise is the same for every cell of a map (there it is drawn
anew for each, so neighbouring cells differ by noise too), and P(answer) is that of all tokens of the answer (there
of the first).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product

import numpy as np
import xarray as xr
from common import (
    Questions,
    bounds,
    diagnoses,
    examples_of,
    first_correct,
    interval,
    intervals_are,
    load,
    opened,
    parser,
    passed_over,
    remembered,
    table,
)

import nnblip
from nnblip.datasets import Dataset
from nnblip.results import save
from nnblip.sites import TEXT_COMPONENTS


def shared(tree: xr.DataTree) -> xr.DataTree:
    """What was traced, with the positions that every example has: an answer may have more tokens than another."""
    done = tree.isel(example=np.flatnonzero(tree.status == "done"))
    nodes = {f"/{name}": node.to_dataset() for name, node in done.children.items()}
    for component in TEXT_COMPONENTS:
        data = nodes[f"/{component}"]
        nodes[f"/{component}"] = data.isel(token=np.flatnonzero((data.token_text != "").all("example")))
    return xr.DataTree.from_dict({"/": done.to_dataset(), **nodes})


def mean_of(tree: xr.DataTree, title: str) -> xr.DataTree:
    """The mean over examples, as the result of a single one, which `nnblip.plot.heatmap` takes."""
    nodes = {}
    for name, node in tree.children.items():
        data = node.to_dataset()
        mean = data.mean("example").expand_dims(example=["mean"])
        if "token_text" in data.coords:
            texts = [label_of(column) for column in data.token_text.transpose("token", "example").values.tolist()]
            mean = mean.assign_coords(token_text=(("example", "token"), [texts]))
        nodes[f"/{name}"] = mean
    coords = {"example": ["mean"], "nu": tree.nu.values, "draw": tree.draw.values, "question": ("example", [title])}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=coords, attrs=tree.attrs), **nodes})


def label_of(texts: list[str]) -> str:
    """One label for the texts that stand at one position."""
    return texts[0] if len(set(texts)) == 1 else f"{len(set(texts))} words"


def summary_of(name: str, tree: xr.DataTree, every: xr.DataTree, means: xr.DataTree) -> str:
    """The numbers of one data set: the runs, and of each component the best state of every layer."""

    def mean(values: xr.DataArray, sign: str = "+", support: tuple[float, float] | None = None) -> str:
        return interval(bounds(values, support), sign)

    total, corrupted = nnblip.total_effect(tree)["corrupted"].probability, tree["corrupted"].probability
    gamma, effect = nnblip.gamma(tree).sel(kind="block"), nnblip.indirect_effect(tree)
    rows, layers = [["layer", *(component.replace("_", " ") for component in TEXT_COMPONENTS)]], dict[int, list[str]]()
    for component in TEXT_COMPONENTS:
        states, texts = (
            effect[component].probability.isel(nu=0).sel(kind="block"),
            means[component].token_text.values[0],
        )
        for layer in states.layer.values:
            at = states.sel(layer=layer)
            best = int(at.mean(("example", "draw")).argmax("token"))
            layers.setdefault(int(layer), []).append(f"{best} {texts[best]}: {mean(at.isel(token=best))}")
    rows += [[str(layer), *cells] for layer, cells in layers.items()]
    gammas = "; ".join(
        f"{one.replace('_', ' ')} {mean(gamma[one].isel(nu=0), support=(-np.inf, np.inf))}" for one in TEXT_COMPONENTS
    )
    failed = every.sizes["example"] - tree.sizes["example"]
    longer = (every["answer_decoder"].token_text != "").sum("token") > tree["answer_decoder"].sizes["token"]
    return f"""## {name}

{tree.sizes["example"]} examples, {failed} could not be traced; {len(set(tree.answer.values))} different answers. \
{int(longer.sum())} answers have more tokens than the shortest; these are in the dataset, not in the maps.

P(answer): clean {mean(tree["clean"].probability, "", (0, 1))}, corrupted \
{mean(corrupted.isel(nu=0), "", (0, 1))}, total effect {mean(total.isel(nu=0))}. \
Γ, the mean relevance of the map: {gammas}.

Indirect effect of the best state of each layer (position, token, mean; the best of several, so rather too large):

{table(*rows)}"""


def color_questions(model: nnblip.BlipVQA, name: str, dataset: Dataset, n: int) -> Questions:
    return first_correct(model, dataset.where(question_type="color", words=7), n, name, aligned=True)


def main() -> None:
    arguments = parser(__doc__, n=50, per="data set", draws=10)
    arguments.add_argument("--nu", type=float, default=5.0)
    arguments.add_argument("--noise", default="multiplicative")
    run(arguments.parse_args())


def run(args: argparse.Namespace) -> None:
    model, sets = load(args), opened(args)
    chosen = remembered(args, lambda: [color_questions(model, *given, args.n) for given in sets.items()])
    examples, trees = examples_of(chosen, sets), {}
    for one in chosen:
        if not one.ids:
            continue
        own = [replace(example, answer=None) for example in examples if example.id in set(one.ids)]
        given = Dataset.of(one.group, own)
        trees[one.group] = nnblip.sweep(
            model, given, args.out / f"{one.group}.zarr", args.nu, args.draws, args.noise, seed=args.seed
        )
    parts = []
    for name, every in trees.items():
        tree = shared(every)
        means = mean_of(tree, f"Mean of {tree.sizes['example']} color questions of seven words, {name}")
        save(means, args.out / f"mean_{name}.zarr", overwrite=True)
        for component, value in product(TEXT_COMPONENTS, ("probability", "indirect_effect")):
            figure = nnblip.plot.heatmap(means, component, value=value)
            figure.savefig(args.out / f"{name}_{component}_{value}.png", dpi=200)
        parts.append(summary_of(name, tree, every, means))
    settings = f"{args.noise}, ν = {args.nu:g}, {args.draws} draws, {next(iter(trees.values())).attrs['model']}"
    intro = f"""{settings}. Means over examples of means over draws, with {intervals_are(args.n)}. Data sets \
were gone through in order until {args.n} color questions of seven words were answered correctly, or to the end."""
    text = "\n\n".join([intro, passed_over(chosen, sets), *parts, diagnoses(**trees)])
    (args.out / "summary.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
