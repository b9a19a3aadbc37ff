"""`nnblip plot`: figures of stored results, by their names."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.figures import WIDE
from helpers.trees import random_tree, regions_tree
from PIL import Image

import nnblip
from nnblip import results
from nnblip.command.cli import main


@pytest.fixture
def stored(tmp_path):
    """A result of three examples, its regions on a picture."""
    WIDE.save(tmp_path / "wide.png")
    tree = regions_tree(path=tmp_path / "wide.png", layers=(3,))
    return results.save(tree, tmp_path / "r.zarr")


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_one_figure_of_a_result(stored, tmp_path, capsys):
    out = tmp_path / "figures"
    words = ["plot", str(stored), "heatmap", "--out", str(out), "--example", "example-1", "--nu", "5"]
    assert main(words) == 0
    assert names(out) == {"question_encoder.png", "answer_decoder.png"}
    with Image.open(out / "question_encoder.png") as image:
        assert "how many red balls" in image.info["Description"] and "ν = 5" in image.info["Description"]
    assert main(words) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*words, "--value", "relevance", "--overwrite"]) == 0
    with Image.open(out / "question_encoder.png") as image:
        assert image.info["Description"].startswith("Relevance")
    assert main(["plot", str(stored), "answer_decoder", "--format", "pdf", "--out", str(tmp_path / "one")]) == 2
    few = ["--example", "example-0", "--format", "pdf"]
    assert main(["plot", str(stored), "answer_decoder", *few, "--out", str(tmp_path / "one")]) == 0
    assert names(tmp_path / "one") == {"answer_decoder.pdf"}


def test_everything_of_an_example_is_drawn_and_what_cannot_be_is_said(stored, tmp_path, capsys):
    out = tmp_path / "figures"
    assert main(["plot", str(stored), "--out", str(out), "--example", "example-0"]) == 0
    drawn = {"summary.png", "question_encoder.png", "answer_decoder.png", "gamma.png", "image_encoder.png"}
    assert drawn <= names(out)
    capsys.readouterr()
    assert main(["plot", str(stored), "--out", str(tmp_path / "all")]) == 0
    assert "Not drawn: question_encoder: " in capsys.readouterr().out  # questions of different lengths have no mean
    assert "gamma.png" in names(tmp_path / "all") and "question_encoder.png" not in names(tmp_path / "all")


def test_nothing_is_written_where_nothing_can_be_drawn(stored, tmp_path, capsys):
    out = tmp_path / "none"
    for words in (["circuit"], ["heatmaps"], ["heatmap", "--layer", "3"], ["heatmap", "--kind", "mlp_out"], ["lens"]):
        assert main(["plot", str(stored), *words, "--out", str(out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_results_of_reading_are_opened_and_drawn(model, tmp_path):
    example = nnblip.demo.examples()[9]
    read = {
        "attention": nnblip.attention(model, [example], ["question_encoder"], kinds=["crossattention"]),
        "lens": nnblip.lens(model, [example]),
    }
    for name, tree in read.items():
        path = results.save(tree, tmp_path / f"{name}.zarr")
        again = results.open_result(path)
        for node in tree.subtree:
            for variable in node.data_vars:
                np.testing.assert_array_equal(again[node.path][variable], node[variable])
        assert main(["plot", str(path), "--out", str(tmp_path / name)]) == 0
        assert main(["check", str(path)]) == 0
    assert names(tmp_path / "attention") == {"grad_cam.png"} and names(tmp_path / "lens") == {"lens.png"}


def test_a_reading_that_lacks_its_numbers_is_refused(tmp_path):
    tree = random_tree(layers=2, examples=1)
    tree.attrs["reading"] = "attention"
    path = results.save(tree, tmp_path / "r.zarr")
    with pytest.raises(nnblip.NnblipError, match="no variable 'attention'"):
        results.open_result(path)
    tree.attrs["reading"] = "tea leaves"
    with pytest.raises(nnblip.NnblipError, match="expected one of attention, lens"):
        results.open_result(results.save(tree, path, overwrite=True))
