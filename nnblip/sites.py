"""Sites and cells: which state of BLIP is meant. Plain Python, no tensors.

A *site* is one state: component, kind, layer, token (and head). A *cell* is the set
of sites that are restored together in one run: one site for a heatmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from nnblip.errors import SiteError, one_of, told, whole

#: The parts of BLIP, in the order in which it runs.
COMPONENTS = ("image_encoder", "question_encoder", "answer_decoder")
#: Those that text layers make up.
TEXT_COMPONENTS = ("question_encoder", "answer_decoder")

#: The states of a text layer, in the order in which the layer computes them. The
#: stream (after residual and LayerNorm): block_input, attention, crossattention, block;
#: block_input is the block of the layer before, and of layer 0 the embedded words. What a
#: sublayer adds before that: attention_out, crossattention_out, mlp_out. One head's
#: share of that, before the dense layer that mixes the heads: attention_head,
#: crossattention_head; attention_value_output has all heads of attention side by side, as
#: mlp_activation has the neurons after the nonlinearity. (pyvene's mlp_activation of BLIP is
#: before it, and until February 2025 its block_output was the input.) Of one token, crossattention
#: and block are the same cell, and so are attention_value_output and attention_out, mlp_activation
#: and mlp_out: what lies between them reads that token alone.
KINDS = (
    "block_input",
    "attention_head", "attention_value_output", "attention_out", "attention",
    "crossattention_head", "crossattention_out", "crossattention",
    "mlp_activation", "mlp_out", "block",
)  # fmt: skip
#: The image encoder has layer outputs only; that of its last layer stands for the image
#: embeddings, from which only a LayerNorm of each token parts it.
IMAGE_KINDS = ("block",)
HEAD_KINDS = ("attention_head", "crossattention_head")
WHOLE_KINDS = tuple(kind for kind in KINDS if kind not in HEAD_KINDS)
#: Names in results: of a component's heads, its own name and this; of cells with several sites.
HEADS_NODE, CELLS_NODE = "_heads", "cells"

#: What `freeze` can keep: a sublayer, by the kind that it adds to the stream.
SUBLAYERS = {"attention": "attention_out", "crossattention": "crossattention_out", "mlp_out": "mlp_out"}
#: The kinds from which a sublayer makes that: restored under a frozen sublayer they change nothing.
WITHIN = {
    "attention_head": "attention", "attention_value_output": "attention", "crossattention_head": "crossattention",
    "mlp_activation": "mlp_out",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """One state of the model.

    Attributes:
        component: one of `COMPONENTS`.
        kind: which state of the layer, one of `KINDS`.
        layer: counted from 0.
        token: position in the question (0 is [CLS]), in the answer (0 is [DEC]), or among the
            patches of the image in reading order, counted from 1 (0 is [CLS]).
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
        if self.component == "image_encoder":
            one_of(self.kind, IMAGE_KINDS, "kind of image_encoder", SiteError)
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


#: Where the noise falls: on what the image encoder hands over, on what it starts from, on
#: the picture itself, or on the question's words.
PLACES = ("image_embeds", "patch_embeds", "pixels", "question")
#: Those for which the image encoder has to run again.
BEFORE_VISION = ("patch_embeds", "pixels")


@dataclass(frozen=True, slots=True)
class Extent:
    """How many layers, heads and tokens there are, for one question and answer.

    Attributes:
        layers: of a text component.
        question_tokens: of the question encoder.
        answer_tokens: of the answer decoder.
        heads: of an attention sublayer of a text component.
        image_layers: of the image encoder.
        side: how many patches a side of the image has.
        noise_at: where the noise falls, one of `PLACES`: what comes before it stays clean and
            cannot be restored.
    """

    layers: int
    question_tokens: int
    answer_tokens: int
    heads: int
    image_layers: int = 1
    side: int = 1
    noise_at: str = "image_embeds"

    def tokens(self, component: str) -> int:
        image_tokens = 1 + self.side**2
        return {"image_encoder": image_tokens, "question_encoder": self.question_tokens}.get(
            component, self.answer_tokens
        )

    def depths(self, component: str) -> range:
        """The layers of a component that can be restored."""
        if component != "image_encoder":
            return range(self.layers)
        return range(0 if self.noise_at in BEFORE_VISION else self.image_layers - 1, self.image_layers)

    def check(self, site: Site) -> None:
        """Raise `SiteError` if the model has no such state for this question and answer."""
        depths = self.depths(site.component)
        for name, value, count in (
            ("layer", site.layer, depths.stop),
            ("token", site.token, self.tokens(site.component)),
            ("head", site.head or 0, self.heads),
        ):
            if value >= count:
                raise SiteError(f"{name} {value} of {site.component}: there are {count}, 0 to {count - 1}")
        if site.layer < depths.start:
            place = "the question" if self.noise_at == "question" else "the image embeddings"
            raise SiteError(
                f"{site}: the noise falls on {place}, so earlier layers of the image encoder are clean"
                f" as they are; restore layer {depths.start} (the embeddings), or let the noise fall earlier with"
                " noise_at='patch_embeds' or 'pixels'"
            )


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
        `cell`, a name that tells all of its sites (image tokens in runs); `component`, `kind`, joined by "+" where
        there are several; `layer`, the first; `width`, how many layers from the first to
        the last; `token`, -1 where there are several; `size`, how many sites.
    """
    layers = [site.layer for site in cell]
    tokens = {site.token for site in cell}
    return {
        "cell": "; ".join(_names(cell)),
        "component": "+".join(dict.fromkeys(site.component for site in cell)),
        "kind": "+".join(dict.fromkeys(site.kind for site in cell)),
        "layer": min(layers),
        "width": max(layers) - min(layers) + 1,
        "token": tokens.pop() if len(tokens) == 1 else -1,
        "size": len(set(cell)),
    }


def _names(cell: Cell) -> list[str]:
    """The sites' names, in their order; the image tokens of one layer are told together."""
    names: dict[str, list[int]] = {}
    for site in cell:
        image = site.component == "image_encoder"
        names.setdefault(f"{site.component} block layer {site.layer} token" if image else str(site), []).append(
            site.token
        )
    return [
        f"{name}{'s' * (len(tokens) > 1)} {_runs(tokens)}" if name.endswith(" token") else name
        for name, tokens in names.items()
    ]


