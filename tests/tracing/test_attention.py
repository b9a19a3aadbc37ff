"""attention: labels, padding, storing, servers, what is refused (the numbers: tests/passes/test_reading.py)."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers.errands import Server
from helpers.scenes import question_of, visible
from helpers.sweeps import same_as_trace

import nnblip
from nnblip import demo
from nnblip.errors import InputError, ModelError, SettingError, SiteError
from nnblip.passes.measure import Asked
from nnblip.passes.reading import ATTENTIONS, attend
from nnblip.remote import client
from nnblip.sites import COMPONENTS

#: Node: what its tokens and its sources are, by their last texts of the first example.
NODES = {
    "question_encoder/attention": ("[SEP]", "[SEP]"),
    "question_encoder/crossattention": ("[SEP]", "row 7 column 7"),
    "answer_decoder/attention": ("dark", "dark"),
    "answer_decoder/crossattention": ("dark", "[SEP]"),
    "image_encoder/attention": ("row 7 column 7", "row 7 column 7"),
}


@pytest.fixture(scope="module")
def examples(model):
    """Three questions, of different lengths, with answers of one token and of two."""
    first = nnblip.Example(*visible(model)[:2], question_type="color", id="first", extra={"scene": 3})
    return [first, (*question_of(0, "number"), "two"), demo.examples()[0]]


@pytest.fixture(scope="module")
def tree(model, examples):
    return nnblip.attention(model, examples, COMPONENTS)


def leaves(tree):
    return {node.path.strip("/"): node.to_dataset() for node in tree.leaves}


def test_every_attention_has_a_node_with_labelled_axes(model, tree, examples):
    assert {name.rpartition("/")[0] for name in NODES} == set(COMPONENTS)
    assert leaves(tree).keys() == NODES.keys()
    for name, node in leaves(tree).items():
        assert node.attention.dims == ("example", "layer", "head", "token", "source")
        assert ("grad_cam" in node) == name.endswith("crossattention")
        assert node.attention.dtype == np.float32
        first = node.isel(example=0)
        texts = (first[f"{axis}_text"].values.tolist() for axis in ("token", "source"))
        assert tuple([text for text in each if text][-1] for each in texts) == NODES[name]
        has_image = "image" in name or name == "question_encoder/crossattention"
        assert node.attrs.get("grid") == ([8, 8] if has_image else None)
        for axis in ("layer", "head", "token", "source"):
            assert node[axis].values.tolist() == list(range(node.sizes[axis]))
    question = tree["question_encoder/attention"]
    assert question.token_text.values[0, :4].tolist() == ["[CLS]", "what", "is", "the"]
    assert question.role.values[0, :2].tolist() == ["[CLS]", "question word"]
    assert tree["answer_decoder/attention"].role.values[0].tolist() == ["[DEC]", "answer word"]


def test_rows_sum_to_1_and_what_a_question_lacks_is_nan(model, tree, examples):
    lengths = [len(model.encode(nnblip.Example.of(one)).tokens) for one in examples]
    answers = [len(ids) for ids in ([0, 0], [0], [0])]
    assert len(set(lengths)) > 1 and tree.coords["answer"].values.tolist()[0] == "dark blue"
    sizes = {"question_encoder": lengths, "answer_decoder": answers, "image_encoder": [65] * 3}
    for name, node in leaves(tree).items():
        component, kind = name.split("/")
        read = "image_encoder" if component == "question_encoder" else "question_encoder"
        sources = sizes[component if kind == "attention" else read]
        for number, (tokens, source) in enumerate(zip(sizes[component], sources, strict=True)):
            for variable in node.data_vars.values():
                one = variable.values[number]
                assert np.isfinite(one[..., :tokens, :source]).all(), name
                assert np.isnan(one[..., tokens:, :]).all() and np.isnan(one[..., source:]).all()
            sums = node.attention.values[number, ..., :tokens, :source].sum(-1)
            assert sums == pytest.approx(np.ones_like(sums), abs=1e-5)
            if component != "image_encoder":
                assert (node.token_text.values[number] != "").sum() == tokens
    assert any(np.isnan(node.attention).any() for node in leaves(tree).values())


def test_the_numbers_of_an_example_are_those_of_a_pass_of_its_own(model, tree, examples):
    for number, one in enumerate(examples):
        example = nnblip.Example.of(one)
        answer = None if example.answer is None else model.encode_answer(example.answer)
        found = attend(model, COMPONENTS, ATTENTIONS, True, Asked(model.encode(example), answer))
        for (component, kind), weights in found.weights.items():
            node, cam = tree[f"{component}/{kind}"], found.grad_cam.get((component, kind))
            for name, wanted in (("attention", weights), ("grad_cam", cam)):
                if wanted is not None:
                    got = node[name].values[number][tuple(map(slice, wanted.shape))]
                    np.testing.assert_array_equal(got, wanted)
    assert float(tree["question_encoder/crossattention"].grad_cam.max()) > 1e-6


def test_the_root_says_of_what_and_by_what_it_is(model, tree, examples):
    coords = tree.coords
    assert coords["example"].values[0] == "first" and coords["question_type"].values[0] == "color"
    assert coords["scene"].values.tolist() == ["3", "", ""]
    assert coords["question"].values[2] == examples[2].question
    assert coords["answer"].values[1] == "two" and coords["predicted"].values[0] == "dark blue"
    assert {"model", "dtype", "git_commit", "version_nnsight", "created", "edits"} <= tree.attrs.keys()
    assert tree.attrs["reading"] == "attention" and tree.attrs["grad_cam_of"] == "log_probability of the answer"


def test_a_part_of_it_is_a_part_of_it(model, tree, examples):
    part = nnblip.attention(model, examples, "question_encoder", kinds="crossattention", grad_cam=False)
    assert leaves(part).keys() == {"question_encoder/crossattention"}
    node = leaves(part)["question_encoder/crossattention"]
    assert list(node.data_vars) == ["attention"] and "grad_cam_of" not in part.attrs
    xr.testing.assert_allclose(node.attention, tree["question_encoder/crossattention"].attention, atol=1e-6)
    default = nnblip.attention(model, examples[0])
    assert leaves(default).keys() == {name for name in NODES if not name.startswith("image")}


def test_it_is_stored_and_opened(tree, tmp_path):
    nnblip.results.save(tree, tmp_path / "attention.zarr")
    assert xr.open_datatree(tmp_path / "attention.zarr").identical(tree)


def test_a_server_gives_the_same(model, there, tree, examples, monkeypatch):
    server = Server(model)
    monkeypatch.setattr(client, "ask", server)
    same_as_trace(nnblip.attention(there, examples, COMPONENTS), tree)
    assert server.asked == len(examples)
    few = nnblip.attention(there, examples[:1], "answer_decoder", grad_cam=False)
    assert leaves(few).keys() == {"answer_decoder/attention", "answer_decoder/crossattention"}


PAIR = (np.zeros((8, 8, 3), np.uint8), "what is the color of the circle")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (
            {"components": "text_encoder"},
            SiteError,
            r"component 'text_encoder' is unknown.*image_encoder, question_enc",
        ),
        ({"components": ["answer_decodr"]}, SiteError, "did you mean 'answer_decoder'"),
        ({"components": []}, SiteError, "expected one or more different ones of"),
        ({"components": ["answer_decoder"] * 2}, SiteError, "different ones"),
        ({"components": 3}, SiteError, "components 3: expected one or more of"),
        ({"components": "image_encoder", "kinds": "crossattention"}, SiteError, "image_encoder has no crossattention"),
        ({"kinds": "block"}, SiteError, "kind 'block' is unknown.*attention, crossattention"),
        ({"grad_cam": "yes"}, SettingError, "grad_cam 'yes': expected True or False"),
        ({"examples": []}, SettingError, r"examples \[\]"),
        ({"examples": PAIR}, SettingError, "put it in a list"),
        ({"examples": [PAIR, ("no.png", "what")]}, InputError, "example 1: image 'no.png': there is no such file"),
        ({"examples": [PAIR, PAIR]}, SettingError, "two examples have the id"),
        ({"examples": [(*PAIR, "xylophone")]}, InputError, "example 0: answer 'xylophone'"),
    ],
)
def test_what_cannot_be_read_is_refused(model, wrong, error, said):
    with pytest.raises(error, match=said):
        nnblip.attention(model, **{"examples": [PAIR], **wrong})


def test_a_model_that_is_none_is_refused(model):
    with pytest.raises(ModelError, match=r"expected what nnblip\.BlipVQA"):
        nnblip.attention(model._module, [PAIR])
