"""Sites and cells: which state of BLIP is meant. Plain Python, no tensors.

A *site* is one state: component, kind, layer, token (and head). A *cell* is the set
of sites that are restored together in one run: one site for a heatmap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnblip.errors import SiteError, one_of, whole

COMPONENTS = ("image_encoder", "question_encoder", "answer_decoder")
#: The components that the text layers make up, in the order in which they run.
TEXT_COMPONENTS = ("question_encoder", "answer_decoder")

#: The states of a text layer, in the order in which the layer computes them. The
#: stream (after residual and LayerNorm): attention, crossattention, block. What a
#: sublayer adds before that: attention_out, crossattention_out, mlp_out.
KINDS = ("attention_out", "attention", "crossattention_out", "crossattention", "mlp_out", "block")


@dataclass(frozen=True, slots=True)
class Site:
    """One state of the model.

    Attributes:
        component: one of `COMPONENTS`.
        kind: which state of the layer, one of `KINDS`.
        layer: counted from 0.
        token: position in the question (0 is [CLS]) or in the answer (0 is [DEC]).

    Raises:
        SiteError: for an unknown component or kind (the nearest is suggested) and for
            a layer or token that is not a whole number of at least 0.
    """

    component: str
    kind: str = "block"
    layer: int = 0
    token: int = 0

    def __post_init__(self) -> None:
        one_of(self.component, COMPONENTS, "component", SiteError)
        one_of(self.kind, KINDS, "kind", SiteError)
        for name in ("layer", "token"):
            value = whole(getattr(self, name), name, 0, SiteError, f" of {self.component}")
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return f"{self.component} {self.kind} layer {self.layer} token {self.token}"


Cell = tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many layers and tokens the text components have, for one question and answer."""

    layers: int
    question_tokens: int
    answer_tokens: int

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


def heatmap(extent: Extent, component: str, kinds: Sequence[str] = ("block",)) -> list[Cell]:
    """Every state of a component, one to a cell, ordered by kind, layer, token."""
    return [
        (Site(component, kind, layer, token),)
        for kind in kinds
        for layer in range(extent.layers)
        for token in range(extent.tokens(component))
    ]