def _runs(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3,7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


#: A family of cells: for a question and answer of some length, its cells.
Family = Callable[[Extent], list[Cell]]
#: What may be given as cells: a family, or several families, sites and sets of sites.
CellsLike = Family | Site | Iterable[Family | Site | Iterable[Site]]


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
    widths = [whole(one, "window width", 1, SiteError) for one in (width if isinstance(width, Iterable) else [width])]
    _whole_kind(kind, "windows")
    one_of(align, ("start", "center"), "align", SiteError)
    one_of(edges, ("drop", "cut"), "edges", SiteError)

    def family(extent: Extent) -> list[Cell]:
        for one in widths:
            if one > extent.layers:
                raise SiteError(f"window width {one}: {component} has {extent.layers} layers")
        spans = []
        for one in widths:
            back = one // 2 if align == "center" else 0
            starts = [layer - back for layer in range(extent.layers)]
            cut = [range(max(0, start), min(extent.layers, start + one)) for start in starts]
            spans += [span for span in cut if edges == "cut" or len(span) == one]
        return [
            tuple(Site(component, kind, layer, token) for layer in span)
            for span in dict.fromkeys(spans)
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


def image_regions(grid: int | tuple[int, int], layer: int | None = None, cls: bool = True) -> Family:
    """The patches of each region of the image together, the regions in reading order.

    Args:
        grid: how many regions a side has, or (rows, columns). It must divide the patches:
            the BLIP of the paper has 24 x 24, so 6 gives 36 regions of 16 patches.
        layer: of the image encoder; the last, which is the image embeddings, if None.
        cls: whether [CLS], which is no patch, comes first as a cell of its own.

    Raises:
        SiteError: for a grid that does not divide the patches.
    """
    rows, columns = grid_of(grid)

    def family(extent: Extent) -> list[Cell]:
        for count in (rows, columns):
            if extent.side % count:
                divisors = [str(k) for k in range(1, extent.side + 1) if extent.side % k == 0]
                raise SiteError(
                    f"image regions: grid {grid!r} does not divide the {extent.side} x {extent.side} patches;"
                    f" expected one of {', '.join(divisors)}"
                )
        depth, high, wide = (
            extent.image_layers - 1 if layer is None else layer,
            extent.side // rows,
            extent.side // columns,
        )
        patches = [
            [1 + y * extent.side + x for y in range(r * high, (r + 1) * high) for x in range(c * wide, (c + 1) * wide)]
            for r in range(rows)
            for c in range(columns)
        ]
        tokens = [[0]] * cls + patches
        return [tuple(Site("image_encoder", "block", depth, token) for token in some) for some in tokens]

    return family


def grid_of(grid: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a grid of regions. Raises `SiteError` if they are no whole numbers of at least 1."""
    rows, columns = grid if isinstance(grid, tuple) and len(grid) == 2 else (grid, grid)
    return whole(rows, "image regions: grid", 1, SiteError), whole(columns, "image regions: grid", 1, SiteError)


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


def gather(given: CellsLike, extent: Extent) -> list[Cell]:
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
        found = one(extent) if callable(one) else [as_cell(one)]
        if not isinstance(found, Iterable):
            raise SiteError(f"cells: the family {told(one)} gave {told(found)}, expected a list of sets of sites")
        cells += found
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
