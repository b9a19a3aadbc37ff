"""BlipVQA: what is loaded, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from helpers.scenes import question_of

import nnblip
from nnblip import demo
from nnblip.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """A copy of the small model's folder, to spoil."""
    shutil.copytree(demo.MODEL, tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_loads_as_a_hub_id_would_without_a_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nnblip.BlipVQA(folder, device_map="cpu", dtype="bfloat16")
    assert model._module.dtype == torch.bfloat16 and not model._module.training
    assert model.name == str(folder)


def test_accelerate_places_the_model_by_itself(model):
    pair = question_of(0, "number")
    placed = nnblip.BlipVQA(device_map="auto")
    assert placed.answer(*pair) == model.answer(*pair)


def test_the_weights_are_the_ones_in_the_file(model):
    from safetensors.torch import load_file

    stored = load_file(demo.MODEL / "model.safetensors")
    loaded = model._module.state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def pickle_weights(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_encoder.encoder.layer.0.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no configuration"),
        (lambda f: (f / "config.json").write_text("{"), "no configuration"),
        (lambda f: edit_config(f, architectures=["BlipForConditionalGeneration"]), "BlipForConditionalGeneration"),
        (lambda f: edit_config(f, model_type="bert"), "nnblip needs BlipForQuestionAnswering"),
        (pickle_weights, "weights cannot be loaded"),
        (drop_a_weight, "missing or of the wrong shape, such as text_encoder.encoder.layer.0"),
        (lambda f: (f / "model.safetensors").write_bytes(b"0" * 100), "weights cannot be loaded"),
        (lambda f: (f / "processor_config.json").unlink(), "processor"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(folder, spoil, says):
    spoil(folder)
    with pytest.raises(ModelError, match=says):
        nnblip.BlipVQA(folder)


def test_a_model_that_is_nowhere_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="expected a hub id such as"):
        nnblip.BlipVQA("/no/such/folder")


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"dtype": "floaty"}, {"trust_remote_code": True}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ModelError):
        nnblip.BlipVQA(**wrong)


def test_a_missing_name_is_told_at_load(monkeypatch):
    monkeypatch.setitem(nnblip.BlipVQA.task.names, "E_output", "add_nrom")
    with pytest.raises(ModelError, match="a state that nnblip promises is missing"):
        nnblip.BlipVQA()
