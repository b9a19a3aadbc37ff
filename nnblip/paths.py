"""Edges: what one part of BLIP says to one other, alone. Plain Python, no tensors.

Path patching (Wang et al. 2023, 2211.00593; Goldowsky-Dill et al. 2023, 2304.05969) asks of a *sender*, which
adds something to the stream, and a *receiver*, which reads the stream later: how much of the answer goes from here
to there, and by no other way? BLIP's text layers are post-LayerNorm, so that a stream is no sum of
contributions, and an edge is defined by running. There is a base run and a donor run (corrupted and clean, or the
other way round):

1. At the sender's place in the base run, its contribution becomes the donor's: what a sublayer adds before residual
   and LayerNorm, or the part of it that one head adds.
2. From there along the same token's stream to the receiver, all other sublayers add what they added in the
   base run, and the LayerNorms are computed anew.
3. At the receiver, one input alone is taken from that path: the query, or the key or value of that one source, or what
   the MLP reads; of one head if the receiver is a head, else of all heads. All else that it reads is the base run's.
4. What the receiver then adds at its token takes the place of what it added in the base run. From there on all is
   computed as always.

So between sender and receiver there are LayerNorms and sums of one token only, and what follows from
this: a query or MLP reads senders of its own token; a key or value is read from the sender's token (the source) by
the receiver's token. Keys and values of cross-attention are read elsewhere: in the question encoder from image
regions (the sender: tokens of the image encoder's last layer, as a donor has them), in the answer decoder from the
question encoder's last layer (the sender: a contribution there, carried to the end of the question encoder; or
the block of its last layer itself, at one token).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from nnblip.edges import KnockOut
from nnblip.errors import SiteError, one_of, told, whole
from nnblip.states import HEAD_KINDS, TEXT_COMPONENTS, Cell, Extent, Site, as_cell, describe, grid_of, regions

#: The sublayers of a text layer, in the order in which it computes them.
SUBLAYERS = ("attention", "crossattention", "mlp")
#: What adds to the stream: a sublayer, or one head of it.
CONTRIBUTIONS = ("attention_out", "attention_head", "crossattention_out", "crossattention_head", "mlp_out")
#: What a receiver reads.
INPUTS = {
    kind: ("mlp",) if kind == "mlp_out" else ("query", "key", "value") for kind in CONTRIBUTIONS
}  # fmt: skip
#: From where cross-attention reads keys and values.
_READ = {"question_encoder": "image_encoder", "answer_decoder": "question_encoder"}


def sublayer(kind: str) -> str:
    """The sublayer that makes a contribution: "attention", "crossattention" or "mlp"."""
    return kind.rsplit("_", 1)[0]


@dataclass(frozen=True, slots=True, init=False)
class Edge:
    """From a sender to one input of one receiver.

    Attributes:
        sender: whose contribution is the donor's: a `Site` of kind attention_out, crossattention_out, mlp_out,
            attention_head or crossattention_head; the block of the question encoder's last layer at one token; or
            several blocks of the image encoder's last layer, which are a region. Kept as a tuple of sites.
        receiver: whose contribution changes, where it lands: a `Site` of those five kinds.
        input: what of it comes from the sender: "query", "key", "value", or "mlp" of an MLP.

    Raises:
        SiteError: for sites of other kinds, a sender that comes after the receiver, and an edge that BLIP lacks.
    """

    sender: Cell
    receiver: Site
    input: str

    def __init__(self, sender: Site | Iterable[Site], receiver: Site, input: str) -> None:
        given = as_cell(sender)
        if not isinstance(receiver, Site):
            raise SiteError(f"receiver {told(receiver)}: expected a nnblip.Site(component, kind, layer=, token=)")
        for site in (*given, receiver):
            if isinstance(site.token, str) or site.layer < 0:
                raise SiteError(
                    f"{site}: an edge is between counted layers and tokens; expected clean.resolve(site), or numbers"
                )
        cell = tuple(sorted(set(given), key=lambda site: (site.component, site.layer, site.token)))
        object.__setattr__(self, "sender", cell)
        object.__setattr__(self, "receiver", receiver)
        object.__setattr__(self, "input", input)
        if receiver.component not in TEXT_COMPONENTS:
            raise SiteError(f"receiver {receiver}: expected one in {' or '.join(TEXT_COMPONENTS)}")
        one_of(receiver.kind, CONTRIBUTIONS, "kind of a receiver", SiteError)
        one_of(input, INPUTS[receiver.kind], f"input of {receiver.kind}", SiteError)
        self._check_sender()

    def __str__(self) -> str:
        return f"{describe(self.sender)['cell']} -> {self.receiver} {self.input}"

    @property
    def lands(self) -> Site:
        """The state that changes: what the receiver's sublayer adds at its token."""
        return Site(
            self.receiver.component, f"{sublayer(self.receiver.kind)}_out", self.receiver.layer, self.receiver.token
        )

    @property
    def reads(self) -> str:
        """The component that the receiver's input is read from."""
        across = sublayer(self.receiver.kind) == "crossattention" and self.input in ("key", "value")
        return _READ[self.receiver.component] if across else self.receiver.component

    def check(self, extent: Extent) -> None:
        """Raise `SiteError` if the model has no such edge for this question and answer."""
        for site in (*self.sender, self.receiver):
            extent.check(site)
        first = self.sender[0]
        last = {"image_encoder": extent.image_layers, "question_encoder": extent.layers}.get(first.component, 0) - 1
        if first.kind == "block" and first.layer != last:
            raise SiteError(
                f"sender {_told(self.sender)}: cross-attention reads the last layer of {first.component};"
                f" expected layer {last}"
            )

    def _check_sender(self) -> None:
        first, receiver = self.sender[0], self.receiver
        what = f"edge {self}"
        if first.component != self.reads:
            raise SiteError(
                f"{what}: this {self.input} of the {receiver.component} is read from the {self.reads};"
                f" expected {_expected(self.reads, receiver)}"
            )
        if self.reads == "image_encoder":
            if len({site.layer for site in self.sender}) > 1:
                raise SiteError(f"{what}: expected a region of one layer, the last, of the image encoder")
            return
        if len(self.sender) > 1:
            raise SiteError(f"{what}: {len(self.sender)} senders; expected one, only an image region has several sites")
        if self.reads != receiver.component:
            if first.kind not in (*CONTRIBUTIONS, "block"):
                raise SiteError(f"{what}: kind {first.kind!r}; expected {_expected(self.reads, receiver)}")
            return
        if first.kind not in CONTRIBUTIONS:
            raise SiteError(f"{what}: {first.kind!r} adds nothing to the stream; expected {', '.join(CONTRIBUTIONS)}")
        if place(first) >= place(receiver):
            raise SiteError(
                f"{what}: the sender comes after the receiver, or is its part; expected an earlier sublayer"
            )
        if self.input in ("query", "mlp") and first.token != receiver.token:
            raise SiteError(
                f"{what}: the {self.input} is of the receiver's own token; expected a sender at token {receiver.token}"
            )
        if receiver.component == "answer_decoder" and first.token > receiver.token:
            raise SiteError(
                f"{what}: no word of the answer reads a later one;"
                f" expected a sender at token {receiver.token} or before"
            )


