"""Which figures there are, by name: for the command and for the gallery."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from nnblip.effects import reading
from nnblip.errors import one_of
from nnblip.plot.averages import layers, roles
from nnblip.plot.circuits import circuit
from nnblip.plot.couples import has_pairs, pairs
from nnblip.plot.curves import gamma
from nnblip.plot.cuts import knock_outs
from nnblip.plot.lenses import lens
from nnblip.plot.looking import attention
from nnblip.plot.maps import heads, heatmap
from nnblip.plot.pictures import picture
from nnblip.plot.sheets import sheet
from nnblip.plot.summaries import summary
from nnblip.sites import CELLS_NODE, COMPONENTS, EDGES_NODE, HEADS_NODE, KNOCK_OUTS_NODE


class Kind(NamedTuple):
    """One kind of figure.

    Attributes:
        function: of `nnblip.plot`; its first argument is the result, further ones are named.
        shows: what it shows, in a line.
        nodes: the nodes of a result of which it needs one; () if clean, corrupted and any restored one will do.
        each: whether it is of one of these nodes, whose component is then its argument `component`.
        many: whether it is of several examples only.
        fits: what else a result needs.
    """

    function: Callable[..., Figure]
    shows: str
    nodes: tuple[str, ...] = ()
    each: bool = False
    many: bool = False
    fits: Callable[[xr.DataTree], bool] | None = None

    def components(self, tree: xr.DataTree) -> list[str]:
        """The components of a result that it can be drawn of; [""] if it is of the whole result, [] if it cannot be."""
        there = [name for name in self.nodes if f"/{name}" in tree.groups and tree[name].data_vars]
        if (self.many and tree.sizes.get("example", 1) < 2) or (there and self.fits and not self.fits(tree)):
            return []
        if self.each:
            return [name.removesuffix(HEADS_NODE) for name in there]
        return [""] if there or (not self.nodes and "clean" in tree.children and reading.restored_names(tree)) else []


_TEXT = tuple(name for name in COMPONENTS if name != "image_encoder")
#: Every figure of a result by its name, which is that of the function.
FIGURES: dict[str, Kind] = {
    "summary": Kind(summary, "one example on a page: pictures, maps, Γ, what the damage does to the answer", _TEXT),
    "heatmap": Kind(heatmap, "tokens by layers of one component", _TEXT, each=True),
    "heads": Kind(heads, "heads by layers of one component", tuple(n + HEADS_NODE for n in _TEXT), each=True),
    "gamma": Kind(gamma, "Γ over ν, a line per component", (*COMPONENTS, *(n + HEADS_NODE for n in _TEXT))),
    "roles": Kind(roles, "roles of words by layers, mean over examples", _TEXT, each=True, many=True),
    "layers": Kind(layers, "profiles over the layers, a line for each type", _TEXT, each=True),
    "sheet": Kind(sheet, "small heatmaps of many examples", _TEXT, each=True, many=True),
    "picture": Kind(picture, "regions of the image on the picture", ("image_encoder",)),
    "pairs": Kind(pairs, "interactions of pairs of states", (CELLS_NODE,), fits=has_pairs),
    "attention": Kind(attention, "where cross-attention looks, on the picture", (f"{_TEXT[0]}/crossattention",)),
    "lens": Kind(lens, "the answer's probability after each layer", ("decoder_lens",)),
    "knock_outs": Kind(knock_outs, "what the answer needs of connections", (KNOCK_OUTS_NODE,)),
    "circuit": Kind(circuit, "the strongest edges as arrows", (EDGES_NODE,)),
}


def drawable(tree: xr.DataTree) -> dict[str, list[str]]:
    """Which figures can be drawn of a result, each with the components that it is of ([""] if it is of none)."""
    return {name: there for name, kind in FIGURES.items() if (there := kind.components(tree))}


def figure_named(name: str) -> Kind:
    """The kind of figure of this name. Raises `SettingError` that suggests the nearest."""
    return FIGURES[one_of(name, FIGURES, "figure")]
