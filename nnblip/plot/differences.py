"""Where two results differ, cell by cell."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip import effects
from nnblip.effects import reading
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.errors import ResultError, one_of, visible
from nnblip.plot import words
from nnblip.plot.averages import framed_roles, one_map
from nnblip.plot.cells import layout_of, part_of
from nnblip.plot.drawing import Told, draw_map, marks_of
from nnblip.plot.grid import Grid
from nnblip.plot.words import VALUES
from nnblip.results import VARIABLES
from nnblip.roles import RoleFunction

#: What the rows of a difference can be.
ROWS = ("role", "token")


def difference(
    a: xr.DataTree,
    b: xr.DataTree,
    component: str,
    *,
    names: tuple[str, str] = ("a", "b"),
    rows: str = ROWS[0],
    roles: RoleFunction | None = None,
    nu: float | None = None,
    kind: str = "block",
    value: str = VALUES[0],
    variable: str = VARIABLES[0],
    paired: bool | None = None,
    correction: str = "max",
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    limit: float | None = None,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Where the means over the examples of two results differ: a − b, red where a has more (`nnblip.effects.compare`).

    Cells whose interval includes 0 are hatched, those of too few examples for one have a dash. A dot is where the
    difference is also significant at 1 − level when all cells of the map are tested together.

    Args:
        a, b: two results, or two selections of one: types of questions, noises, models. Of one ν each, or with `nu`.
        component: that both have.
        names: what they are called, as in `("color", "number")`.
        rows: `role`, for questions of any length; or `token`, if all have as many.
        roles: a function from a question's tokens to a role for each; the roles of the results if None.
        paired, correction: as for `nnblip.effects.compare`.
        nu, kind, value, variable, threshold, level, limit, title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: as `heatmap` and `nnblip.effects.compare`.
    """
    one_of(value, VALUES, "value")
    one_of(rows, ROWS, "rows")
    both, labels, framed = [], [], []
    for tree in (a, b):
        chosen, node = one_map(tree, component, nu, kind, None, variable)
        if "example" not in chosen.dims:
            raise ResultError("a difference is tested over examples: expected several of them in both results")
        own = chosen.children[component].to_dataset(inherit=False).sel(kind=[kind])
        if rows == "token":
            shown, said = layout_of(node, component)
            own = own.isel(token=shown)
            labels.append(said)
        one = part_of(chosen, component, own)
        both.append((effects.by_role(one, roles) if rows == "role" else one, node, chosen))
        marks = framed_roles(chosen, component, roles) if rows == "role" else effects.structural(chosen)[component]
        marks = marks if rows == "role" else marks.to_dataset()["structural"].isel(token=shown)
        framed.append(marks.sel(kind=kind, drop=True).any("example"))
    if labels and len(labels[0]) != len(labels[1]):
        lengths = f"{len(labels[0])} and {len(labels[1])} tokens"
        raise ResultError(f"{' and '.join(names)} have {lengths}: expected as many, or rows='role'")
    found = cast(
        xr.DataTree,
        effects.compare(
            both[0][0], both[1][0], value, variable=variable, paired=paired, correction=correction,
            threshold=threshold, level=level,
        ),
    )  # fmt: skip
    data = found[component].to_dataset().squeeze("kind", drop=True)
    numbers, low, high, p, n_a, n_b = (
        data[name].transpose(rows, "layer").values
        for name in ("difference", "low", "high", "p_corrected", "units_a", "units_b")
    )
    if rows == "token":
        down = [one if one == other else f"{one} / {other}" for one, other in zip(*labels, strict=True)]
    else:
        counts = zip(n_a.max(1), n_b.max(1), strict=True)
        down = [
            f"{visible(str(role))} ({one}" + (f", {other})" if one != other else ")")
            for role, (one, other) in zip(data["role"].values, counts, strict=True)
        ]
    with np.errstate(invalid="ignore"):
        hatched, sure = (low <= 0) & (high >= 0), p < 1 - level
    few = np.isfinite(numbers) & (np.minimum(n_a, n_b) < MIN_EXAMPLES)
    notes = ["no intervals: too few examples: at least 8"] if few[np.isfinite(numbers)].all() else []
    notes += [f"{few.sum()} cells without interval: too few examples: at least 8"] if few.any() and not notes else []
    given = np.zeros(numbers.shape, bool)
    for marks in framed:
        given |= (
            marks.reindex({rows: data[rows].values, "layer": data["layer"].values}, fill_value=False)
            .transpose(rows, "layer")
            .values.astype(bool)
        )
    grid = Grid(numbers, down, [str(layer) for layer in data["layer"].values],
                "role of the word (examples)" if rows == "role" else "token, position", hatched=hatched,
                framed=given, dots=sure,
                few=few & ~few[np.isfinite(numbers)].all())  # fmt: skip
    node, tree = both[0][1], both[0][2]
    of = words.value_name(both[0][0], both[0][0]["clean"].to_dataset(), value, variable)
    said = [visible(name) for name in names]
    said = [f"({name})" if " " in name and any(sign in name for sign in "−-=,") else name for name in said]
    bar = f"{of}, {said[0]} − {said[1]}"
    tested = f"p < {1 - level:.2g}, corrected for all cells" if correction != "none" else f"p < {1 - level:.2g}"
    grave = [f"{name}: {one}" for name, (_, _, tree_) in zip(said, both, strict=True)
             for one in words.severe(tree_, [component], kind)]  # fmt: skip
    how = "the same examples (signs of their differences)" if found.attrs["paired"] else "different examples"
    counts_of = " and ".join(
        f"{tree_.sizes['example']} ({name})" for name, (_, _, tree_) in zip(said, both, strict=True)
    )
    caption = [
        f"Difference of the {of} of the {reading.spoken(component)} (states: {visible(kind)}) by {rows} and layer,"
        f" {said[0]} − {said[1]}.",
        f"Means over {counts_of} examples.",
        *_of_both(said, [[*words.noise_sentences(one[2], one[1]), words.model_sentence(one[2])] for one in both]),
        f"Hatched: the {100 * level:g} % interval of the difference (bootstrap-t, each cell for itself) includes 0."
        if hatched.any() else "",
        f"Dots: {tested} ({correction}), permutation test of {how}." if sure.any() else
        f"In no cell {tested} ({correction}, permutation test of {how}).",
        "Framed: restores by construction, no finding." if given.any() else "",
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
    ]  # fmt: skip
    signs = [*marks_of(grid, "examples", level), *([("dot", tested)] if sure.any() else [])]
    made: dict[str, Any] = {**words.provenance(tree), "compared": [dict(words.provenance(one[2])) for one in both]}
    told = Told(bar, caption, made, grave, notes=notes, legend=signs, empty="No cell is in both.")
    nus = list(dict.fromkeys(words.setting_of(one[2]) for one in both))
    settings = [f"{reading.spoken(component)}, {visible(kind)} {words.done_to(tree)}", *nus * (len(nus) == 1)]
    lines = [f"{said[0]} − {said[1]}", ", ".join(settings)]
    return draw_map(grid, told, [title] if title is not None else lines, limit=limit, width=width, ax=ax)


def _of_both(names: list[str], sentences: list[list[str]]) -> list[str]:
    """What holds of both, and of either what does not."""
    first, second = sentences
    shared = [one for one in first if one in second]
    own = [[one for one in each if one and one not in shared] for each in sentences]
    return [*shared, *(f"{name}: {' '.join(each)}" for name, each in zip(names, own, strict=True) if each)]
