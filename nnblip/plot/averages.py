"""Means over questions that differ: roles of words by layers, and profiles over the layers by the type of question."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip import effects
from nnblip.effects import reading
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.errors import ResultError, SettingError, one_of, visible
from nnblip.plot import words
from nnblip.plot.around import UNDEFINED, Panel
from nnblip.plot.canvas import COLUMN, LINE, SMALL, TEXT, put_caption, width_of, wrapped
from nnblip.plot.cells import Cells, cells_of, part_of
from nnblip.plot.curves import LEFT, LINES, banded, line_axes, lines_below
from nnblip.plot.drawing import draw_map, told_of
from nnblip.plot.grid import Grid
from nnblip.plot.maps import map_title
from nnblip.plot.words import VALUES
from nnblip.results import VARIABLES
from nnblip.roles import RoleFunction


def roles(
    tree: xr.DataTree,
    component: str,
    *,
    nu: float | None = None,
    kind: str = "block",
    roles: RoleFunction | None = None,
    example: str | None = None,
    value: str = VALUES[0],
    variable: str = VARIABLES[0],
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    limit: float | None = None,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Roles of words by layers of one component: means over questions of any length.

    First over the words of a role in each example (`nnblip.effects.by_role`), then over the examples that have the
    role, n of them. Cells are marked as in `heatmap`; those of too few examples for an interval have a dash.

    Args:
        tree: a result of `causal_trace` or `sweep`.
        component: such as `question_encoder`.
        roles: a function from a question's tokens to a role for each; the roles of the result if None.
        nu, kind, example, value, variable, threshold, level, limit, title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: as `heatmap`, and if the result has no roles.
    """
    one_of(value, VALUES, "value")
    tree, node = one_map(tree, component, nu, kind, example, variable)
    cells = roles_of(tree, component, kind, value, variable, threshold, level, roles)
    order = cells.values.transpose("role", "layer")
    numbers, hatched, framed, units = (
        one.transpose("role", "layer").values for one in (order, cells.hatched, cells.framed, cells.units)
    )
    labels = [visible(str(role)) for role in order["role"].values]
    few = np.zeros(numbers.shape, bool)
    if cells.examples:
        labels = [f"{label} ({count})" for label, count in zip(labels, units.max(1), strict=True)]
        few = np.isfinite(numbers) & (units < MIN_EXAMPLES)
        few &= not few[np.isfinite(numbers)].all()  # then a note says it of all
    layers = [str(layer) for layer in node["layer"].values]
    down = "role of the word (examples)" if cells.examples else "role of the word"
    grid = Grid(numbers, labels, layers, down, hatched=hatched, framed=framed, few=few)
    told = told_of(tree, node, component, kind, cells, grid, "mean over the words of each role, by layer",
                   (value, variable, threshold))  # fmt: skip
    lines = [title] if title is not None else map_title(tree, node, component, kind, cells)
    return draw_map(grid, told, lines, limit=limit, width=width, ax=ax)


def one_map(
    tree: xr.DataTree, component: str, nu: float | None, kind: str, example: str | None, variable: str
) -> tuple[xr.DataTree, xr.Dataset]:
    """The result at one ν and example, or all of them, and its node of a component; checked to be there."""
    one_of(variable, VARIABLES, "variable")
    one_of(component, reading.maps(tree), "component")
    tree = words.chosen(part_of(tree, component), nu, example)
    node = reading.node_of(tree, component)
    one_of(kind, node["kind"].values.tolist(), f"kind of {component}")
    return tree, node


def roles_of(
    tree: xr.DataTree, component: str, kind: str, value: str, variable: str, threshold: float, level: float,
    rules: RoleFunction | None,
) -> Cells:  # fmt: skip
    """Cells on (role, layer); structural where any state of the role is, in any example."""
    averaged = effects.by_role(part_of(tree, component), rules)
    return cells_of(averaged, component, kind, value, variable, threshold, level, framed_roles(tree, component, rules))


def framed_roles(tree: xr.DataTree, component: str, rules: RoleFunction | None) -> xr.DataArray:
    """(…, role), of which kinds, layers and roles any state of an example restores by construction."""
    structural = effects.structural(tree)[component].to_dataset()["structural"].astype(float)
    node = tree.children[component].to_dataset(inherit=False)
    there = node[VARIABLES[0]].notnull().any([dim for dim in node[VARIABLES[0]].dims if dim in ("nu", "draw")])
    marked = node[list(node.coords)].assign({VARIABLES[0]: structural.where(there)})
    framed = effects.by_role(part_of(tree, component, marked), rules)[component].to_dataset()[VARIABLES[0]]
    return framed.fillna(0) > 0


