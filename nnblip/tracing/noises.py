"""A trace under several noises: one result, with a dimension `noise` in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from nnblip.errors import SettingError, told
from nnblip.noise import Swap, described
from nnblip.passes.settings import AUTO, Settings
from nnblip.results import NOISE_SETTING, WITHOUT_NOISE


def require_comparable(each: Sequence[Settings]) -> None:
    """Raise `SettingError` for noises that cannot stand in one result: twice the same, or other measures."""
    if not each:
        raise SettingError("noise []: expected at least one in a list")
    settings = [described(one.noise) for one in each]
    if twice := next((one for one in settings if settings.count(one) > 1), None):
        raise SettingError(f"noise {twice} is given twice: expected different ones")
    if each[0].draws == AUTO and len(each) > 1:
        raise SettingError(
            f"draws {AUTO!r} with several noises, of which each would have its own: expected a whole number"
        )
    if len(each) > 1 and each[0].rival is None and any(isinstance(one.noise, Swap) for one in each):
        raise SettingError(
            "noise 'swap' beside others: its logit difference is to the partner's answer, theirs to another token;"
            " give rival=, the same for all, or trace it alone"
        )


def side_by_side(results: Sequence[xr.DataTree], each: Sequence[Settings]) -> xr.DataTree:
    """Results of the same examples, each under one noise, as one.

    Returns:
        A tree of the same nodes, in which all but `/clean` and `/knock_outs` have the dimension `noise` first. Its
        labels are the noises' names, or what `noise_setting` says of each where a name stands twice.
    """
    settings = [described(one.noise) for one in each]
    names = [one.noise.name for one in each]
    labels = xr.Variable("noise", np.array(names if len(set(names)) == len(names) else settings))
    first = results[0]
    nodes: dict[str, xr.Dataset] = {}
    for name in first.children:
        parts = [result.children[name].to_dataset(inherit=False) for result in results]
        if name in WITHOUT_NOISE:
            if not all(part.equals(parts[0]) for part in parts):
                raise SettingError(f"/{name} differs between the noises, though none falls there: {told(names)}")
            nodes[f"/{name}"] = parts[0]
            continue
        own = [str(coord) for coord, values in parts[0].coords.items() if "nu" in values.dims]
        nodes[f"/{name}"] = xr.concat(
            parts, xr.IndexVariable("noise", labels.values), data_vars="all", coords=own, join="exact",
            compat="equals", combine_attrs="identical",
        ).drop_vars("noise")  # fmt: skip
    root = first.to_dataset().assign_coords({"noise": labels, NOISE_SETTING: ("noise", settings)})
    said: dict[str, Any] = {"noise": "; ".join(settings), "created": results[-1].attrs["created"]}
    return xr.DataTree.from_dict({"/": root.assign_attrs(said), **nodes}, name=first.name)
