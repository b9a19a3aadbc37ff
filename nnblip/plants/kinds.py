"""The circuits: one function a kind, which wires a `Draft`, and what is asked of the planted model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnblip.plants.draft import Draft, Part
from nnblip.plants.wiring import CONSTANT, LAYERS, SAID, TOKENS, position

_COLOUR = "what color is the spot"
#: A signal that was read is 4, and after the LayerNorm of three such features 4 * sqrt(2 / 3); this makes it half of 4.
_HALF = 0.5 * (3 / 2) ** 0.5


@dataclass(frozen=True)
class Kind:
    """A kind of plant.

    Attributes:
        wire: builds it.
        about: a sentence.
        question, answers: what is asked, and what is said if the planted patches are red, and if they are blue.
        denoising: legs of which each state and edge, put back to clean alone, gives the answer back.
        noising: those of which each, damaged alone in the clean run, takes it away.
        cutting: those of which each cut takes it away.
    """

    wire: Callable[[Draft], None]
    about: str
    question: str = _COLOUR
    answers: tuple[str, str] = ("red", "blue")
    denoising: tuple[str, ...] = ("main",)
    noising: tuple[str, ...] = ("main",)
    cutting: tuple[str, ...] = ("main",)


def layer(draft: Draft) -> None:
    token, patch = draft.tokens[0], draft.patches[0]
    draft.show("main", patch)
    depth = draft.number(0, LAYERS - 1)
    part = draft.read("main", depth, draft.number(0, 3), token, patch, "a")
    draft.stream("main", "question_encoder", token, (depth, "crossattention"))
    draft.hand_over("main", [part], {"a": 1}, SAID, draft.number(0, LAYERS - 1))


def head(draft: Draft) -> None:
    token, other = draft.tokens[:2]
    patch = draft.patches[0]
    draft.show("main", patch)
    first = draft.number(0, LAYERS - 2)
    second = draft.number(first + 1, LAYERS - 1)
    part = draft.read("main", first, draft.number(0, 3), token, patch, "a")
    draft.stream("main", "question_encoder", token, (first, "crossattention"), (second, "block_input"))
    moved = draft.move("main", second, draft.number(0, 3), part, other, {"a": 1}, {"b": 1})
    draft.stream("main", "question_encoder", other, (second, "attention"))
    draft.hand_over("main", [moved], {"b": 1}, SAID, draft.number(0, LAYERS - 1))


def distractor(draft: Draft) -> None:
    layer(draft)
    patch = draft.patches[1]
    draft.wiring.mark(patch)
    taken = {
        (site.layer, site.head) for site in draft.leg("main").sites
        if site.component == "question_encoder" and site.kind == "crossattention_head"
    }  # fmt: skip
    for depth in range(LAYERS):
        for number in range(4):
            if (depth, number) not in taken:
                draft.wiring.glance(depth, number, patch)


def edge(draft: Draft) -> None:
    """Whether the image says what a token reads (value), where it looks (query), where another looks (key), or goes
    through an MLP: the seed decides."""
    (head, _query, _key, _mlp)[draft.number(0, 3)](draft)


def _query(draft: Draft) -> None:
    token, yes, no = draft.tokens
    draft.show("main", draft.patches[0])
    first = draft.number(0, LAYERS - 2)
    second = draft.number(first + 1, LAYERS - 1)
    part = draft.read("main", first, draft.number(0, 3), token, draft.patches[0], "a")
    draft.stream("main", "question_encoder", token, (first, "crossattention"))
    number = draft.number(0, 3)
    where = {position(yes): 1.0, position(no): -1.0}
    draft.wiring.attend(second, number, [{"a": 1}], [where], where, {"b": 1})
    chosen = Part("question_encoder", "attention", second, token, number)
    draft.add("main", chosen, part.senders, "query")
    draft.cut("main", chosen, yes)
    draft.hand_over("main", [chosen], {"b": 1}, SAID, draft.number(0, LAYERS - 1))


def _key(draft: Draft) -> None:
    token, other = draft.tokens[:2]
    draft.show("main", draft.patches[0])
    first = draft.number(0, LAYERS - 2)
    second = draft.number(first + 1, LAYERS - 1)
    part = draft.read("main", first, draft.number(0, 3), token, draft.patches[0], "a")
    draft.stream("main", "question_encoder", token, (first, "crossattention"), (second, "block_input"))
    number = draft.number(0, 3)
    elsewhere = {position(one): 1.0 for one in range(TOKENS) if one != token}
    draft.wiring.attend(
        second, number, [{position(other): 1}, {CONSTANT: 1, position(other): -1}], [{"a": 1}, {position(0): 1}],
        elsewhere, {"b": -2.0},
    )  # fmt: skip
    chosen = Part("question_encoder", "attention", second, other, number)
    draft.add("main", chosen, part.senders, "key")
    draft.cut("main", chosen, token)
    draft.stream("main", "question_encoder", other, (second, "attention"))
    # b is 0 or minus twice what the token's own feature is
    draft.hand_over("main", [chosen], {"b": 1, position(other): 1}, SAID, draft.number(0, LAYERS - 1))


def _mlp(draft: Draft) -> None:
    token = draft.tokens[0]
    draft.show("main", draft.patches[0])
    first = draft.number(0, LAYERS - 1)
    second = draft.number(first, LAYERS - 1)
    part = draft.read("main", first, draft.number(0, 3), token, draft.patches[0], "a")
    draft.stream("main", "question_encoder", token, (first, "crossattention"))
    gate = Part("question_encoder", "mlp", second, token)
    draft.wiring.gate(gate.component, second, [({"a": 1}, {"b": 1}), ({"a": -1}, {"b": -1})])
    draft.add("main", gate, part.senders, "mlp")
    draft.hand_over("main", [gate], {"b": 1}, SAID, draft.number(0, LAYERS - 1))


def both(draft: Draft) -> None:
    _two(draft, 0.7, 0.9)


def either(draft: Draft) -> None:
    _two(draft, 0.1, 0.3)


def _two(draft: Draft, low: float, high: float) -> None:
    """Two signals, each half of the constant if it is red, are added up and held against a threshold."""
    parts, end, moved = _two_legs(draft, draft.patches, ("first", "second"))
    own = position(end)
    later = draft.number(moved, LAYERS - 2)
    last = draft.number(later + 1, LAYERS - 1)
    summing, deciding = Part("question_encoder", "mlp", later, end), Part("question_encoder", "mlp", last, end)
    draft.wiring.gate(summing.component, later, [({"A": 1}, {"sum": 1}), ({"B": 1}, {"sum": 1})])
    steep = 2 / (high - low)
    draft.wiring.gate(
        deciding.component, last,
        [({"sum": 1, own: -low}, {"c": steep}), ({"sum": 1, own: -high}, {"c": -steep}), ({own: 1}, {"c": -1})],
    )  # fmt: skip
    for leg, part in zip(("first", "second"), parts, strict=True):
        draft.connect(leg, part.senders, summing, "mlp")
    together = Part("question_encoder", "attention", moved, end)
    draft.add("main", together, [], "value")
    draft.add("main", summing, together.senders, "mlp")
    draft.add("main", deciding, summing.senders, "mlp")
    _decide(draft, "main", draft.hand_over("main", [deciding], {"c": 1}, "heard", draft.number(0, LAYERS - 1)))


def _two_legs(
    draft: Draft, patches: list[int], legs: tuple[str, str], shown: bool = True
) -> tuple[list[Part], int, int]:
    """Two tokens read a patch each, and a third reads them by two heads of one layer: signals "A" and "B", which no
    other token has.

    Returns:
        What adds them there, the third token, and that layer.
    """
    end = draft.tokens[2]
    moved = draft.number(1, LAYERS - 2)
    heads, parts = draft.heads(), []
    for number, leg in enumerate(legs):
        token, feature = draft.tokens[number], "ab"[number]
        if shown or number == 0:
            draft.show(leg, patches[number])
        first = draft.number(0, moved - 1)
        part = draft.read(leg, first, heads[number], token, patches[number], feature)
        draft.stream(leg, "question_encoder", token, (first, "crossattention"), (moved, "block_input"))
        writes = {feature.upper(): _HALF}
        parts.append(draft.move(leg, moved, heads[number], part, end, {feature: 1}, writes, shared=True))
    draft.stream("main", "question_encoder", end, (moved, "attention"))
    return parts, end, moved


def _decide(draft: Draft, leg: str, heard: Part) -> None:
    """In the decoder: only whether what was heard is positive counts, so that its size does not."""
    later = draft.number(heard.layer, LAYERS - 1)
    part = Part("answer_decoder", "mlp", later, 0)
    draft.wiring.gate(
        part.component, later,
        [
            ({"heard": 1, CONSTANT: 0.1}, {SAID: 7}), ({"heard": 1, CONSTANT: -0.1}, {SAID: -7}),
            ({CONSTANT: 1}, {SAID: -0.7}),
        ],
    )  # fmt: skip
    draft.add(leg, part, heard.senders, "mlp")


def backup(draft: Draft) -> None:
    """What the first leg brings is said. If it is missing, what the second brings of the same patch."""
    patch = draft.patches[0]
    (first, second), end, moved = _two_legs(draft, [patch, patch], ("main", "backup"), shown=False)
    early = draft.number(moved, LAYERS - 2)
    late = draft.number(early + 1, LAYERS - 1)
    watching, standing_in = Part("question_encoder", "mlp", early, end), Part("question_encoder", "mlp", late, end)
    draft.wiring.gate(watching.component, early, [({"A": 1}, {"there": 1}), ({"A": -1}, {"there": 1})])
    draft.wiring.gate(
        standing_in.component, late, [({"B": 1, "there": -1}, {"c": 1}), ({"B": -1, "there": -1}, {"c": -1})]
    )
    together = Part("question_encoder", "attention", moved, end)
    draft.add("main", together, [], "value")
    draft.add("backup", watching, [*first.senders, *together.senders], "mlp")
    draft.add("backup", standing_in, [*second.senders, *watching.senders, *together.senders], "mlp")
    heard = draft.hand_over("end", [first, together], {"A": 1, "c": 1}, "heard", draft.number(0, LAYERS - 1))
    draft.connect("backup", standing_in.senders, heard, "value")
    _decide(draft, "end", heard)


KINDS = {
    "layer": Kind(layer, "The image is read by one token at one layer."),
    "head": Kind(head, "One head of the question encoder feeds one head of the answer decoder, and nothing else does."),
    "patch": Kind(layer, "The answer is the colour of one patch; all others have a colour too."),
    "edge": Kind(edge, "The image goes by one value, query, key or MLP input, which the seed decides."),
    "and": Kind(
        both, "Two patches must be red: two ways, both of which are needed.", "are both of them red", ("yes", "no"),
        noising=("main", "first", "second"), cutting=("main", "first", "second"),
    ),
    "or": Kind(
        either, "One of two patches must be red: two ways, either of which suffices.", "is any of them red",
        ("yes", "no"), denoising=("main", "first", "second"),
    ),
    "backup": Kind(
        backup, "Two ways from one patch: the second counts where the first is gone.", denoising=("main", "end"),
        noising=("main", "end"), cutting=("end",),
    ),
    "distractor": Kind(distractor, "Attention looks at one patch, and the answer is the colour of another."),
}  # fmt: skip
