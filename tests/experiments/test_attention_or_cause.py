"""attention_or_cause end to end, on a handful of scenes; its numbers are computed anew from what it stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import nnblip
from nnblip import datasets
from nnblip.errors import NnblipError
from nnblip.experiments import index
from nnblip.experiments.run import perform


@pytest.fixture(scope="module")
def experiment():
    return index.load("attention_or_cause")


@pytest.mark.slow
def test_it_says_what_the_maps_say(experiment, tmp_path, model):
    options = experiment.options(tmp_path / "out", dataset=("scenes:300",), n=8, types=("color",))
    perform(experiment, options)
    out = tmp_path / "out"
    assert {path.name for path in out.glob("*.png")} == {"pointing.png", "heads.png", "scenes.png"}
    verdicts = json.loads((out / "claims.json").read_text())
    assert set(verdicts) == set(experiment.claims)
    summary = (out / "summary.md").read_text()

    causal = xr.open_datatree(out / "causal.zarr")
    examples = {e.id: e for e in datasets.generated_scenes(300)}
    effect = causal["clean"].logit_difference - causal["cells"].logit_difference
    effect = effect.isel(nu=0, draw=0).transpose("example", "cell")
    assert float(abs(effect).max()) > 0.5, "a model without effects would pass"
    hits = []
    for one in effect:
        left, upper, right, lower = map(int, examples[one.example.item()].extra["box"].split(","))
        row, column = divmod(int(one.argmax()), 8)
        hits.append(8 * column < right and 8 * column + 8 > left and 8 * row < lower and 8 * row + 8 > upper)
    stored = xr.open_datatree(out / "pointing.zarr")
    by_name = dict(zip(stored["causal"].example.values, stored["causal"].hit.values, strict=True))
    assert [by_name[name] for name in effect.example.values] == hits
    assert f"| causal map | {np.mean(hits):+.3f}" in summary
    assert np.mean(hits) > 0.5, "the small model looks at the object"

    one = examples[stored["attention"].example.values[0]]
    weights = nnblip.attention(model, [one], ["question_encoder"], kinds=["crossattention"], progress=False)
    row = weights["question_encoder/crossattention"].attention.isel(example=0).mean(("token", "head"))[..., 1:]
    truth = effect.sel(example=one.id)
    for layer, values in enumerate(row.values):
        wanted = np.corrcoef(values.argsort().argsort(), truth.values.argsort().argsort())[0, 1]
        found = stored["attention"]["rank"].sel(layer=str(layer)).isel(example=0).item()
        assert found == pytest.approx(wanted, abs=0.02)  # ties aside

    lost = stored["regions"].lost
    assert float(lost.isel(region=0).mean()) > float(lost.isel(region=slice(1, None)).mean())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("attention-0.zarr/**/c/*")}
    perform(experiment, options)
    assert (out / "summary.md").read_text() == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is read off the model again"


def test_without_boxes_it_is_refused_before_anything_is_written(experiment, tmp_path):
    pytest.importorskip("easy_vqa")
    options = experiment.options(tmp_path / "out", dataset=("easy-vqa",))
    with pytest.raises(NnblipError, match="does not say where the objects are"):
        perform(experiment, options)
    assert not (tmp_path / "out").exists()
