"""What states say: how alike they are with a picture and without, and what linear probes read out of them. Labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from PIL import ImageStat

from nnblip.examples import Example, load_image
from nnblip.experiments.probes import by_lot, most_common, probe
from nnblip.experiments.readouts import EVERY, RUNS
from nnblip.experiments.similarity import chance, linear_cka, pseudovalues

#: So many times a control task is drawn.
LOTS = 3


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
    found: dict[str, list[list[Any]]] = {name: [] for name in ("cka", "values", "p", "chance")}
    for a, b in pairs.values():
        each = [(a[:, layer], b[:, layer]) for layer in range(a.shape[1])]
        nulls = [chance(*one) for one in each]
        rows: tuple[list[Any], ...] = ([linear_cka(*one) for one in each], [pseudovalues(*one) for one in each],
                [one.p for one in nulls], [one.high for one in nulls])  # fmt: skip
        for name, row in zip(found, rows, strict=True):
            found[name].append(list(row))
    dims = {name: ("pair", "layer", "example") if name == "values" else ("pair", "layer") for name in found}
    coords = {"pair": list(pairs), "layer": states.layer.values, "example": states.example.values}
    return xr.Dataset({name: (dims[name], np.array(rows)) for name, rows in found.items()}, coords)


def contents(examples: Sequence[Example]) -> dict[str, list[str]]:
    """What is in each picture whatever is asked: its brightness, and how many objects, where the data set says so."""
    light = [ImageStat.Stat(load_image(e.image).convert("L")).mean[0] for e in examples]
    found = {"brightness": ["bright" if one > np.median(light) else "dark" for one in light]}
    if all("objects" in e.extra for e in examples):
        found["objects"] = [str(e.extra["objects"]) for e in examples]
    return found


def probed(states: xr.DataArray, examples: Sequence[Example], seed: int) -> xr.Dataset:
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
