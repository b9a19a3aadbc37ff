"""Figures of a result: heatmaps over layers and tokens, regions on the picture, Γ over the strength of the noise.

Every function returns a `matplotlib.figure.Figure`, made without pyplot: nothing is shown,
no global setting is touched and there is nothing to close. Save it with
`figure.savefig("map.pdf")`.
"""

from nnblip.plot.circuits import circuit
from nnblip.plot.common import VALUES
from nnblip.plot.curves import gamma
from nnblip.plot.cuts import knock_outs
from nnblip.plot.maps import heads, heatmap
from nnblip.plot.pictures import picture

__all__ = ["VALUES", "circuit", "gamma", "heads", "heatmap", "knock_outs", "picture"]