def place(site: Site) -> tuple[int, int]:
    """Where in a component a contribution is made: layer, and number of the sublayer."""
    return site.layer, SUBLAYERS.index(sublayer(site.kind))


def _told(cell: Cell) -> str:
    return str(describe(cell)["cell"])


def _expected(component: str, receiver: Site) -> str:
    if component == "image_encoder":
        return "nnblip.Site('image_encoder', layer=the last, token=patch), one or several"
    if component != receiver.component:
        return f"one of {', '.join(CONTRIBUTIONS)} of the {component}, or the block of its last layer"
    return f"one of {', '.join(CONTRIBUTIONS)} of the {component}"


def describe_edge(edge: Edge) -> dict[str, str | int]:
    """What an edge is, as coordinates of a result.

    Returns:
        `edge`, its text; `input`; and of the sender and the receiver, such as `sender_layer`: component, kind, layer,
        head (-1 where there is none) and token (-1 of a region with several).
    """
    sender = edge.sender[0]
    several = len(edge.sender) > 1
    found: dict[str, str | int] = {"edge": str(edge), "input": edge.input}
    for name, site in (("sender", sender), ("receiver", edge.receiver)):
        found |= {
            f"{name}_component": site.component, f"{name}_kind": site.kind, f"{name}_layer": site.layer,
            f"{name}_head": -1 if site.head is None else site.head,
            f"{name}_token": -1 if name == "sender" and several else site.token,
        }  # fmt: skip
    return found


