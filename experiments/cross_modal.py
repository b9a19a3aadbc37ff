#!/usr/bin/env python
"""Are picture and words processed apart in the middle layers?

    nnblip experiment cross_modal
    nnblip experiment cross_modal --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download \\
        --types color --nu 5 --n 200

Palit et al. 2023 find that restoring states of the middle layers brings next to nothing back, and offer two readings:
picture and words are processed apart there, or the later layers override what the middle ones have found. Each reading
says more than that, and what it says is tried here on questions of one type, each about a picture of its own: maps for a
damaged picture beside maps for a damaged question, cross-attention (where it looks, what it adds), the likeness of states
with their picture, another one and none (debiased CKA), linear probes with control tasks (Hewitt and Liang 2019), what
the decoder says of each layer's states (`nnblip.lens`), and cross-attention cut layer by layer.

Early, middle and later are thirds of the question encoder's layers. A share is a ratio of means over examples. A reading
holds if all that it says does, and fails if something of it fails; the intervals of one reading hold together. The maps,
cuts, lens and attention are of the first examples only (see `TRACED`), CKA and probes of all.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import xarray as xr
from PIL import ImageStat

import nnblip
from nnblip import effects
from nnblip.effects import THRESHOLD
from nnblip.errors import SettingError
from nnblip.examples import Example, load_image
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import (
    ALPHA, FAILS, HOLDS, OPEN, Verdict, above, below, differ, everywhere, holm, of_several,
)  # fmt: skip
from nnblip.experiments.figures import line, tidy
from nnblip.experiments.gaze import gaze
from nnblip.experiments.numbers import bounds, compared, intervals_are, mean, means
from nnblip.experiments.parts import EXACT, share, shares, thirds
from nnblip.experiments.probes import by_lot, most_common, probe, require
from nnblip.experiments.readouts import EVERY, RUNS, readouts
from nnblip.experiments.similarity import chance, linear_cka, pseudovalues
from nnblip.experiments.texts import listed, table
from nnblip.sites import KnockOut, all_tokens

#: Of so many examples there are maps, cuts, lens and attention.
TRACED = 24
#: So many times a control task is drawn.
LOTS = 3
#: What is said to be next to nothing of an effect, and the most of it; and states that are said to be the same.
LITTLE, HALF, SAME = 0.1, 0.5, 0.9
#: What each of the paper's readings says, by the claims.
READINGS = {"apart": ("apart_cut", "apart_alike", "apart_probe", "apart_said"),
            "override": ("carried", "overridden", "later_suffice")}  # fmt: skip


# --- what is measured ----------------------------------------------------------------------


def questions(run: Run) -> list[Example]:
    """Of one type: else the type of a question would say something of its answer without any picture."""
    if len(run.sources) > 1:
        raise SettingError(
            f"dataset {' '.join(run.options.dataset)}: cross_modal takes one data set; run it for each, with its own --out"
        )
    source = run.sources[0]
    kinds = Counter(source.type_of(e) for e in source.examples)
    most = None if run.options.types or len(kinds) < 2 else kinds.most_common(1)[0][0]
    (group,) = run.choose(by_type=False, keep=lambda e: most is None or source.type_of(e) == most)
    asked = ", ".join(run.options.types) or most
    answers = Counter(str(e.answer) for e in group.examples)
    said = listed([f"{answer} {count}" for answer, count in answers.most_common(5)])
    run.section(
        "Examples",
        f"{len(group.examples)} questions{f' of type {asked}' if asked else ''} in"
        f" {len({e.question for e in group.examples})} wordings, each about a picture of its own. Their answers: {said}"
        f"{f' and {len(answers) - 5} more' if len(answers) > 5 else ''}. Maps, cuts, lens and attention are of the first"
        f" {min(TRACED, len(group.examples))}.",
    )
    return group.examples


def cuts(parts: dict[str, range]) -> dict[tuple[str, int], KnockOut]:
    """Layers whose cross-attention is cut: each alone, all up to it, all from it on, and the middle ones."""
    layers = parts["later"].stop
    spans = {("middle", 0): parts["middle"], ("all", 0): range(layers)}
    for layer in range(layers):
        spans |= {("alone", layer): range(layer, layer + 1), ("up to", layer): range(layer + 1),
                  ("from", layer): range(layer, layers)}  # fmt: skip
    return {name: nnblip.knock_out("image_to_question", layers=span) for name, span in spans.items()}


def cut_effects(tree: xr.DataTree, cells: dict[tuple[str, int], KnockOut]) -> xr.Dataset:
    """Effects on P(answer): `alone`, `up to` and `from` (example, layer), `middle` and `all` (example)."""
    effect = effects.knock_out_effect(tree).probability.reset_coords(drop=True)
    layers = sorted({layer for _, layer in cells})
    found = {}
    for how in dict.fromkeys(how for how, _ in cells):
        names = [cells[how, layer].name for layer in layers if (how, layer) in cells]
        one = effect.sel(knock_out=names)
        one = one.isel(knock_out=0, drop=True) if len(names) == 1 else one.rename(knock_out="layer")
        found[how] = one.drop_vars("layer", errors="ignore")
    return xr.Dataset(found).assign_coords(layer=layers)


def restored(tree: xr.DataTree, component: str = "question_encoder") -> xr.DataArray:
    """Effects on P(answer) of restoring one token's state, mean over tokens and draws: (example, layer)."""
    found = effects.indirect_effect(tree)[component].probability
    found = found.where(~effects.structural(tree)[component].structural)
    return found.isel(nu=0).sel(kind="block").mean(("draw", "token")).reset_coords(drop=True)


