"""Knock-outs as cells: the family, what it is called, and what is refused. (Numbers: tests/test_oracle_edges.py.)"""

from __future__ import annotations

import itertools

import pytest

import nnblip
from nnblip import sites
from nnblip.edges import EDGES, KnockOut, check, cuts, describe_knock_out, knock_out
from nnblip.errors import SiteError
from nnblip.sites import Extent

ROLES = ("[CLS]", "question word", "function word", "function word", "attribute word", "[SEP]")
EXTENT = Extent(4, 6, 2, 4, image_layers=3, side=4, roles=ROLES)
SIZES = {"image_to_question": (17, 6), "question_to_question": (6, 6), "question_to_answer": (6, 2)}


@pytest.mark.parametrize("by", ["mask", "mean"])
@pytest.mark.parametrize("edges", list(SIZES))
def test_each_source_by_each_target_by_each_layer_is_every_edge_once(edges, by):
    cells = sites.knock_outs(edges, "each", "each", by=by)(EXTENT)
    sources, targets = SIZES[edges]
    assert [(c.layers, c.source, c.target, c.edges, c.by) for c in cells] == [
        ((layer,), (source,), (target,), edges, by)
        for layer, source, target in itertools.product(range(4), range(sources), range(targets))
    ]


def test_edges_that_the_decoder_lacks_are_left_out():
    cells = sites.knock_outs("answer_to_answer", "each", "each")(EXTENT)
    assert [(c.source, c.target) for c in cells[:3]] == [((0,), (0,)), ((0,), (1,)), ((1,), (1,))] and len(cells) == 12
    with pytest.raises(SiteError, match=r"no word of the answer reads a later one.*at most 0"):
        check(knock_out("answer_to_answer", 0, 1, 0), EXTENT)
    check(knock_out("answer_to_answer", 0, [0, 1], 0), EXTENT)


def test_windows_of_every_width_in_the_order_of_the_layers():
    cells = sites.knock_outs(targets="all", widths=[1, 3])(EXTENT)
    assert [c.layers for c in cells] == [(0,), (1,), (2,), (3,), (0, 1, 2), (1, 2, 3)]
    cells = sites.knock_outs(targets="all", widths=3, align="center", ends="cut")(EXTENT)
    assert [c.layers for c in cells] == [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]


def test_regions_roles_and_names_are_told_as_coordinates():
    cells = sites.knock_outs(sources=2, targets={"what": 1, "color": [4, 5]}, widths=2, by="mean")(EXTENT)
    assert cells[0].source == (1, 2, 5, 6) and cells[-1].source == (11, 12, 15, 16)
    assert describe_knock_out(cells[-1], EXTENT.layers) == {
        "knock_out": "image_to_question layers 2,3 by mean source region 3 target color", "edges": "image_to_question",
        "by": "mean", "source": "region 3", "target": "color", "layer": 2, "window": 2,
    }  # fmt: skip
    cells = sites.knock_outs("question_to_answer", "roles", "each")(EXTENT)
    assert [(c.source_name, c.source) for c in cells[::2][:5]] == [
        ("[CLS]", (0,)), ("question word", (1,)), ("function word", (2, 3)), ("attribute word", (4,)), ("[SEP]", (5,)),
    ]  # fmt: skip
    (cell, *_) = sites.knock_outs("question_to_question", "function word", "attribute word")(EXTENT)
    assert (cell.source, cell.target) == ((2, 3), (4,))
    told = describe_knock_out(knock_out("question_to_question", source=[0, 1, 2, 5]), EXTENT.layers)
    assert (told["source"], told["target"], told["layer"], told["window"]) == ("0-2,5", "all", 0, 4)


def test_names_do_not_make_another_knock_out_and_by_does():
    named = KnockOut("image_to_question", (0,), None, (1,), "mask", "all", "what")
    assert (
        named == knock_out("image_to_question", 0, target=1) != knock_out("image_to_question", 0, target=1, by="mean")
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: sites.knock_outs("image_to_questions"), "did you mean 'image_to_question'"),
        (lambda: sites.knock_outs(by="means"), "did you mean 'mean'"),
        (lambda: knock_out("image_to_question", by="zero"), "Expected one of: mask, mean"),
        (lambda: sites.knock_outs(widths=0), "window width 0"),
        (lambda: sites.knock_outs(widths=[]), "at least one"),
        (lambda: sites.knock_outs(widths=5)(EXTENT), "window width 5: question_encoder has 4 layers"),
        (lambda: sites.knock_outs(align="middle"), "Expected one of: start, center"),
        (lambda: sites.knock_outs(ends="keep"), "Expected one of: drop, cut"),
        (lambda: sites.knock_outs(sources=3)(EXTENT), "does not divide the 4 x 4 patches; expected one of 1, 2, 4"),
        (lambda: sites.knock_outs(sources={"there": 17})(EXTENT), "source 17 of image_to_question: there are 17, 0 to"),
        (lambda: sites.knock_outs(sources={}), "at least one name"),
        (lambda: sites.knock_outs(sources={"a": "b"}), "token of image_to_question|token 'b'"),
        (lambda: sites.knock_outs(sources={"a": None}), "expected a name with its tokens"),
        (lambda: sites.knock_outs(sources="content word"), "roles are those of question tokens"),
        (lambda: sites.knock_outs("question_to_answer", 2), "a grid is one of image regions"),
        (lambda: sites.knock_outs("question_to_answer", [1, 2]), "or names with tokens"),
        (lambda: sites.knock_outs("question_to_answer", "content word")(EXTENT), "no token has that role; there are"),
        (lambda: sites.knock_outs("question_to_answer", "roles")(Extent(4, 6, 2, 4)), "are not known here"),
        (lambda: cuts([knock_out("image_to_question", by="mean")], EXTENT), "a whole run is cut by mask"),
        (lambda: sites.gather([knock_out("image_to_question", 4)], EXTENT), "layer 4"),
    ],
)
def test_knock_outs_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(SiteError, match=says):
        wrong()


def test_the_names_stand_where_they_are_promised():
    assert nnblip.sites.knock_outs is sites.knock_outs and nnblip.sites.edges is sites.edges
    assert set(EDGES) == {*SIZES, "answer_to_answer"}
