"""What a figure says of itself: its caption, and what stands in its file."""

import copy
import json
import pickle

import pytest
from helpers.figures import ONE, all_inside
from helpers.trees import random_tree
from matplotlib.figure import Figure
from PIL import Image

from nnblip import plot
from nnblip.errors import NnblipError


def tree_of(**settings):
    tree = random_tree(layers=2, **settings)
    tree.attrs |= {"noise": "Multiplicative()", "noise_at": "image_embeds", "git_commit": "abc", "revision": "main"}
    return tree


def test_a_caption_says_what_is_shown_of_what_and_how():
    said = plot.caption(plot.heatmap(tree_of(), "question_encoder", **ONE))
    for part in (
        "Indirect effect on P(answer = “red”) of restoring one state of the question encoder, by token and layer",
        "Question: “what is the color of the ball left of the box”.",
        "Noise: Multiplicative on image_embeds, ν = 5, seed 0, 4 draws of each example.",
        "put back to its clean value in the corrupted run (denoising)",
        "Model: random (main).",
    ):
        assert part in said
    noised = tree_of()
    noised.attrs |= {"direction": "noising", "freeze": "mlp_out"}
    said = plot.caption(plot.heatmap(noised, "question_encoder", **ONE))
    assert "of damaging one state" in said and "corrupted value in the clean run (noising)" in said
    assert "Frozen: mlp_out." in said


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_the_file_has_caption_and_provenance(format, tmp_path):
    figure = plot.gamma(tree_of())
    figure.savefig(tmp_path / f"one.{format}", dpi=50)
    raw = (tmp_path / f"one.{format}").read_bytes()
    if format == "png":
        text = Image.open(tmp_path / "one.png").text
        assert text["Description"] == plot.caption(figure) and text["Title"] in plot.caption(figure)
        assert text["Software"].startswith("nnblip") and text["Source"] == "random"
        found = json.loads(text["nnblip"])
        assert found["caption"] == plot.caption(figure)
        assert found["results"][0]["git_commit"] == "abc" and found["results"][0]["nu"] == [1.0, 5.0]
    elif format == "svg":
        assert b"git_commit" in raw and "Γ(ν), the relevance".encode() in raw
    else:
        assert b"/Keywords" in raw and b"/Subject" in raw


def test_what_the_caller_says_stands_in_the_place_of_it(tmp_path):
    figure = plot.gamma(tree_of())
    figure.savefig(tmp_path / "one.png", dpi=50, metadata={"Title": "mine", "Author": "me"})
    text = Image.open(tmp_path / "one.png").text
    assert text["Title"] == "mine" and text["Author"] == "me" and "nnblip" in text
    figure.savefig(tmp_path / "one.jpg", dpi=50)  # which has no place for it
    assert plot.metadata(figure, "jpg") == {}


def test_axes_of_ones_own_have_captions_too(tmp_path):
    mine = Figure(figsize=(6.9, 4), layout="constrained")
    left, right = mine.subplots(1, 2)
    tree = tree_of()
    assert plot.heatmap(tree, "question_encoder", ax=left, **ONE) is mine
    assert plot.gamma(tree, ax=right) is mine
    assert plot.caption(left).startswith("Indirect effect") and plot.caption(right).startswith("Γ(ν)")
    both = plot.caption(mine)
    assert both.startswith("(a) Indirect effect") and "(b) Γ(ν)" in both
    assert both.count("Model: random (main).") == 1  # what holds of both is said once
    mine.savefig(tmp_path / "mine.png", dpi=50, metadata=plot.metadata(mine))
    assert Image.open(tmp_path / "mine.png").text["Description"] == both
    all_inside(mine)


def test_captions_survive_copies():
    figure = plot.heatmap(tree_of(), "question_encoder", **ONE)
    assert (
        plot.caption(pickle.loads(pickle.dumps(figure))) == plot.caption(copy.deepcopy(figure)) == plot.caption(figure)
    )


def test_what_nnblip_did_not_draw_has_none():
    for other in (Figure(), Figure().subplots()):
        with pytest.raises(NnblipError, match="nnblip drew nothing here"):
            plot.caption(other)
    with pytest.raises(NnblipError, match="expected a matplotlib Figure or Axes"):
        plot.caption("figure")


def test_a_notebook_shows_it_sharp():
    figure = plot.gamma(tree_of())
    raw, said = figure._repr_png_()
    assert raw.startswith(b"\x89PNG") and said["width"] == round(plot.COLUMN * 144)
