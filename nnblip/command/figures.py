"""Every figure that can be drawn of a result, by the name of its file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnblip.errors import SettingError, one_of
from nnblip.plot.catalogue import FIGURES, drawable
from nnblip.sites import HEADS_NODE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

#: What `nnblip trace` draws beside the summary.
OF_A_TRACE = ("heatmap", "heads", "gamma", "picture", "pairs", "knock_outs", "circuit")

Draw = Callable[[], "Figure"]


def figures(
    tree: xr.DataTree,
    what: str | Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Draw]:
    """What draws each figure, each with those of the options that it takes; None stands for what is left out.

    Args:
        tree: a result.
        what: the name of one kind of figure, or of a file that this gives; or kinds, of which those that can be are
            drawn; all that can be drawn if None.
        defaults: arguments of the functions of `nnblip.plot` for those that take them, such as `image`.
        options: arguments that were asked for, such as `nu` and `value`.

    Raises:
        NnblipError: if the result has no such figure, or none of those that are drawn takes an option that is given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    settings_of = {**(defaults or {}), **given}
    every: dict[str, tuple[str, Draw]] = {}
    for name, components in drawable(tree).items():
        taken = set(inspect.signature(FIGURES[name].function).parameters)
        for component in components:
            own = {key: value for key, value in settings_of.items() if key in taken}
            first = {"component": component} if component else {}
            for kind in _kinds(tree, name, component, given.get("kind")):
                stem = _stem(tree, name, component, kind)
                settings = {**own, **first, **({"kind": kind} if kind and "kind" in taken else {})}
                every[stem] = name, partial(FIGURES[name].function, tree, **settings)
    if isinstance(what, str):
        one_of(what, dict.fromkeys([*(name for name, _ in every.values()), *every]), "figure of this result")
        every = {stem: found for stem, found in every.items() if what in (stem, found[0])}
    elif what is not None:
        every = {stem: found for stem, found in every.items() if found[0] in what}
    names = {name for name, _ in every.values()}
    for option in given:
        if not any(option in inspect.signature(FIGURES[n].function).parameters for n in names):
            raise SettingError(f"{option} is given: no figure of {', '.join(sorted(names))} takes it; leave it out")
    return {stem: draw for stem, (_, draw) in every.items()}


def _kinds(tree: xr.DataTree, name: str, component: str, kind: str | None) -> list[str]:
    """The kinds of states that a figure is drawn of, each alone; "" leaves it to the figure."""
    if name not in ("heatmap", "heads"):
        if kind:
            return [kind]
        nodes: list[Any] = [tree[one] for one in ([component] if component else tree.children)]
        there = [str(one) for node in nodes if "kind" in node.dims for one in node["kind"].values]
        return ["" if "block" in there or not there else there[0]]
    node: Any = tree[component if name == "heatmap" else f"{component}{HEADS_NODE}"]
    there = [str(one) for one in np.ravel(node["kind"].values)]
    return there if kind is None else [kind] * (kind in there)


def _stem(tree: xr.DataTree, name: str, component: str, kind: str) -> str:
    """The name of a file: of a map its component, of the first kind of it alone."""
    if name == "picture":
        return "image_encoder"
    if name == "attention":
        return "grad_cam"
    if name not in ("heatmap", "heads"):
        return f"{name}_{component}" if component else name
    first = _kinds(tree, name, component, None)[0]
    alone = name == "heatmap" or component not in tree.children
    return component if kind == first and alone else f"{component}_{kind}"
