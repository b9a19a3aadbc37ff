"""`cross_modal` finds what is planted: the layer at which the picture enters, and nothing before it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import xarray as xr

import nnblip
from nnblip.datasets.records import Dataset
from nnblip.examples import Example
from nnblip.experiments import index, perform
from nnblip.experiments.claims import FAILS, HOLDS, OPEN
from nnblip.experiments.options import Options
from nnblip.experiments.sources import Source

#: Seeds of plants by the layer at which the question encoder's cross-attention reads the picture, in no other.
SEEDS = {3: 0, 1: 3}


def plant_reading_at(layer: int, examples: int) -> nnblip.plants.Plant:
    plant = nnblip.planted("layer", SEEDS[layer], examples)
    reading = [site for site in plant.sites if site.kind == "crossattention_out"]
    assert {site.layer for site in reading if site.component == "question_encoder"} == {layer}
    return plant


def questions(plant: nnblip.plants.Plant) -> list[Example]:
    """Half of the pictures are red where it counts, half blue, and each is of one question."""
    found = []
    for number, example in enumerate(plant.examples):
        picture, answer = (example.image, "red") if number % 2 else (example.partner, "blue")
        extra = {"image_id": str(number)}
        found.append(Example(picture, example.question, answer, id=str(number), extra=extra))
    return found


def run(plant: nnblip.plants.Plant, folder: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    dataset = Dataset.of("plant", questions(plant))
    monkeypatch.setattr(Options, "load", lambda self: plant.model)
    monkeypatch.setattr(nnblip.experiments.run, "opened", lambda *_: [Source("plant", dataset, list(dataset))])
    experiment = replace(index.load("cross_modal"), least=8)
    perform(experiment, experiment.options(folder, n=10, nu=(3.0,), draws=2))
    return (folder / "summary.md").read_text(), json.loads((folder / "claims.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("layer", (3, 1))
def test_the_layer_that_reads_the_picture_is_found_and_what_follows_from_it(layer, tmp_path, monkeypatch):
    """Of four layers 3 is a later one, before which picture and words are apart, and 1 and 2 are the middle ones."""
    plant = plant_reading_at(layer, 10)
    summary, claims = run(plant, tmp_path / "out", monkeypatch)
    result = xr.open_datatree(tmp_path / "out" / "picture.zarr")
    assert float(nnblip.total_effect(result)["corrupted"].probability.mean()) > 0.1, "there is an effect"
    assert f"The picture enters at layer {layer}, and without any other's cross-attention little is lost." in summary
    assert f"Layer {layer} is the first whose states depend on it." in summary
    said = {name: verdict["said"] for name, verdict in claims.items()}
    later = layer == 3
    del said["late"]  # what one of seven tokens restores is 1/7 in all examples, of which only rounding differs
    assert claims["late"]["because"].startswith(f"later minus middle: {'+0.143' if later else '+0.000'}")
    assert said == {
        "one_place": HOLDS,
        "maps": OPEN,  # its words do not matter
        "looks": OPEN,  # it has no boxes
        "apart_cut": HOLDS if later else FAILS,
        "apart_alike": HOLDS if later else FAILS,
        "apart_probe": HOLDS if later else OPEN,  # of ten examples all are read, without a picture half of them
        "apart_said": HOLDS if later else FAILS,
        "carried": FAILS if later else OPEN,
        "overridden": HOLDS if later else FAILS,
        "later_suffice": HOLDS if later else FAILS,
        "apart": HOLDS if later else FAILS,
        "override": FAILS,
    }
    assert "a damaged question has too little effect" in claims["maps"]["because"]
    read = xr.open_datatree(tmp_path / "out" / "probes.zarr").right.sel(task="answer").mean("example")
    assert (read.sel(layer=slice(layer, None)) == 1).all() and (read.sel(layer=slice(layer - 1)) < 0.8).all()