def restored_whole(tree: xr.DataTree) -> xr.DataArray:
    """The same of all tokens of a layer together; the last layer's restore by construction."""
    found = effects.indirect_effect(tree)["cells"].probability.isel(nu=0).mean("draw")
    return found.assign_coords(cell=found.layer.values).reset_coords(drop=True).rename(cell="layer")


def damage(tree: xr.DataTree) -> xr.DataArray:
    return effects.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").reset_coords(drop=True)


def likeness(states: xr.DataArray) -> xr.Dataset:
    """Debiased CKA by pair of runs and layer: `cka`, `values` of each example, `p` against chance, and `chance`.

    Args:
        states: (example, run, layer, hidden), runs as `readouts` has them.
    """
    run = {name: states.sel(run=name).values for name in RUNS}
    shifted = np.roll(run["clean"], -1, 0)
    pairs = {
        "same words, another picture": (run["clean"], run["another picture"]),
        "same picture, other words": (shifted, run["another picture"]),
        "same words, no picture": (run["clean"], run["no picture"]),
        "same words, damaged picture": (run["clean"], run["damaged picture"]),
    }
    found: dict[str, list[list[object]]] = {name: [] for name in ("cka", "values", "p", "chance")}
    for a, b in pairs.values():
        each = [(a[:, layer], b[:, layer]) for layer in range(a.shape[1])]
        nulls = [chance(*one) for one in each]
        rows = ([linear_cka(*one) for one in each], [pseudovalues(*one) for one in each],
                [one.p for one in nulls], [one.high for one in nulls])  # fmt: skip
        for name, row in zip(found, rows, strict=True):
            found[name].append(list(row))
    dims = {name: ("pair", "layer", "example") if name == "values" else ("pair", "layer") for name in found}
    coords = {"pair": list(pairs), "layer": states.layer.values, "example": states.example.values}
    return xr.Dataset({name: (dims[name], np.array(rows)) for name, rows in found.items()}, coords)


def contents(examples: list[Example]) -> dict[str, list[str]]:
    """What is in each picture whatever is asked: its brightness, and how many objects, where the data set says so."""
    light = [ImageStat.Stat(load_image(e.image).convert("L")).mean[0] for e in examples]
    found = {"brightness": ["bright" if one > np.median(light) else "dark" for one in light]}
    if all("objects" in e.extra for e in examples):
        found["objects"] = [str(e.extra["objects"]) for e in examples]
    return found


def probed(states: xr.DataArray, examples: list[Example], seed: int) -> xr.Dataset:
    """Which examples linear probes read, `right` (task, layer, example) and `by_role` (readout, layer, example).

    The tasks are the answer, the same out of states without a picture, a control task, and what is in the picture.
    `guess` (task) is how often the most common label would be right.
    """
    answers, words = [str(e.answer) for e in examples], [e.question for e in examples]

    def over(labels: list[str], run: str = "clean", readout: str = EVERY) -> list[np.ndarray]:
        chosen = states.sel(run=run, readout=readout)
        return [probe(chosen.sel(layer=layer).values, labels, seed=seed) for layer in states.layer.values]

    lots = [by_lot(answers, words, seed + number) for number in range(LOTS)]
    right = {"answer": over(answers), "answer, no picture": over(answers, "no picture"),
             "control": list(np.mean([over(lot) for lot in lots], 0))}  # fmt: skip
    guess = [most_common(answers)] * 2 + [np.mean([most_common(lot) for lot in lots])]
    for name, labels in contents(examples).items():
        right[name], guess = over(labels), [*guess, most_common(labels)]
    by_role = [over(answers, readout=readout) for readout in states.readout.values]
    return xr.Dataset(
        {
            "right": (("task", "layer", "example"), np.array(list(right.values()))),
            "by_role": (("readout", "layer", "example"), np.array(by_role)),
            "guess": ("task", guess),
        },
        {"task": list(right), "layer": states.layer, "readout": states.readout, "example": states.example},
    )
