"""Three figures against stored pictures of their shapes; without texts, which differ with the version of freetype.

`python tests/plot/test_baselines.py` draws the pictures again, after a look at what changed.
"""

import sys
from pathlib import Path

import pytest
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

HERE = Path(__file__).parent / "baselines"
sys.path += [str(HERE.parents[1]), str(HERE.parent)] * (__name__ == "__main__")

from helpers.trees import random_tree  # noqa: E402

from nnblip import plot  # noqa: E402


def drawn():
    tree = random_tree(examples=1, nus=(1.0, 5.0), draws=12, kinds=("block",), layers=4, corrupted=(0.1, 0.9))
    tree["answer_decoder"].probability.values[..., 3, 0] = 0.99
    return {
        "question_encoder": plot.heatmap(tree, "question_encoder", nu=5),  # hatched
        "answer_decoder": plot.heatmap(tree, "answer_decoder", nu=5),  # framed
        "gamma": plot.gamma(tree),  # bands
    }


def save(figure, path):
    for text in figure.findobj(Text):
        text.set_visible(False)
    figure.savefig(path, dpi=80, metadata=dict.fromkeys(plot.metadata(figure)))
    return path


@pytest.mark.parametrize("name", ["question_encoder", "answer_decoder", "gamma"])
def test_figures_look_as_they_did(name, tmp_path):
    found = save(drawn()[name], tmp_path / f"{name}.png")
    difference = compare_images(str(HERE / f"{name}.png"), str(found), tol=3)
    assert difference is None, difference


if __name__ == "__main__":
    for name, figure in drawn().items():
        print(save(figure, HERE / f"{name}.png"))
