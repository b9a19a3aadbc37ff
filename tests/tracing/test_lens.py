"""lens: labels, padding, storing, servers, what is refused (the numbers: tests/passes/test_reading.py)."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers.errands import Server
from helpers.scenes import question_of, visible
from helpers.sweeps import same_as_trace

import nnblip
from nnblip import demo
from nnblip.errors import InputError, ModelError, NnblipWarning, SettingError
from nnblip.passes.measure import Asked
from nnblip.passes.reading import lens
from nnblip.remote import client
from nnblip.results import VARIABLES


@pytest.fixture(scope="module")
def examples(model):
    """Three questions, of different lengths, with answers of one token and of two."""
    return [visible(model)[:2], (*question_of(0, "number"), "two"), demo.examples()[0]]


@pytest.fixture(scope="module")
def tree(model, examples):
    return nnblip.lens(model, examples)


def test_both_lenses_have_labelled_axes(model, tree):
    decoder, logit = (tree[name].to_dataset() for name in ("decoder_lens", "logit_lens"))
    assert decoder.probability.dims == ("example", "layer") and decoder.sizes["layer"] == 6
    assert logit.probability.dims == ("example", "layer", "token") and logit.sizes["token"] == 2
    for node in (decoder, logit):
        assert list(node.data_vars) == [*VARIABLES, "said_probability"]
        assert node.said.dims == node.probability.dims
        assert {one.dtype for one in node.data_vars.values()} == {np.dtype("float32")}
    assert logit.token_text.values.tolist() == [["[DEC]", "dark"], ["[DEC]", ""], ["[DEC]", ""]]
    assert logit.role.values[0].tolist() == ["[DEC]", "answer word"]
    assert logit.answer_text.values[:2].tolist() == [["dark", "blue"], ["two", ""]]
    assert (logit.rival_text.values[:, 0] == tree.coords["rival"].values).all()
    assert np.isnan(logit.probability[1:, :, 1]).all() and (logit.said[1:, :, 1] == "").all()
    assert np.isfinite(logit.probability[0]).all() and np.isfinite(decoder.probability).all()
    assert tree.attrs["reading"] == "lens" and tree.coords["answer"].values[0] == "dark blue"


def test_the_numbers_are_those_of_a_pass_and_the_last_layer_says_the_answer(model, tree, examples):
    for number, one in enumerate(examples):
        example = nnblip.Example.of(one)
        answer = None if example.answer is None else model.encode_answer(example.answer)
        found = lens(model, Asked(model.encode(example), answer))
        for place, name in enumerate(VARIABLES):
            np.testing.assert_array_equal(tree["decoder_lens"][name][number], found.decoder_lens[place])
            width = len(found.answer_ids)
            np.testing.assert_array_equal(tree["logit_lens"][name][number, :, :width], found.logit_lens[place])
    for number, predicted in enumerate(tree.coords["predicted"].values):
        said = [tree[name].said.values[number, -1] for name in ("decoder_lens", "logit_lens")]
        assert said[0] == said[1][0] == predicted.split()[0]
    early = tree["decoder_lens"].isel(layer=0).probability.values[[0, 2]]
    late = tree["decoder_lens"].isel(layer=-1).probability.values[[0, 2]]
    assert (late - early > 0.3).all(), "layers that all say the same would prove nothing"


def test_a_layer_of_either_lens_is_the_answer_of_an_edited_run(model, tree, examples):
    image, question = examples[0]
    for layer in (1, 3):
        with model.clean(image, question, "dark blue") as clean:
            block = model.question_encoder.layer[layer].output
            model.question_encoder.layer[5].output = block
        found = tree["decoder_lens"].isel(example=0, layer=layer)
        for name in VARIABLES[:2]:
            assert float(found[name]) == pytest.approx(getattr(clean, name), abs=1e-4)
        with model.clean(image, question, "dark blue") as clean:
            block = model.answer_decoder.layer[layer].output
            model.answer_decoder.layer[5].output = block
        found = tree["logit_lens"].isel(example=0, layer=layer)
        assert float(found.log_probability.sum()) == pytest.approx(clean.log_probability, abs=1e-4)


def test_a_chosen_rival_is_the_one_in_the_logit_difference(model, tree, examples):
    held = nnblip.lens(model, examples[:1], rival="star")
    assert held.coords["rival"].item() == held["logit_lens"].rival_text.values[0, 0] == "star"
    assert tree.coords["rival"].values[0] != "star" and held.attrs["rival"] == "star"
    for node in ("decoder_lens", "logit_lens"):
        np.testing.assert_array_equal(held[node].probability[0], tree[node].probability[0])
    assert held["logit_lens"].rival_text.values[0, 1] == tree["logit_lens"].rival_text.values[0, 1]
    gap = held["decoder_lens"].logit_difference[0] - tree["decoder_lens"].logit_difference[0]
    assert float(abs(gap).max()) > 0.1


def test_it_is_stored_and_opened(tree, tmp_path):
    nnblip.results.save(tree, tmp_path / "lens.zarr")
    assert xr.open_datatree(tmp_path / "lens.zarr").identical(tree)


def test_a_server_gives_the_same(model, there, tree, examples, monkeypatch):
    server = Server(model)
    monkeypatch.setattr(client, "ask", server)
    same_as_trace(nnblip.lens(there, examples), tree)
    assert server.asked == len(examples)


PAIR = (np.zeros((8, 8, 3), np.uint8), "what is the color of the circle")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"rival": ""}, SettingError, "rival ''"),
        ({"rival": "xylophone"}, InputError, "example 0: rival 'xylophone'"),
        (
            {"examples": [(*PAIR, "red")], "rival": "red"},
            InputError,
            "rival 'red': it is the first token of the traced",
        ),
        ({"examples": None}, SettingError, "examples None"),
        ({"examples": [PAIR, ("no.png", "what")]}, InputError, "example 1: image 'no.png': there is no such file"),
        ({"examples": [PAIR, PAIR]}, SettingError, "two examples have the id"),
    ],
)
def test_what_cannot_be_read_is_refused(model, wrong, error, said):
    with pytest.raises(error, match=said):
        nnblip.lens(model, **{"examples": [PAIR], **wrong})


def test_a_model_that_is_none_is_refused(model):
    with pytest.raises(ModelError, match=r"expected what nnblip\.BlipVQA"):
        nnblip.lens(model._module, [PAIR])


def test_fields_called_as_the_lenses_get_other_names(model):
    example = nnblip.Example(*PAIR, extra={"logit_lens": "mine"})
    with pytest.warns(NnblipWarning, match="'logit_lens' -> 'extra_logit_lens'"):
        found = nnblip.lens(model, [example])
    assert found.coords["extra_logit_lens"].item() == "mine"
