"""Families of cells, and all that a user says of places in the model. Plain Python, no tensors.

Sites, extents and the names of states are of `nnblip.states`, knock-outs of `nnblip.edges`, edges of
`nnblip.paths`; all of them stand here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

from nnblip.edges import KnockOut, check, knock_outs
from nnblip.errors import SiteError, one_of, told
from nnblip.paths import Connection, ConnectionFamily, Edge, edges
from nnblip.states import (
    BEFORE_VISION,
    CELLS_NODE,
    COMPONENTS,
    EDGES_NODE,
    HEAD_KINDS,
    HEADS_NODE,
    IMAGE_KINDS,
    KINDS,
    KNOCK_OUTS_NODE,
    LISTS,
    PLACES,
    SUBLAYERS,
    TEXT_COMPONENTS,
    WHOLE_KINDS,
    WITHIN,
    Cell,
    Extent,
    Site,
    as_cell,
    describe,
    grid_of,
    regions,
    spans,
    widths_of,
)

__all__ = [
    "BEFORE_VISION", "CELLS_NODE", "COMPONENTS", "EDGES_NODE", "HEADS_NODE", "HEAD_KINDS", "IMAGE_KINDS", "KINDS",
    "KNOCK_OUTS_NODE", "LISTS", "PLACES", "SUBLAYERS", "TEXT_COMPONENTS", "WHOLE_KINDS", "WITHIN", "Cell", "CellsLike",
    "Extent", "Family", "Site", "all_tokens", "as_cell", "describe", "edges", "gather", "grid_of", "heatmap",
    "image_regions", "knock_outs", "pairs", "token_across_layers", "windows",
]  # fmt: skip


#: A family of cells: for a question and answer of some length, its cells.
Family = Callable[[Extent], list[Cell]] | ConnectionFamily
#: What may be given as cells: a family, or several families, sites and sets of sites, edges and knock-outs.
CellsLike = Family | Site | Connection | Iterable[Family | Site | Connection | Iterable[Site]]


def windows(
    width: int | Sequence[int],
    kind: str = "block",
    component: str = "question_encoder",
    align: str = "start",
    edges: str = "drop",
) -> Family:
    """One token's states in `width` consecutive layers, for every token and every such window.

    The columns of the paper's second notebook are `windows(3, kind="attention", align="center", edges="cut")`, and
    so for `crossattention` and `component="answer_decoder"`: as in ROME's code a window for each layer, which is its
    centre, with what it would have beyond the first and the last layer cut off. (A window of even width reaches one
    layer farther back than forward.)

    Args:
        width: how many layers, or several widths, of which all windows are taken.
        kind: which state of each layer.
        component: of which component.
        align: whether a layer's window starts at that layer ("start") or has it in its middle ("center").
        edges: what happens to windows that reach beyond the layers: left out ("drop") or cut short ("cut"). The same
            layers of two widths, cut short, are one cell.

    Returns:
        A family whose cells come window by window in the order of the layers, and within a window token by token.

    Raises:
        SiteError: for a width that is not a whole number of at least 1 or exceeds the layers, or an unknown `align`
            or `edges`.
    """
    widths = widths_of(width)
    _whole_kind(kind, "windows")
    one_of(align, ("start", "center"), "align", SiteError)
    one_of(edges, ("drop", "cut"), "edges", SiteError)

    def family(extent: Extent) -> list[Cell]:
        return [
            tuple(Site(component, kind, layer, token) for layer in span)
            for span in spans(widths, extent.layers, align, edges, component)
            for token in range(extent.tokens(component))
        ]

    return family


def all_tokens(layer: int | None = None, kind: str = "block", component: str = "question_encoder") -> Family:
    """All tokens of a layer together; of every layer in turn if none is given."""
    _whole_kind(kind, "all_tokens")

    def family(extent: Extent) -> list[Cell]:
        layers = range(extent.layers) if layer is None else [layer]
        return [tuple(Site(component, kind, i, t) for t in range(extent.tokens(component))) for i in layers]

    return family


def token_across_layers(token: int | None = None, kind: str = "block", component: str = "question_encoder") -> Family:
    """One token in all layers together; every token in turn if none is given."""
    _whole_kind(kind, "token_across_layers")

    def family(extent: Extent) -> list[Cell]:
        tokens = range(extent.tokens(component)) if token is None else [token]
        return [tuple(Site(component, kind, i, t) for i in range(extent.layers)) for t in tokens]

    return family


def image_regions(
    grid: int | tuple[int, int], layer: int | None = None, cls: bool = True
) -> Callable[[Extent], list[Cell]]:
    """The patches of each region of the image together, the regions in reading order.

    Args:
        grid: how many regions a side has, or (rows, columns). It must divide the patches:
            the BLIP of the paper has 24 x 24, so 6 gives 36 regions of 16 patches.
        layer: of the image encoder; the last, which is the image embeddings, if None.
        cls: whether [CLS], which is no patch, comes first as a cell of its own.

    Raises:
        SiteError: for a grid that does not divide the patches.
    """
    grid_of(grid)

    def family(extent: Extent) -> list[Cell]:
        depth = extent.image_layers - 1 if layer is None else layer
        tokens = [[0]] * cls + regions(extent, grid)
        return [tuple(Site("image_encoder", "block", depth, token) for token in some) for some in tokens]

    return family


def pairs(first: Iterable[Site], second: Iterable[Site] | None = None) -> Family:
    """Every site alone and every pair of them, so that `effects.interaction` can compare.

    Args:
        first: the sites.
        second: if given, pairs are of a site of `first` and a site of `second`.

    Raises:
        SiteError: for fewer than two different sites.
    """
    one = as_cell(first)
    other = one if second is None else as_cell(second)
    alone = list(dict.fromkeys((*one, *other)))
    together = combinations(one, 2) if second is None else ((a, b) for a in one for b in other)
    cells = list(dict.fromkeys(pair for pair in together if pair[0] != pair[1]))
    if not cells:
        raise SiteError("pairs: expected at least two different sites")
    every: list[Cell] = [*((site,) for site in alone), *cells]
    # a word of several pieces would be no pair
    return lambda extent: [tuple(extent.one(site) for site in cell) for cell in every]


def _whole_kind(kind: str, family: str) -> None:
    if one_of(kind, KINDS, "kind", SiteError) in HEAD_KINDS:
        raise SiteError(f"{family} of kind {kind!r}: heads have one number more; give sets of sites instead")


def gather(given: CellsLike, extent: Extent) -> list[Cell | Connection]:
    """Cells from a family, or from a list of families, sites, collections of sites, edges and knock-outs.

    Raises:
        SiteError: if there is none, one is empty, one is given twice, or the model does not have it.
    """
    found: list[Any] = []
    if callable(given) or isinstance(given, Site | Edge | KnockOut):
        given = [given]
    if not isinstance(given, Iterable):
        raise SiteError(
            f"cells {told(given)}: expected a family such as nnblip.sites.windows(3), or a list of sets of sites"
        )
    for one in given:
        several = one(extent) if callable(one) else [one]
        if not isinstance(several, Iterable):
            raise SiteError(f"cells: the family {told(one)} gave {told(several)}, expected a list of sets of sites")
        found += several
    if not found:
        raise SiteError("cells: expected at least one, such as nnblip.sites.windows(3) or a list of sets of sites")
    cells = [one if isinstance(one, Edge | KnockOut) else resolved(one, extent) for one in found]
    for cell in cells:
        if isinstance(cell, Edge):
            cell.check(extent)
        elif isinstance(cell, KnockOut):
            check(cell, extent)
        else:
            for site in cell:
                extent.check(site)
    names = [name_of(cell) for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SiteError(f"cells: the same sites are given twice ({twice})")
    return cells


def resolved(given: Site | Iterable[Site], extent: Extent) -> Cell:
    """Sites with words and layers from the end, as a cell. Raises `SiteError`."""
    return tuple(site for one in as_cell(given) for site in extent.resolve(one))


def name_of(cell: Cell | Connection) -> str:
    """What a cell is called in a result."""
    if isinstance(cell, KnockOut):
        return cell.name
    return str(cell) if isinstance(cell, Edge) else str(describe(cell)["cell"])


def heatmap(
    extent: Extent, component: str, kinds: Sequence[str] = ("block",), regions: int | tuple[int, int] | None = None
) -> list[Cell]:
    """Every state of a component, one to a cell, ordered by kind, layer, head (where kinds have heads), token.

    Of the image encoder, with `regions`, region by region instead of patch by patch.
    """
    if component == "image_encoder":
        grid = extent.side if regions is None else regions
        return [cell for layer in extent.depths(component) for cell in image_regions(grid, layer)(extent)]
    return [
        (Site(component, kind, layer, token, head),)
        for kind in kinds
        for layer in extent.depths(component)
        for head in (range(extent.heads) if kind in HEAD_KINDS else [None])
        for token in range(extent.tokens(component))
    ]
