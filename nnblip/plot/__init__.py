"""Figures of a result: heatmaps over layers and tokens, regions on the picture, Γ over the strength of the noise.

Every function returns a matplotlib Figure, made without pyplot: nothing is shown, no global setting is touched and
there is nothing to close. Save it with `figure.savefig("map.pdf")`: the file says what it shows and by what it was
made. `caption(figure)` is what can stand below it in a paper. `width=` is in inches (`COLUMN`, `DOUBLE`); `ax=` draws
into Axes of yours.
"""

from nnblip.plot.averages import layers, roles
from nnblip.plot.canvas import COLUMN, DOUBLE, Figure, caption, metadata
from nnblip.plot.catalogue import FIGURES, drawable
from nnblip.plot.circuits import circuit
from nnblip.plot.couples import pairs
from nnblip.plot.curves import gamma
from nnblip.plot.cuts import knock_outs
from nnblip.plot.differences import difference
from nnblip.plot.lenses import lens
from nnblip.plot.looking import attention
from nnblip.plot.maps import STYLES, heads, heatmap
from nnblip.plot.pictures import picture
from nnblip.plot.sheets import sheet
from nnblip.plot.summaries import summary
from nnblip.plot.words import VALUES

__all__ = [
    "COLUMN", "DOUBLE", "FIGURES", "STYLES", "VALUES", "Figure", "attention", "caption", "circuit", "difference",
    "drawable", "gamma", "heads", "heatmap", "knock_outs", "layers", "lens", "metadata", "pairs", "picture", "roles",
    "sheet", "summary",
]  # fmt: skip
