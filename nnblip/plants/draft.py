"""A plant while it is built: wires, and for each what it makes true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nnblip.edges import KnockOut, knock_out
from nnblip.paths import Edge
from nnblip.plants.wiring import IMAGE_LAYERS, LAYERS, SIDE, TOKENS, Features, Wiring
from nnblip.states import Site

_STREAM = ("block_input", "attention", "crossattention", "block")
#: Where an attention sublayer is cut.
_CUT = {
    ("question_encoder", "crossattention"): "image_to_question",
    ("question_encoder", "attention"): "question_to_question",
    ("answer_decoder", "crossattention"): "question_to_answer",
}


@dataclass
class Leg:
    """A part of a circuit that works as one: its states, edges, and the cuts that take it away."""

    sites: list[Site] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    knock_outs: list[KnockOut] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What adds to the stream: a head of an attention sublayer at a token, a whole sublayer there, or an MLP.

    Attributes:
        shared: whether other heads add there too, so that the sublayer's whole contribution is more than this one's.
    """

    component: str
    sublayer: str
    layer: int
    token: int
    head: int | None = None
    shared: bool = False

    def _sites(self, whole: bool) -> list[Site]:
        place = self.component, self.layer, self.token
        found = []
        if self.head is not None:
            found.append(Site(place[0], f"{self.sublayer}_head", place[1], place[2], self.head))
        if whole:
            found.append(Site(place[0], f"{self.sublayer}_out", place[1], place[2]))
        return found

    @property
    def senders(self) -> list[Site]:
        return self._sites(not self.shared)

    @property
    def receivers(self) -> list[Site]:
        return self._sites(True)

    @property
    def sites(self) -> list[Site]:
        found = self.senders
        inner = {"attention": "attention_value_output", "mlp": "mlp_activation"}.get(self.sublayer)
        if inner and not self.shared:
            found.append(Site(self.component, inner, self.layer, self.token))
        return found


class Draft:
    """Wires and truth together.

    Attributes:
        wiring: the model.
        legs: by name.
        rng: decides what the seed decides.
        tokens: three different ones, none of them [CLS].
        patches: two different ones.
    """

    def __init__(self, seed: int, kind: str, answers: tuple[str, str]) -> None:
        self.rng = np.random.default_rng([seed, *kind.encode()])
        self.wiring = Wiring(self.rng, answers)
        self.legs: dict[str, Leg] = {}
        self.tokens = [int(token) for token in self.rng.permutation(np.arange(1, TOKENS))[:3]]
        self.patches = [int(patch) for patch in self.rng.permutation(np.arange(1, 1 + SIDE**2))[:2]]

    def number(self, first: int, last: int) -> int:
        """A whole number from `first` to `last`."""
        return int(self.rng.integers(first, last + 1))

    def heads(self) -> list[int]:
        """Two different heads."""
        return [int(head) for head in self.rng.permutation(4)[:2]]

    def leg(self, name: str) -> Leg:
        return self.legs.setdefault(name, Leg())

    # --- wires with their truth -------------------------------------------------------

    def show(self, leg: str, patch: int) -> None:
        """A patch whose colour becomes a signal; its states are the leg's."""
        self.wiring.mark(patch, self.number(0, IMAGE_LAYERS - 1))
        self.leg(leg).sites += [Site("image_encoder", layer=layer, token=patch) for layer in range(IMAGE_LAYERS)]

    def read(self, leg: str, layer: int, head: int, token: int, patch: int, feature: str) -> Part:
        self.wiring.read(layer, head, token, patch, feature)
        part = Part("question_encoder", "crossattention", layer, token, head)
        image = Site("image_encoder", layer=IMAGE_LAYERS - 1, token=patch)
        self.add(leg, part, [image], "value")
        self.cut(leg, part, patch)
        return part

    def move(
        self, leg: str, layer: int, head: int, sender: Part, target: int, values: Features, writes: Features,
        shared: bool = False,
    ) -> Part:  # fmt: skip
        self.wiring.move(layer, head, sender.token, target, values, writes)
        part = Part("question_encoder", "attention", layer, target, head, shared)
        self.add(leg, part, sender.senders, "value")
        self.cut(leg, part, sender.token)
        return part

    def hand_over(self, leg: str, senders: Iterable[Part], values: Features, feature: str, layer: int) -> Part:
        """From the senders, which are all at one token, to the answer decoder; the last is the leg's end."""
        senders = list(senders)
        head, token = self.number(0, 3), senders[0].token
        self.wiring.hand_over(layer, head, token, values, feature)
        part = Part("answer_decoder", "crossattention", layer, 0, head)
        block = Site("question_encoder", "block", LAYERS - 1, token)
        self.add(leg, part, [block, *(site for one in senders for site in one.senders)], "value")
        self.cut(leg, part, token)
        self.stream(leg, "answer_decoder", 0, (layer, "crossattention"))
        return part

    # --- truth alone ------------------------------------------------------------------

    def add(self, leg: str, part: Part, senders: Iterable[Site], input: str) -> None:
        """The part's own states, and edges from senders to it."""
        found = self.leg(leg)
        found.sites += part.sites
        self.connect(leg, senders, part, input)

    def connect(self, leg: str, senders: Iterable[Site], part: Part, input: str) -> None:
        """Edges from senders to a part."""
        self.leg(leg).edges += [Edge(sender, receiver, input) for sender in senders for receiver in part.receivers]

    def cut(self, leg: str, part: Part, source: int) -> None:
        edges = _CUT[part.component, part.sublayer]
        self.leg(leg).knock_outs.append(knock_out(edges, part.layer, source, part.token))

    def stream(
        self,
        leg: str,
        component: str,
        token: int,
        start: tuple[int, str],
        stop: tuple[int, str] = (LAYERS - 1, "block"),
    ) -> None:
        """The states of a token's stream from one to another, both included."""
        kinds = [(layer, kind) for layer in range(LAYERS) for kind in _STREAM]
        for layer, kind in kinds[kinds.index(start) : kinds.index(stop) + 1]:
            self.leg(leg).sites.append(Site(component, kind, layer, token))
