"""The numbers of a map with what is known of them: intervals, too few draws, cells that restore by construction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, visible
from nnblip.plot.grid import Grid


@dataclass(frozen=True)
class Cells:
    """One number for each cell of a map, the mean over draws and then over examples.

    Attributes:
        values: with the dimensions of a map.
        hatched: whether the interval of the cell's effect includes 0, on the same dimensions.
        framed: whether the cell restores by construction.
        units: of how many draws or examples.
        over: "draws" or "examples".
        level: of the intervals.
        examples: of how many examples the values are means, at most; None of a single one that was chosen.
        left_out: how many more examples there are, which have no number here.
        reasons: why cells that have a number have no interval, and how many these are.
    """

    values: xr.DataArray
    hatched: xr.DataArray
    framed: xr.DataArray
    units: xr.DataArray
    over: str
    level: float
    examples: int | None
    reasons: dict[str, int]
    left_out: int = 0

    @property
    def undefined(self) -> bool:
        return not bool(np.isfinite(self.values).any())

    def best(self) -> Cells:
        """The same without intervals: the largest of several numbers has none."""
        return replace(self, reasons={"the largest of several values has none": int(np.isfinite(self.values).sum())})

    def notes(self) -> list[str]:
        """What must be said beside the map of it: that there are no intervals, that some are of fewer examples."""
        every = int(np.isfinite(self.values).sum())
        said = []
        if self.reasons and sum(self.reasons.values()) == every:
            said.append(f"no intervals: {' or '.join(self.reasons)}")
        elif few := {why: count for why, count in self.reasons.items() if why.startswith("too few")}:
            said.append("; ".join(f"{count} cells without interval: {why}" for why, count in few.items()))
        units = self.units.values[np.isfinite(self.values.values)]
        if self.over == "examples" and self.examples and units.size and units.min() < self.examples:
            said.append(f"some cells of fewer examples, at least {units.min()}")
        if self.left_out:
            said.append(f"without {self.left_out} more examples, which have no number here")
        return said

    def sentences(self, grid: Grid, value: str) -> list[str]:
        """What the marks of a grid of these cells mean, for a caption."""
        of = "the indirect effect" if value == "probability" else "its value"
        said = []
        if grid.hatched is not None and grid.hatched.any():
            said.append(
                f"Hatched: cells of which the {100 * self.level:g} % interval of {of} over the {self.over}"
                " (nnblip.effects.interval, each cell for itself) includes 0."
            )
        elif not self.reasons and not self.undefined:
            said.append(f"No {100 * self.level:g} % interval of a cell over the {self.over} includes 0.")
        said += [f"{note[0].upper()}{note[1:]}." for note in self.notes()]
        said += [
            f"{count} cells have no interval: {why}." for why, count in self.reasons.items() if why.startswith("all")
        ]
        if grid.framed is not None and grid.framed.any():
            said.append("Framed: restores by construction, no finding.")
        return said


def part_of(tree: xr.DataTree, name: str, node: xr.Dataset | None = None) -> xr.DataTree:
    """The result with one restored node alone, or another Dataset in its place."""
    there = tree.children
    nodes = {one: there[one].to_dataset(inherit=False) for one in ("clean", "corrupted") if one in there}
    own = there[name].to_dataset(inherit=False) if node is None else node
    return reading.with_nodes(tree, {**nodes, name: own})


def cells_of(
    tree: xr.DataTree, name: str, kind: str, value: str, variable: str, threshold: float, level: float,
    framed: xr.DataArray | None = None,
) -> Cells:  # fmt: skip
    """The cells of a node at one ν: of its one example, or the mean over its examples.

    `framed` says which restore by construction, if not `nnblip.effects.structural` of the tree.
    """
    given, found, shown = _numbers(tree, name, kind, value, variable, threshold, level, None, framed)
    shown = shown.mean("example") if "example" in shown.dims else shown
    given = given.any("example") if "example" in given.dims else given
    return _cells(shown, given, found.squeeze("example", drop=True) if "example" in found.dims else found,
                  tree.sizes.get("example"))  # fmt: skip


def cells_of_each(
    tree: xr.DataTree, name: str, kind: str, value: str, variable: str, threshold: float, level: float
) -> list[Cells]:
    """The same of each example of a result, with intervals over its draws."""
    given, found, shown = _numbers(tree, name, kind, value, variable, threshold, level, "draws", None)
    places = range(tree.sizes["example"])
    return [_cells(shown.isel(example=at), given.isel(example=at), found.isel(example=at), None) for at in places]


def _numbers(
    tree: xr.DataTree, name: str, kind: str, value: str, variable: str, threshold: float, level: float,
    over: str | None, framed: xr.DataArray | None,
) -> tuple[xr.DataArray, xr.Dataset, xr.DataArray]:  # fmt: skip
    """Which cells are structural; intervals; and what is shown, mean over draws."""
    alone = part_of(tree, name)
    framed = effects.structural(alone)[name].to_dataset()["structural"] if framed is None else framed
    own, framed = alone.children[name].to_dataset(inherit=False).sel(kind=[kind]), framed.sel(kind=kind, drop=True)
    measured = "relevance" if value == "relevance" else "indirect_effect"
    found = cast(
        xr.DataTree,
        effects.interval(
            part_of(tree, name, own), measured, variable=variable, threshold=threshold, level=level, over=over
        ),
    )[name].to_dataset()
    found = found.squeeze("kind", drop=True)
    shown = found["value"]
    if value == "probability":
        shown = reading.over_draws(own[variable].squeeze("kind", drop=True))
    return framed, found, shown


def _cells(shown: xr.DataArray, framed: xr.DataArray, found: xr.Dataset, examples: int | None) -> Cells:
    dims = shown.dims
    crossing = (found["low"] <= 0) & (found["high"] >= 0)
    known, reasons = np.isfinite(found["value"].values), found["reason"].values.astype(str)
    most = int(found["units"].max()) if examples is not None else 0
    without, counts = np.unique(reasons[known & (reasons != "")], return_counts=True)
    return Cells(
        shown,
        crossing.transpose(*dims),
        framed.broadcast_like(shown).transpose(*dims),
        found["units"].transpose(*dims),
        str(found.attrs["over"]),
        float(found.attrs["level"]),
        None if examples is None else most,
        dict(zip(without.tolist(), counts.tolist(), strict=True)),
        0 if examples is None else examples - most,
    )


def layout_of(node: xr.Dataset, name: str) -> tuple[list[int], list[str]]:
    """Which tokens a node has, and what each is called; of several examples, if all have as many.

    Raises:
        ResultError: if a mean over the examples would mix tokens of questions of different lengths.
    """
    there = node["probability"].notnull()
    there = there.any([dim for dim in there.dims if dim not in ("example", "token")])
    texts = np.atleast_2d(node["token_text"].values) if "token_text" in node.coords else None
    if "example" in there.dims:
        rows = there.transpose("example", "token").values
        rows = rows[rows.any(1)]  # without examples that failed
        if not len(rows) or (rows != rows[0]).any():
            lengths = sorted(set(rows.sum(1).tolist()))
            raise ResultError(
                f"the examples have {', '.join(map(str, lengths[:6]))} tokens in /{name}: a mean over positions would"
                " mix different words. Choose one with example=, select those of one length, or take plot.roles"
            )
        present = rows[0]
    else:
        present = there.values
    labels, shown = [], []
    for place in range(node.sizes["token"]):
        own = (
            sorted({str(text) for text in texts[:, place] if isinstance(text, str) and text})
            if texts is not None
            else []
        )
        if not present[place] and not (own and "example" not in there.dims):
            continue
        text = visible(own[0]) if len(own) == 1 else f"{len(own)} words" if own else ""
        shown.append(place)
        labels.append(f"{text}  {node['token'].values[place]}".strip())
    return shown, labels


def mean_over(values: xr.DataArray) -> tuple[xr.DataArray, int | None, list[str]]:
    """Means over the draws of each example, then over the examples that have it; of how many these are (None where
    one is chosen); and what must be said if some are of fewer."""
    values = reading.over_draws(values)
    if "example" not in values.dims:
        return values, None, []
    counts = values.notnull().sum("example").values
    most = int(counts.max(initial=0))
    fewest = int(counts[counts > 0].min(initial=most))
    notes = [] if fewest == most else [f"some of fewer examples, at least {fewest}"]
    return values.mean("example"), most, notes