#: A cell that is no set of states: an edge, or edges that are cut.
Connection = Edge | KnockOut
ConnectionFamily = Callable[[Extent], list[Edge]] | Callable[[Extent], list[KnockOut]]


# --- the family ---------------------------------------------------------------------------


def edges(
    receivers: str | Sequence[str] = "crossattention_out",
    component: str = "answer_decoder",
    senders: str | Sequence[str] = ("attention_out", "crossattention_out", "mlp_out"),
    inputs: str | Sequence[str] | None = None,
    layer: int | None = None,
    token: int | None = None,
    regions: int | tuple[int, int] = 1,
) -> Callable[[Extent], list[Edge]]:
    """All edges into receivers of some kinds.

    Args:
        receivers: kinds of receivers, of `CONTRIBUTIONS`; of the kinds of heads every head.
        component: in which component.
        senders: kinds of senders; "block" is what the question encoder's last layer hands to the answer decoder.
        inputs: of "query", "key", "value" and "mlp"; all that the receivers have if None.
        layer, token: of the receivers; all if None.
        regions: for keys and values that are read from the image, whatever `senders` says: the grid of its regions, 1
            for the whole picture. [CLS] is a sender of its own, before them.

    Returns:
        A family whose edges come receiver by receiver, layer by layer and token by token.

    Raises:
        SiteError: for an unknown kind, component or input, or a bad grid; from the family, for a layer or token that
            is not there, a grid that does not divide the patches, or if there is no such edge.
    """
    one_of(component, TEXT_COMPONENTS, "component of receivers", SiteError)
    kinds = [one_of(kind, CONTRIBUTIONS, "kind of a receiver", SiteError) for kind in _listed(receivers)]
    sending = [one_of(kind, (*CONTRIBUTIONS, "block"), "kind of a sender", SiteError) for kind in _listed(senders)]
    every = ("query", "key", "value", "mlp")
    wanted = [one_of(one, every, "input", SiteError) for one in _listed(every if inputs is None else inputs)]
    grid_of(regions)
    places = {
        name: None if value is None else whole(value, name, 0, SiteError, " of receivers")
        for name, value in (("layer", layer), ("token", token))
    }

    def family(extent: Extent) -> list[Edge]:
        found = [
            Edge(sender, receiver, one)
            for kind in kinds
            for receiver in _sites(component, kind, extent, places["layer"], places["token"])
            for one in INPUTS[kind]
            if one in wanted
            for sender in _senders(receiver, one, sending, regions, extent)
        ]
        if not found:
            raise SiteError(
                f"edges into {', '.join(kinds)} of the {component}: nothing comes before; there is no such edge"
            )
        return found

    return family


def _listed(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _sites(component: str, kind: str, extent: Extent, layer: int | None, token: int | None) -> Iterator[Site]:
    layers = range(extent.layers) if layer is None else [layer]
    tokens = range(extent.tokens(component)) if token is None else [token]
    for one in layers:
        for head in range(extent.heads) if kind in HEAD_KINDS else [None]:
            for where in tokens:
                site = Site(component, kind, one, where, head)
                extent.check(site)
                yield site


def _senders(
    receiver: Site, input: str, kinds: Sequence[str], grid: int | tuple[int, int], extent: Extent
) -> Iterator[Cell]:
    across = sublayer(receiver.kind) == "crossattention" and input in ("key", "value")
    if across and receiver.component == "question_encoder":
        for tokens in ([0], *regions(extent, grid)):
            yield tuple(Site("image_encoder", "block", extent.image_layers - 1, token) for token in tokens)
        return
    source = _READ[receiver.component] if across else receiver.component
    own = receiver.token if input in ("query", "mlp") else None
    for kind in kinds:
        last = extent.layers - 1 if kind == "block" else None
        if kind == "block" and not across:
            continue
        for site in _sites(source, kind, extent, last, own):
            if not across and place(site) >= place(receiver):
                continue
            if source == receiver.component == "answer_decoder" and site.token > receiver.token:
                continue
            yield (site,)
