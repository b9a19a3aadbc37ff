#!/usr/bin/env python
"""What do the maps of Palit et al. 2023 look like, and do later layers matter more in them?

    nnblip experiment paper_heatmaps
    nnblip experiment paper_heatmaps --model Salesforce/blip-vqa-base --dataset palit:color_coco_qa.csv \\
        --images download --n 466

The protocol of the paper (arXiv:2308.14179): the data set in its order, the type color, seven words, the questions
that the model answers correctly, noise "multiplicative" with ν = 5, ten draws, the model's own answer, the mean of
P(answer) with one state restored, over examples and draws. Questions whose tokens do not align are left out and
counted.

Otherwise than in the paper's code: a draw of the noise is the same for every cell of a map (there it is drawn anew
for each, so neighbouring cells differ by noise too), and P(answer) is that of all tokens of the answer (there of the
first). Each image is asked about once, except in the paper's own file (palit): there intervals and tests are over
images, the means of whose questions are the units. Cells that restore by construction are in the maps, and in nothing
that is said of layers.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

import numpy as np
import xarray as xr

import nnblip
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import above, everywhere, of_several
from nnblip.experiments.maps import by_layer, later_minus_earlier, of_examples, restored, strongest
from nnblip.experiments.numbers import SHARE, by_image, intervals_are, mean
from nnblip.experiments.texts import table
from nnblip.sites import TEXT_COMPONENTS

ENCODER, DECODER = TEXT_COMPONENTS


def shared(tree: xr.DataTree) -> xr.DataTree:
    """What was traced, with the positions that every example has: an answer may have more tokens than another."""
    done = tree.isel(example=np.flatnonzero(tree.status == "done"))
    nodes = {f"/{name}": node.to_dataset(inherit=False) for name, node in done.children.items()}
    for component in TEXT_COMPONENTS:
        data = nodes[f"/{component}"]
        nodes[f"/{component}"] = data.isel(token=np.flatnonzero((data.token_text != "").all("example")))
    return xr.DataTree.from_dict({"/": done.to_dataset(), **nodes})


def mean_of(tree: xr.DataTree, title: str) -> xr.DataTree:
    """The mean over examples, as the result of a single one, which `nnblip.plot.heatmap` takes."""
    nodes = {}
    for name, node in tree.children.items():
        data = node.to_dataset(inherit=False)
        means = data.mean("example").expand_dims(example=["mean"])
        if "token_text" in data.coords:
            texts = [label_of(column) for column in data.token_text.transpose("token", "example").values.tolist()]
            means = means.assign_coords(token_text=(("example", "token"), [texts]))
        nodes[f"/{name}"] = means
    coords = {"example": ["mean"], "nu": tree.nu.values, "draw": tree.draw.values, "question": ("example", [title])}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=coords, attrs=tree.attrs), **nodes})


def label_of(texts: list[str]) -> str:
    """One label for the texts that stand at one position."""
    return texts[0] if len(set(texts)) == 1 else f"{len(set(texts))} words"


def section_of(tree: xr.DataTree, every: xr.DataTree, image: xr.DataArray) -> str:
    """The numbers of one data set: the runs, and of each component the mean of every layer."""
    total, corrupted = nnblip.total_effect(tree)["corrupted"].probability, tree["corrupted"].probability
    gamma, effects = nnblip.gamma(tree).sel(kind="block").isel(nu=0), restored(tree)

    def over_images(values: xr.DataArray, support: tuple[float, float] | None = None) -> str:
        values = values.mean("draw") if "draw" in values.dims else values
        return str(mean(by_image(values, image), support))

    layers: dict[int, list[str]] = {}
    for at, component in enumerate(TEXT_COMPONENTS):
        values = by_image(by_layer(of_examples(effects, component)), image)
        for layer in tree[component].layer.values.tolist():
            row = layers.setdefault(layer, [""] * len(TEXT_COMPONENTS))
            if layer in values.layer:
                row[at] = mean(values.sel(layer=layer)).bare
    rows = [["layer", *(f"{c.replace('_', ' ')}, mean over tokens" for c in TEXT_COMPONENTS)]]
    rows += [[str(layer), *cells] for layer, cells in layers.items()]
    defined = gamma[ENCODER].notnull().sum().item()
    gammas = "; ".join(f"{c.replace('_', ' ')} {over_images(gamma[c], SHARE)}" for c in TEXT_COMPONENTS)
    told = gammas if defined else "none: the noise takes away too little in every example"
    longer = (every[DECODER].token_text != "").sum("token") > tree[DECODER].sizes["token"]
    images, examples = len(set(image.values.tolist())), tree.sizes["example"]
    return f"""{examples} examples about {images} images; {int((every.status == "failed").sum())} could not be traced;\
 {len(set(tree.answer.values))} different answers. {int(longer.sum())} answers have more tokens than the shortest; what\
 they have more is in the dataset, not in the maps.

