"""`result.nnblip`: the functions of nnblip as methods, and tokens chosen by what they are."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from helpers.trees import QUESTIONS, random_tree

import nnblip
from nnblip import effects
from nnblip.errors import NnblipError, ResultError


@pytest.fixture(scope="module")
def tree():
    return nnblip.effects.with_roles(random_tree(layers=3))


def test_methods_are_the_functions(tree):
    for name, settings in (
        ("total_effect", {}), ("indirect_effect", {}), ("relevance", dict(threshold=0.2)), ("gamma", dict(pooled=True)),
        ("interval", dict(over="draws", resamples=100)),
    ):  # fmt: skip
        found, expected = getattr(tree.nnblip, name)(**settings), getattr(effects, name)(tree, **settings)
        assert found.identical(expected), name
    asked = dict(nu=5.0, example="example-0")
    assert tree.nnblip.strongest(3, **asked) == effects.strongest(tree, 3, **asked)
    assert tree.nnblip.diagnose() == nnblip.diagnose(tree)


def test_every_figure_of_a_result_is_there(tree):
    asked = dict(nu=5.0, example="example-0")
    drawn = nnblip.plot.heatmap(tree, "question_encoder", **asked)
    for figure in (tree.nnblip.heatmap(**asked), tree.nnblip.plot.heatmap("question_encoder", **asked)):
        one, other = (
            [mesh.get_array() for axes in f.axes for mesh in (*axes.images, *axes.collections)] for f in (figure, drawn)
        )
        assert one and len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert {"heatmap", "gamma", "heads", "picture", "circuit", "knock_outs"} <= set(dir(tree.nnblip.plot))
    with pytest.raises(NnblipError, match=re.escape("did you mean 'heatmap'?")):
        tree.nnblip.plot.heatmp()
    assert not hasattr(tree.nnblip.plot, "_repr_html_")


def test_save_and_open(tree, tmp_path):
    path = tree.nnblip.save(tmp_path / "one.zarr")
    xr.testing.assert_equal(nnblip.open(path)["corrupted"].to_dataset(), tree["corrupted"].to_dataset())
    with pytest.raises(ResultError, match="exists already"):
        nnblip.save(tree, path)


def test_a_token_is_found_in_each_question_at_its_own_place(tree):
    places = [tokens.index("is") if "is" in tokens else None for tokens in QUESTIONS]
    assert places == [2, None, 2]
    some = tree.isel(example=[0, 2])
    moved = some.map_over_datasets(lambda node: node)  # the word of the third question one place later
    question = some["question_encoder"].to_dataset(inherit=False)
    last = [QUESTIONS[0].index("ball"), QUESTIONS[2].index("dog")]
    texts = question.token_text.values.copy()
    texts[1, last[1]] = "ball"
    moved["question_encoder"] = xr.DataTree(question.assign_coords(token_text=(("example", "token"), texts)))
    assert last == [7, 4]
    found = moved.nnblip.token("ball")
    for number, place in enumerate(last):
        np.testing.assert_array_equal(
            found["question_encoder"].probability.isel(example=number),
            some["question_encoder"].probability.isel(example=number, token=place),
        )
    assert found["question_encoder"].token.values.tolist() == last
    xr.testing.assert_identical(found["answer_decoder"].to_dataset(), moved["answer_decoder"].to_dataset())
    array = moved["question_encoder"].probability.nnblip.token("Ball")
    np.testing.assert_array_equal(array, found["question_encoder"].probability)
    node = moved["question_encoder"].nnblip.token("ball")
    np.testing.assert_array_equal(node.probability, array)
    # effects of a word are the word of the effects
    np.testing.assert_array_equal(
        found.nnblip.relevance()["question_encoder"].probability,
        moved.nnblip.relevance().nnblip.token("ball")["question_encoder"].probability,
    )


def test_a_token_that_is_missing_repeated_or_in_pieces_is_refused(tree):
    with pytest.raises(ResultError, match=re.escape("token 'how' is not in example 'example-0'")):
        tree.nnblip.token("how")
    one = tree.sel(example="example-0")
    with pytest.raises(ResultError, match=re.escape("example 'example-0' has it 3 times, at 3, 6, 10")):
        one.nnblip.token("the")
    answer = tree.sel(example="example-1")["answer_decoder"].to_dataset()
    with pytest.raises(ResultError, match=re.escape("2 pieces in '[DEC] twenty ##one', 1 'twenty', 2 '##one'")):
        answer.nnblip.token("twentyone")
    assert answer.nnblip.token("##one").token == 2
    with pytest.raises(ResultError, match="no question tokens here"):
        tree.drop_nodes("question_encoder").nnblip.token("the")
    with pytest.raises(ResultError, match="no token_text"):
        tree["clean"].probability.nnblip.token("the")


@pytest.mark.parametrize("role", ["last content word", "function word", "[CLS]"])
def test_a_role_is_the_average_by_role(tree, role):
    expected = effects.by_role(tree.drop_nodes("answer_decoder"))["question_encoder"].to_dataset().sel(role=role)
    found = tree.nnblip.role(role)
    xr.testing.assert_identical(found["question_encoder"].to_dataset(), expected)
    xr.testing.assert_identical(found["answer_decoder"].to_dataset(), tree["answer_decoder"].to_dataset())
    array = tree["question_encoder"].probability.nnblip.role(role)
    assert array.name == "probability"
    np.testing.assert_array_equal(array, expected.probability)
    np.testing.assert_array_equal(tree["question_encoder"].nnblip.role(role).probability, expected.probability)


def test_a_misspelt_role_is_refused(tree):
    with pytest.raises(ResultError, match=re.escape("did you mean 'last content word'?")):
        tree.nnblip.role("last contnt word")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_it_is_there_once_both_are_used_and_importing_nnblip_alone_stays_light():
    heavy = "print(sorted({'xarray', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    assert run(f"import sys, nnblip; dir(nnblip); {heavy}") == "[]"
    assert run("import xarray, nnblip; print(hasattr(xarray.DataTree(), 'nnblip'))") == "True"
    assert run("import nnblip, xarray; nnblip.open; print(hasattr(xarray.DataTree(), 'nnblip'))") == "True"
