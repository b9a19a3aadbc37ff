"""Which states BLIP has: sites, extents, and cells made of them. Plain Python, no tensors.

A *site* is one state: component, kind, layer, token (and head). A *cell* is the set
of sites that are restored together in one run: one site for a heatmap. Users find all of
this in `nnblip.sites`, beside the families of cells.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnblip.errors import SiteError, one_of, told, whole
from nnblip.words import positions, spelt

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
#: And of cells that are more than states: edges, and knock-outs.
EDGES_NODE, KNOCK_OUTS_NODE = "edges", "knock_outs"
#: The nodes whose cells are a list, with its dimension.
LISTS = {CELLS_NODE: "cell", EDGES_NODE: "edge", KNOCK_OUTS_NODE: "knock_out"}

#: What `freeze` can keep: a sublayer, by the kind that it adds to the stream.
SUBLAYERS = {"attention": "attention_out", "crossattention": "crossattention_out", "mlp_out": "mlp_out"}
#: The kinds from which a sublayer makes that: restored under a frozen sublayer they change nothing.
WITHIN = {
    "attention_head": "attention", "attention_value_output": "attention", "crossattention_head": "crossattention",
    "mlp_activation": "mlp_out",
}  # fmt: skip


@dataclass(frozen=True, slots=True, init=False)
class Site:
    """One state of the model.

    Attributes:
        component: one of `COMPONENTS`.
        kind: which state of the layer, one of `KINDS`.
        layer: counted from 0; or from the end, -1 is the last.
        token: position in the question (0 is [CLS]), in the answer (0 is [DEC]), or among the
            patches of the image in reading order, counted from 1 (0 is [CLS]). Of the question also a word of it,
            such as "dark".
        head: which head, for the kinds of heads; None for whole states.

    A layer from the end and a word are resolved where a model and a question are known: in `cells=` of a trace
    and `restore=` of a run a word of several pieces is all of its tokens; `clean.resolve(site)` is one site.

    Raises:
        SiteError: for an unknown component or kind (the nearest is suggested), for a
            layer, token or head that is not a whole number of at least 0, or a word where the component has none,
            and for a head where the kind has none, or none where it needs one.
    """

    component: str
    kind: str
    layer: int
    token: int  # a text until it is resolved, which all code past `Extent.resolve` may rely on
    head: int | None

    def __init__(
        self, component: str, kind: str = "block", layer: int = 0, token: int | str = 0, head: int | None = None
    ) -> None:
        for name, value in dict(component=component, kind=kind, layer=layer, token=token, head=head).items():
            object.__setattr__(self, name, value)
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
            given: Any = getattr(self, name)
            if name == "token" and isinstance(given, str):
                self._check_word(given)
                continue
            least = -sys.maxsize if name == "layer" and _is_negative(given) else 0
            value = whole(given, name, least, SiteError, f" of {self.component}")
            object.__setattr__(self, name, value)

    def _check_word(self, word: str) -> None:
        if self.component != "question_encoder":
            raise SiteError(
                f"token {told(word)} of {self.component}: only question_encoder reads words of the question"
            )
        if not word.strip():
            raise SiteError(f"token {told(word)} of {self.component}: expected a position or a word of the question")

    def __str__(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        token = repr(self.token) if isinstance(self.token, str) else self.token
        return f"{self.component} {self.kind} layer {self.layer} token {token}{head}"


def _is_negative(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and operator.index(value) < 0


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
        roles: of each question token (see `nnblip.roles`), where they are known.
        texts: of each question token, where they are known.
    """

    layers: int
    question_tokens: int
    answer_tokens: int
    heads: int
    image_layers: int = 1
    side: int = 1
    noise_at: str = "image_embeds"
    roles: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

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

    def resolve(self, site: Site) -> Cell:
        """A site with a layer from the end or a word, counted from 0: as many sites as the word has pieces.

        Raises:
            SiteError: if there is no such layer, or the word is not in the question or stands there several times.
        """
        layer, depths = site.layer, self.depths(site.component)
        if layer < 0:
            layer += depths.stop
            if layer < 0:
                raise SiteError(
                    f"layer {site.layer} of {site.component}: there are {depths.stop}, 0 to {depths.stop - 1}"
                    f" or {-depths.stop} to -1"
                )
        tokens = [site.token]
        if isinstance(site.token, str):
            if not self.texts:
                raise SiteError(
                    f"{site}: a word names its tokens in one question, which is not known here; expected a position,"
                    " or a family that goes by roles"
                )
            tokens = positions(self.texts, site.token)
        return tuple(Site(site.component, site.kind, layer, token, site.head) for token in tokens)

    def one(self, site: Site) -> Site:
        """As `resolve`, of a word of one piece. Raises `SiteError` for one of several, with their positions."""
        sites = self.resolve(site)
        if len(sites) > 1:
            raise SiteError(
                f"{site}: the word has {len(sites)} pieces, {spelt(self.texts, [one.token for one in sites])};"
                " expected the position of one"
            )
        return sites[0]

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
        f"{name}{'s' * (len(tokens) > 1)} {runs(tokens)}" if name.endswith(" token") else name
        for name, tokens in names.items()
    ]


def runs(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3,7"."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ",".join("-".join(map(str, run)) for run in found)


# --- what families share ------------------------------------------------------------------


def spans(
    width: int | Sequence[int], layers: int, align: str = "start", edges: str = "drop", where: str = ""
) -> list[range]:
    """Windows of consecutive layers: width by width, in the order of the layers, each once.

    Args:
        width, align, edges: as `nnblip.sites.windows` has them.
        layers: how many there are.
        where: of which component, for the message.

    Raises:
        SiteError: for a width that exceeds the layers.
    """
    found = []
    for one in widths_of(width):
        if one > layers:
            raise SiteError(f"window width {one}: {where} has {layers} layers")
        back = one // 2 if align == "center" else 0
        cut = [range(max(0, start - back), min(layers, start - back + one)) for start in range(layers)]
        found += [span for span in cut if edges == "cut" or len(span) == one]
    return list(dict.fromkeys(found))


def widths_of(width: int | Sequence[int]) -> list[int]:
    """One width or several. Raises `SiteError` if they are no whole numbers of at least 1, or there is none."""
    widths = [whole(one, "window width", 1, SiteError) for one in (width if isinstance(width, Iterable) else [width])]
    if not widths:
        raise SiteError("window widths: expected at least one")
    return widths


def grid_of(grid: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a grid of regions. Raises `SiteError` if they are no whole numbers of at least 1."""
    rows, columns = grid if isinstance(grid, tuple) and len(grid) == 2 else (grid, grid)
    return whole(rows, "image regions: grid", 1, SiteError), whole(columns, "image regions: grid", 1, SiteError)


def regions(extent: Extent, grid: int | tuple[int, int]) -> list[list[int]]:
    """The patches of each region of the image, counted from 1; the regions in reading order.

    Raises:
        SiteError: for a grid that does not divide the patches.
    """
    rows, columns = grid_of(grid)
    for count in (rows, columns):
        if extent.side % count:
            divisors = [str(k) for k in range(1, extent.side + 1) if extent.side % k == 0]
            raise SiteError(
                f"image regions: grid {grid!r} does not divide the {extent.side} x {extent.side} patches;"
                f" expected one of {', '.join(divisors)}"
            )
    high, wide = extent.side // rows, extent.side // columns
    return [
        [1 + y * extent.side + x for y in range(r * high, (r + 1) * high) for x in range(c * wide, (c + 1) * wide)]
        for r in range(rows)
        for c in range(columns)
    ]