def layers(
    tree: xr.DataTree,
    component: str,
    *,
    by: str | None = None,
    role: str | None = None,
    nu: float | None = None,
    kind: str = "block",
    example: str | None = None,
    value: str = VALUES[0],
    variable: str = VARIABLES[0],
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Profiles over the layers, a line for each type of question: means over the tokens, then over the examples.

    Bands are intervals over the examples of a type, or over the draws of one example. Layers of which all states
    restore by construction are grey.

    Args:
        tree: a result of `causal_trace` or `sweep`.
        component: such as `question_encoder`.
        by: a coordinate on `example`, such as "question_type"; one line for all examples if None.
        role: of the words that are averaged, such as "last content word"; all tokens if None.
        nu, kind, example, variable, threshold, level, title, width, ax: as for `heatmap`.
        value: `indirect_effect`, `relevance` or `probability`.

    Raises:
        NnblipError: as `heatmap`; if there is no such coordinate or role, or more types than lines can be told apart.
    """
    one_of(value, VALUES, "value")
    tree, node = one_map(tree, component, nu, kind, example, variable)
    one = part_of(tree, component, tree.children[component].to_dataset(inherit=False).sel(kind=[kind]))
    structural = effects.structural(tree)[component].to_dataset()["structural"].sel(kind=kind)
    if role is not None:
        one = effects.by_role(one)
        own = one.children[component].to_dataset(inherit=False)
        one_of(role, [str(name) for name in own["role"].values], "role")
        alone = own.sel(role=role)
    else:
        own = one.children[component].to_dataset(inherit=False)
        alone = own.mean("token", keep_attrs=True)
    profile = part_of(one, component, alone)
    found = effects.interval(profile, value, variable=variable, by=by, threshold=threshold, level=level)
    over = str(found.attrs["over"])
    data = cast(xr.DataTree, found)[component].to_dataset().squeeze("kind", drop=True)
    data = data.squeeze("example", drop=True) if "example" in data.dims else data
    parts = {str(label): data.sel({by: label}) for label in data[by].values} if by else {"": data}
    if len(parts) > len(LINES):
        raise SettingError(
            f"by={by!r} has {len(parts)} values: expected at most {len(LINES)}; select some of them first"
        )
    if not any(np.isfinite(part["value"]).any() for part in parts.values()):
        raise ResultError(f"/{component} has no {reading.spoken(value)} to draw: {data['reason'].values.ravel()[0]}")
    wide = width_of(width, COLUMN, ax)
    label, high = words.value_name(tree, node, value, variable), min(0.55 * wide, 2.6)
    down = wrapped(label, high)
    panel = Panel(ax, wide, LEFT + LINE * (len(down) - 1), high)
    axes, at = panel.axes, node["layer"].values
    named = {}
    for (group, part), style in zip(parts.items(), LINES, strict=False):
        banded(axes, at, part, style)
        count = int(part["units"].max())
        named[f"{group or 'all'}, n = {count}" if over == "examples" else f"{count} draws"] = style
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
    there = (
        node[variable].notnull().any([dim for dim in node[variable].dims if dim not in ("layer", "token", "example")])
    )
    given = [bool((structural | ~there).sel(layer=layer).all() and there.sel(layer=layer).any()) for layer in at]
    for layer in at[given]:
        axes.axvspan(layer - 0.5, layer + 0.5, color=UNDEFINED, linewidth=0, zorder=0, gid="structural")
    step = 1 + int(0.2 * len(at) / panel.inner)
    axes.set_xticks(at[::step], [str(layer) for layer in at[::step]])
    axes.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    axes.set_xlabel("layer", fontsize=TEXT, labelpad=2)
    line_axes(axes, "\n".join(down))
    below = panel.below(0.09 + SMALL / 72 + LINE)
    lines_below(below, named)
    if any(given):
        below.legend([("grey", "restores by construction")])
    few = sorted({str(r) for part in parts.values() for r in part["reason"].values if str(r).startswith("too few")})
    notes = [f"Bands: {100 * level:g} % intervals over {over}."] if _any_band(parts) else []
    notes += [f"No interval where there are {why}." for why in few]
    below.text(wrapped(notes, wide - 0.08, SMALL))
    grave = words.severe(tree, [component], kind)
    settings = f"{reading.spoken(component)}, {visible(kind)} {words.done_to(tree)}, {words.setting_of(tree)}"
    of = tree.sizes.get("example")
    which = f"mean over the words with the role {role!r}" if role else "mean over the tokens"
    lines = [title] if title is not None else [words.headline_of(tree, node, of), settings, which]
    states = f"of single states ({visible(kind)}) of the {reading.spoken(component)}, by layer"
    put_caption(
        axes,
        [
            f"{label[0].upper()}{label[1:]} {states}, {which}{f', by {reading.spoken(by)}' if by else ''}.",
            *words.run_sentences(tree, node, of),
            *notes,
            "Grey: restores by construction, no finding." if any(given) else "",
            *(f"{one}." for one in grave),
        ],
        words.provenance(tree),
    )
    return cast(Figure, panel.finish([*lines, *grave], below))


def _any_band(parts: dict[str, Any]) -> bool:
    return any(np.isfinite(part["low"]).any() for part in parts.values())
