"""Maps of layers by heads or by roles, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nnblip.experiments.figures import tidy


def grids(panels: Mapping[str, xr.DataArray], signed: str = "") -> Figure:
    """Maps of layers by something else, (layer, other); from 0 to 1, or around 0 the one whose name has `signed`."""
    figure = Figure(figsize=(2.5 * len(panels), 2.8), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _, other = values.dims
        around = signed != "" and signed in name
        limit = max(float(abs(values).max()), 0.01) if around else 1.0
        mesh = axes.pcolormesh(values.values, cmap="RdBu_r" if around else "viridis", vmin=-limit if around else 0,
                               vmax=limit)  # fmt: skip
        tidy(axes, name, str(other) if other == "head" else "", "layer" if axes is figure.axes[0] else "")
        axes.set_xticks(np.arange(values.sizes[other]) + 0.5, [str(one) for one in values[other].values])
        axes.set_yticks(np.arange(values.sizes["layer"]) + 0.5, [str(one) for one in values.layer.values])
        if other != "head":
            axes.tick_params("x", rotation=90)
        bar = figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)
    return figure
