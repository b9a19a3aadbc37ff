"""Sites and cells: which state of BLIP is meant. Plain Python, no tensors.

A *site* is one state: component, kind, layer, token (and head). A *cell* is the set
of sites that are restored together in one run: one site for a heatmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from nnblip.errors import SiteError, one_of, whole

COMPONENTS = ("image_encoder", "question_encoder", "answer_decoder")
#: The components that the text layers make up, in the order in which they run.
TEXT_COMPONENTS = ("question_encoder", "answer_decoder")

#: The states of a text layer, in the order in which the layer computes them. The
#: stream (after residual and LayerNorm): attention, crossattention, block. What a
#: sublayer adds before that: attention_out, crossattention_out, mlp_out. One head's
#: share of that, before the dense layer that mixes the heads: attention_head,
#: crossattention_head.
KINDS = (
    "attention_head", "attention_out", "attention",
    "crossattention_head", "crossattention_out", "crossattention",
    "mlp_out", "block",
)  # fmt: skip
HEAD_KINDS = ("attention_head", "crossattention_head")
WHOLE_KINDS = tuple(kind for kind in KINDS if kind not in HEAD_KINDS)
#: What `freeze` can keep: a sublayer, by the kind that it adds to the stream.
SUBLAYERS = {"attention": "attention_out", "crossattention": "crossattention_out", "mlp_out": "mlp_out"}


@dataclass(frozen=True, slots=True)
class Site:
    """One state of the model.

    Attributes:
        component: one of `COMPONENTS`.
        kind: which state of the layer, one of `KINDS`.
        layer: counted from 0.
        token: position in the question (0 is [CLS]) or in the answer (0 is [DEC]).
        head: which head, for the kinds of heads; None for whole states.

    Raises:
        SiteError: for an unknown component or kind (the nearest is suggested), for a
            layer, token or head that is not a whole number of at least 0, and for a head
            where the kind has none, or none where it needs one.
    """

    component: str
    kind: str = "block"
    layer: int = 0
    token: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        one_of(self.component, COMPONENTS, "component", SiteError)
        one_of(self.kind, KINDS, "kind", SiteError)
        if (self.head is not None) != (self.kind in HEAD_KINDS):
            raise SiteError(
                f"head {self.head!r} of kind {self.kind!r}: expected"
                f" {'the number of a head' if self.kind in HEAD_KINDS else 'none, this is a whole state'}"
            )
        for name in ("layer", "token") if self.head is None else ("layer", "token", "head"):
            value = whole(getattr(self, name), name, 0, SiteError, f" of {self.component}")
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        return f"{self.component} {self.kind} layer {self.layer} token {self.token}{head}"


Cell = tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many layers, heads and tokens the text components have, for one question and answer."""

    layers: int
    question_tokens: int
    answer_tokens: int
    heads: int

    def tokens(self, component: str) -> int:
        return self.question_tokens if component == "question_encoder" else self.answer_tokens

    def check(self, site: Site) -> None:
        """Raise `SiteError` if the model has no such state for this question and answer."""
        if site.component == "image_encoder":
            raise SiteError(
                f"{site}: states of the image encoder cannot be restored, because the noise falls on its output;"
                f" expected one of: {', '.join(TEXT_COMPONENTS)}"
            )
        for name, value, count in (
            ("layer", site.layer, self.layers),
            ("token", site.token, self.tokens(site.component)),
            ("head", site.head or 0, self.heads),
        ):
            if value >= count:
                raise SiteError(f"{name} {value} of {site.component}: there are {count}, 0 to {count - 1}")


def as_cell(given: Site | Iterable[Site]) -> Cell:
    """A site, or any collection of sites, as a cell.

    Raises:
        SiteError: if it is empty or holds something other than a `Site`.
    """
    cell = tuple(given) if isinstance(given, Iterable) else (given,)
    if not cell:
        raise SiteError("an empty set of sites restores nothing: give at least one nnblip.Site")
    for site in cell:
        if not isinstance(site, Site):
            raise SiteError(f"{site!r} is not a site: expected nnblip.Site(component, kind, layer=, token=)")
    return cell


def describe(cell: Cell) -> dict[str, str | int]:
    """What a cell is, as coordinates of a result.

    Returns:
        `cell`, a name that tells all of its sites; `component`, `kind`, joined by "+" where
        there are several; `layer`, the first; `width`, how many layers from the first to
        the last; `token`, -1 where there are several; `size`, how many sites.
    """
    layers = [site.layer for site in cell]
    tokens = {site.token for site in cell}
    return {
        "cell": "; ".join(str(site) for site in cell),
        "component": "+".join(dict.fromkeys(site.component for site in cell)),
        "kind": "+".join(dict.fromkeys(site.kind for site in cell)),
        "layer": min(layers),
        "width": max(layers) - min(layers) + 1,
        "token": tokens.pop() if len(tokens) == 1 else -1,
        "size": len(set(cell)),
    }


#: A family of cells: for a question and answer of some length, its cells.
Family = Callable[[Extent], list[Cell]]


def windows(width: int | Sequence[int], kind: str = "block", component: str = "question_encoder") -> Family:
    """One token's states in `width` consecutive layers, for every token and every such window.

    With several widths, all of them. Windows that would reach past the last layer are left
    out, not cut short. The paper's second notebook is `windows(3, kind="attention")` and
    `windows(3, kind="crossattention")`.

    Raises:
        SiteError: for a width that is not a whole number of at least 1 or exceeds the layers.
    """
    widths = [whole(one, "window width", 1, SiteError) for one in (width if isinstance(width, Iterable) else [width])]
    _whole_kind(kind, "windows")

    def family(extent: Extent) -> list[Cell]:
        for one in widths:
            if one > extent.layers:
                raise SiteError(f"window width {one}: {component} has {extent.layers} layers")
        return [
            tuple(Site(component, kind, layer + k, token) for k in range(one))
            for one in widths
            for layer in range(extent.layers - one + 1)
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
    family: list[Cell] = [(site,) for site in alone]
    return lambda extent: family + cells


def _whole_kind(kind: str, family: str) -> None:
    if one_of(kind, KINDS, "kind", SiteError) in HEAD_KINDS:
        raise SiteError(f"{family} of kind {kind!r}: heads have one number more; give sets of sites instead")


def gather(given: Any, extent: Extent) -> list[Cell]:
    """Cells from a family, or from a list of families, sites and collections of sites.

    Raises:
        SiteError: if there is none, one is empty, one is given twice, or a site is not in the model.
    """
    cells: list[Cell] = []
    if callable(given) or isinstance(given, Site):
        given = [given]
    if not isinstance(given, Iterable):
        raise SiteError(
            f"cells {given!r}: expected a family such as nnblip.sites.windows(3), or a list of sets of sites"
        )
    for one in given:
        cells += one(extent) if callable(one) else [as_cell(one)]
    if not cells:
        raise SiteError("cells: expected at least one, such as nnblip.sites.windows(3) or a list of sets of sites")
    for cell in cells:
        for site in cell:
            extent.check(site)
    names = [str(describe(cell)["cell"]) for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SiteError(f"cells: the same sites are given twice ({twice})")
    return cells


def heatmap(extent: Extent, component: str, kinds: Sequence[str] = ("block",)) -> list[Cell]:
    """Every state of a component, one to a cell, ordered by kind, layer, head (where kinds have heads), token."""
    return [
        (Site(component, kind, layer, token, head),)
        for kind in kinds
        for layer in range(extent.layers)
        for head in (range(extent.heads) if kind in HEAD_KINDS else [None])
        for token in range(extent.tokens(component))
    ]
