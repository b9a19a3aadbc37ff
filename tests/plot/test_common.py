"""What holds of all figures."""

import subprocess
import sys

import matplotlib
from helpers.figures import ONE, WIDE
from helpers.trees import random_tree, regions_tree

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
