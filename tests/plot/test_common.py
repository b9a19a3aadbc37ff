"""What holds of all figures."""

import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
from helpers.figures import ONE, WIDE
from helpers.trees import random_tree, regions_tree
from matplotlib.text import Text

from nnblip import plot


def test_no_figure_is_left_open_and_no_setting_changed():
    before = dict(matplotlib.rcParams)
    plot.heatmap(random_tree(layers=2), "question_encoder", **ONE)
    plot.gamma(random_tree(layers=2))
    plot.picture(regions_tree(), WIDE, **ONE)
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_pyplot_is_not_imported():
    code = "import sys, nnblip.plot; sys.exit(bool({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["$x^{$", "$$", r"a $\frac{1}{2}$ b", "\x1b[31m red", "\u202eabc", "one\rtwo", "a\x00b"]
)
def test_every_text_of_every_figure_is_drawn_as_it_is(text, tmp_path):
    """Neither a formula, which may be one that cannot be drawn, nor a sign that no font has."""

    def named(tree, kinds):
        labels = dict.fromkeys(("question", "answer"), ("example", [text] * tree.sizes["example"]))
        tree.dataset = tree.to_dataset().assign_coords(labels)
        for name in kinds:
            node = tree[name].to_dataset(inherit=False)
            texts = (("example", "token"), np.full((node.sizes["example"], node.sizes["token"]), f"{text}-"))
            tree[name].dataset = node.assign_coords(kind=[text], token_text=texts)
        return tree

    tree = named(random_tree(layers=2, kinds=("block",)), ("question_encoder", "answer_decoder"))
    figures = {
        "map": plot.heatmap(tree, "question_encoder", kind=text, **ONE),
        "relevance": plot.heatmap(tree, "question_encoder", kind=text, value="relevance", **ONE),
        "gamma": plot.gamma(tree, kind=text),
        "picture": plot.picture(named(regions_tree(layers=(0, 1)), ()), WIDE, **ONE),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a glyph that is missing
        for name, figure in figures.items():
            figure.savefig(tmp_path / f"{name}.png")
            assert not any(one.get_parse_math() for one in figure.findobj(Text)), name
            if text.isprintable():
                assert any(text in one.get_text() for one in figure.findobj(Text)), name
            assert all(ord(sign) >= 32 for one in figure.findobj(Text) for sign in one.get_text() if sign != "\n")
