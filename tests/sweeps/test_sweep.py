"""sweep: equal to causal_trace; what it refuses; the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.sweeps import FEW, Scenes, same_as_trace

import nnblip
from nnblip.command.cli import main
from nnblip.errors import InputError, NnblipError, ResultError
from nnblip.sites import Site, all_tokens, windows
from nnblip.sweeps import fingerprint
from nnblip.sweeps.verify import check_stored

# --- the numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        dict(nu=[1, 5], draws=2),
        dict(FEW, kinds=["block", "crossattention_head"], cells=windows([1, 3]), direction="noising"),
        dict(FEW, components=["question_encoder"], noise="scale", freeze=["crossattention"], seed=3, max_rows=40),
        dict(FEW, cells=[Site("answer_decoder", layer=1, token=0)]),
        dict(
            FEW,
            components=["image_encoder"],
            regions=2,
            noise_at="pixels",
            knock_out=nnblip.knock_out("image_to_question", [4, 5]),
        ),
    ],
    ids=["plain", "heads and cells", "one component", "cells only", "image regions"],
)
def test_its_numbers_are_those_of_causal_trace_bit_for_bit(model, tmp_path, asked):
    examples = Scenes.of(6)
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **asked)
    same_as_trace(tree, nnblip.causal_trace(model, examples, **asked))
    assert set(tree.status.values) == {"done"} and set(tree.error.values) == {""}
    assert tree["index"].values.tolist() == [str(example.extra["index"]) for example in examples]
    nnblip.results.save(tree, tmp_path / "copy.zarr")
    same_as_trace(nnblip.results.open_result(tmp_path / "copy.zarr"), nnblip.causal_trace(model, examples, **asked))
    assert check_stored(tmp_path / "results.zarr", print) and check_stored(tmp_path / "copy.zarr", print)


def test_cells_of_the_answer_decoder_have_room_for_any_answer_and_keep_only_what_occurs(model, tmp_path):
    examples = Scenes.of(9)
    asked = dict(FEW, cells=all_tokens(component="answer_decoder"))
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **asked)
    plain = nnblip.causal_trace(model, examples, **asked)
    lengths = {len(answer.split()) for answer in plain.answer.values.tolist()}
    assert lengths == {1, 2}, "answers of one and two words are needed here"
    ours, theirs = tree["cells"], plain["cells"]
    assert sorted(ours.cell.values.tolist()) == sorted(theirs.cell.values.tolist())
    for cell in theirs.cell.values.tolist():
        np.testing.assert_array_equal(ours.probability.sel(cell=cell), theirs.probability.sel(cell=cell))


def test_examples_without_ids_are_called_after_their_content_as_in_causal_trace(model, tmp_path):
    examples = [(example.image, example.question) for example in Scenes.of(3)]
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **FEW)
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (dict(draws=2), "setting draws: 1 -> 2"),
        (dict(nu=[3.0]), r"setting nu: \[5.0\] -> \[3.0\]"),
        (dict(seed=1), "setting seed: 0 -> 1"),
        (dict(kinds=["mlp_out"]), "setting kinds"),
        (dict(noise="additive"), r"setting noise: 'Multiplicative\(\)' -> 'Additive\(\)'"),
        (dict(cells=windows(2)), "setting cells"),
        (dict(freeze=["attention"]), "setting freeze"),
    ],
)
def test_other_settings_are_refused_with_the_difference(model, small, change, shown):
    with pytest.raises(ResultError, match=shown):
        nnblip.sweep(model, Scenes.of(4), small, **(FEW | change))


def test_other_examples_model_and_code_are_refused_with_the_difference(model, small, monkeypatch):
    with pytest.raises(ResultError, match="data set: examples: 4 -> 5"):
        nnblip.sweep(model, Scenes.of(5), small, **FEW)
    with pytest.raises(ResultError, match="data set: hash"):
        nnblip.sweep(model, Scenes.of(4, answer="red"), small, **FEW)
    with pytest.raises(ResultError, match="data set: name: 'test scenes' -> ''"):
        nnblip.sweep(model, list(Scenes.of(4)), small, **FEW)
    other = nnblip.BlipVQA()
    with torch.no_grad():  # one weight of four million
        other._module.text_encoder.encoder.layer[3].output.dense.weight[5, 7] += 1e-6
    with pytest.raises(ResultError, match="model and code: weights"):
        nnblip.sweep(other, Scenes.of(4), small, **FEW)
    monkeypatch.setattr(fingerprint, "source_hash", lambda: "changed")
    with pytest.raises(ResultError, match=r"model and code: source: 'code \w+' -> 'changed'"):
        nnblip.sweep(model, Scenes.of(4), small, **FEW)


def test_what_is_no_store_of_a_sweep_is_left_alone(model, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("precious")
    plain = nnblip.results.save(nnblip.causal_trace(model, Scenes.of(1), **FEW), tmp_path / "plain.zarr")
    for there in (tmp_path / "mine.zarr", plain):
        before = sorted(there.rglob("*"))
        with pytest.raises(ResultError, match="not the store of a sweep"):
            nnblip.sweep(model, Scenes.of(1), there, **FEW)
        assert sorted(there.rglob("*")) == before
    with pytest.raises(ResultError, match=r"ends in \.zarr"):
        nnblip.sweep(model, Scenes.of(1), tmp_path / "results", **FEW)


def test_ids_must_differ(model, tmp_path):
    with pytest.raises(InputError, match="examples 0 and 1 have the same id 'twin'"):
        nnblip.sweep(model, Scenes.of(2, id="twin"), tmp_path / "results.zarr", **FEW)
    assert not (tmp_path / "results.zarr").exists()


def test_settings_are_checked_before_anything_is_written(model, tmp_path):
    for wrong in (dict(nu=-1), dict(kinds=["blocks"]), dict(cells=[Site("question_encoder", layer=77, token=0)])):
        with pytest.raises(NnblipError):
            nnblip.sweep(model, Scenes.of(2), tmp_path / "results.zarr", **(FEW | wrong))
    assert not (tmp_path / "results.zarr").exists()


# --- the command ---------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path, capsys, monkeypatch):
    import nnblip.datasets

    asked = {}
    monkeypatch.setattr(
        nnblip.datasets, "open_dataset", lambda spec, **options: asked.update(options, spec=spec) or Scenes.of(40),
        raising=False,
    )  # fmt: skip
    out = tmp_path / "results.zarr"
    words = ["sweep", "cocoqa:there", "--images", "pictures", "--n", "6", "--draws", "2", "--nu", "1", "5"]
    assert main([*words, "--out", str(out)]) == 0
    assert asked == {"spec": "cocoqa:there", "images": "pictures", "strict": False, "allow_outside": False}
    printed = capsys.readouterr().out
    assert "6 examples done, 0 failed, 1 rows of the data set left out" in printed and "row 7: no picture" in printed
    assert "This run: 6 examples, 24 passes" in printed and str(out) in printed
    tree = xr.open_datatree(out)
    effect = (tree["clean"].probability - tree["corrupted"].probability).mean("draw").sel(nu=5)
    for kind in set(tree.question_type.values.tolist()):
        assert f"{float(effect[(tree.question_type == kind).values].mean()):+.4f}" in printed
    stored = json.loads(tree.attrs["sweep"])
    assert stored["setting nu"] == [1.0, 5.0] and stored["data set: name"] == "test scenes"
    assert main([*words, "--out", str(out), "--seed", "1"]) == 2
    assert "setting seed: 0 -> 1" in capsys.readouterr().err


def test_the_command_reads_data_sets_and_chooses_among_them(model, tmp_path, capsys):
    out = tmp_path / "results.zarr"
    words = ["sweep", "scenes", "--n", "12", "--type", "location", "--draws", "1", "--correct-only"]
    assert main([*words, "--out", str(out)]) == 0
    tree = xr.open_datatree(out)
    kept = tree.sizes["example"]
    assert f"kept {kept} of 12 ({12 - kept} left out)" in capsys.readouterr().out and kept > 6
    assert set(tree.question_type.values.tolist()) == {"location"}
    assert tree.answer.values.tolist() == tree.predicted.values.tolist()
    with pytest.raises(InputError, match="did you mean 'scenes'"):
        nnblip.sweep(model, "scene", out)