P(answer): clean {over_images(tree["clean"].probability, (0, 1))}; corrupted\
 {over_images(corrupted.isel(nu=0), (0, 1))}; total effect {over_images(total.isel(nu=0))}. Γ, the mean relevance of\
 the map, of the {defined} examples that have one: {told}.

Indirect effects with {intervals_are()}; blank where a layer restores by construction:

{table(*rows)}"""


def run(run: Run) -> None:
    def asked(example: nnblip.Example) -> bool:
        return example.question_type == "color" and len(example.question.split()) == 7

    apart = [source.name for source in run.sources] != ["palit"]
    groups = run.choose(by_type=False, keep=asked, in_order=True, aligned=True, apart=apart)
    verdicts: dict[str, dict[str, tuple[xr.DataArray, str]]] = {"encoder": {}, "decoder": {}, "more": {}}
    for group in groups:
        name = group.name
        every = run.sweep(name, [replace(example, answer=None) for example in group.examples])
        tree = shared(every)
        image = tree.coords["image_id" if "image_id" in tree.coords else "image"]
        means = mean_of(tree, f"Mean of {tree.sizes['example']} color questions of seven words, {name}")
        run.keep(f"mean_{name}", means)
        for component, value in product(TEXT_COMPONENTS, ("probability", "indirect_effect")):
            run.figure(f"{name}_{component}_{value}", nnblip.plot.heatmap(means, component, value=value))
        run.section(name, section_of(tree, every, image))
        if len(set(image.values.tolist())) < run.experiment.least:
            continue
        effects = restored(tree)
        maps = {component: of_examples(effects, component) for component in TEXT_COMPONENTS}
        for key, component in (("encoder", ENCODER), ("decoder", DECODER)):
            values = by_image(later_minus_earlier(maps[component]), image)
            verdicts[key][name] = values, "later minus earlier half of the layers"
        picked = {c: strongest(maps[c], ("layer", "token"), image) for c in TEXT_COMPONENTS}
        said = "; ".join(f"{c.replace('_', ' ')} {n}{'' if m is None else f', {m}'}" for c, (n, m, _) in picked.items())
        run.section(
            f"{name}: the strongest states", f"Chosen by one half of the examples, measured on the other: {said}."
        )
        verdicts["more"][name] = (
            picked[DECODER][2] - picked[ENCODER][2],
            "strongest of the decoder minus of the encoder",
        )
    for key, found in verdicts.items():
        level = of_several(len(found))
        run.claim(
            key, everywhere({name: above(mean(values, level=level), 0, what) for name, (values, what) in found.items()})
        )


EXPERIMENT = Experiment(
    name="paper_heatmaps",
    question="What do the maps of Palit et al. 2023 look like, and do later layers matter more in them?",
    claims={
        "encoder": "In the question encoder, later layers matter more than earlier ones",
        "decoder": "In the answer decoder, later layers matter more than earlier ones",
        "more": "The strongest state of the answer decoder restores more than the strongest of the question encoder",
    },
    run=run,
    figure="scenes_answer_decoder_indirect_effect",
    defaults=Defaults(n=24, nu=(5.0,)),
    needs=("types", "images"),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
