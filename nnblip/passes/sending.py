"""What receivers add when one input of theirs comes from a sender: an edge as a state that is written (`nnblip.paths`).

Between sender and receiver lie sums and LayerNorms of one token, so the streams of all senders walk through the
layers together, at the cost of their LayerNorms; only what receivers make of them takes matrix products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip.network import Blip
from nnblip.blip.upstream import is_edited
from nnblip.errors import SettingError
from nnblip.passes.cutting import by_head, weights_of
from nnblip.passes.plan import Plan, Point
from nnblip.passes.states import States
from nnblip.paths import SUBLAYERS, Edge, place, sublayer
from nnblip.states import HEAD_KINDS, Cell, Site

#: What the stream is before a sublayer adds to it.
BEFORE = {"attention": "block_input", "crossattention": "attention", "mlp": "crossattention"}


class Sent(dict[int, Tensor]):
    """By cell, what the receiver of an edge adds at its token, (run, hidden): a donor that has a state for each."""

    def at(self, point: Point, plan: Plan) -> Float[Tensor, "write run hidden"]:
        cells = [plan.cells[row] for row in plan.steps[point].rows]
        return torch.stack([self[cell] for cell in cells if cell is not None])


@torch.no_grad()
def send(model: Blip, edges: Mapping[int, Edge], base: States, donor: States) -> Sent:
    """What the receiver of each edge adds, in each base.

    Args:
        model: the model.
        edges: by their numbers as cells of a plan.
        base: all states of the runs in which edges are changed, see `nnblip.passes.engine.run_alone`.
        donor: those of the run, or for each base the run, whose contributions are sent.

    Raises:
        SettingError: for a model with edits, which would not be heeded on the way.
    """
    if is_edited(model):
        raise SettingError(
            "edges of an edited model: from sender to receiver nothing of the model runs, so edits there would have no"
            " effect; trace edges of a model without edits"
        )
    arriving = _walk(model, edges, base, donor)
    found = Sent()
    groups: dict[tuple[str, int, str, str], list[int]] = defaultdict(list)
    for number, edge in edges.items():
        receiver = edge.receiver
        groups[receiver.component, receiver.layer, sublayer(receiver.kind), edge.input].append(number)
    for (component, layer, name, _), numbers in groups.items():
        block = layers_of(model, component)[layer]
        read = [arriving[number] for number in numbers]
        if name == "mlp":
            added = block.output.dense(block.intermediate(torch.stack([one[0] for one in read])))
        else:
            added = _attend(getattr(block, name), [edges[number] for number in numbers], read, base)
        found |= dict(zip(numbers, added, strict=True))
    return found


_STACKS = {"question_encoder": "text_encoder", "answer_decoder": "text_decoder"}


def layers_of(model: Blip, component: str) -> Any:
    stack = getattr(model._module, _STACKS[component])
    return (stack.bert if component == "answer_decoder" else stack).encoder.layer


def _walk(
    model: Blip, edges: Mapping[int, Edge], base: States, donor: States
) -> dict[int, Float[Tensor, "token run hidden"]]:
    """What each edge's receiver reads at the tokens of its sender."""
    found: dict[int, Tensor] = {}
    leaving: dict[str, dict[tuple[int, int], dict[Cell, None]]] = defaultdict(lambda: defaultdict(dict))
    arrivals: dict[str, dict[tuple[int, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, edge in edges.items():
        first = edge.sender[0]
        if first.component == "image_encoder":
            assert donor.image_embeds is not None
            found[number] = donor.image_embeds[:, [site.token for site in edge.sender]].transpose(0, 1)
        elif first.kind == "block":
            found[number] = donor["question_encoder", "block", first.layer][:, first.token][None]
        else:
            leaving[first.component][place(first)][edge.sender] = None
            ends = (len(layers_of(model, first.component)), 0)  # the component's output
            inside = edge.reads == edge.receiver.component
            arrivals[first.component][place(edge.receiver) if inside else ends].append(number)
    for component, starts in leaving.items():
        layers, senders = layers_of(model, component), dict[Site, int]()
        heads = model.config.text_config.num_attention_heads
        streams: Tensor | None = None
        for stop in [*((layer, part) for layer in range(len(layers)) for part in range(3)), (len(layers), 0)]:
            for number in arrivals[component].get(stop, ()):
                assert streams is not None
                found[number] = streams[senders[edges[number].sender[0]]][None]
            if stop[0] == len(layers):
                break
            layer, name = stop[0], SUBLAYERS[stop[1]]
            part = layers[layer].output if name == "mlp" else getattr(layers[layer], name).output
            added = base[component, f"{name}_out", layer].transpose(0, 1)  # (token, run, hidden)
            before = base[component, BEFORE[name], layer].transpose(0, 1)
            joining = [cell[0] for cell in starts.get(stop, ())]
            sums = [] if streams is None else [streams + added[[site.token for site in senders]]]
            if joining:
                new = _stacked([_contribution(part.dense, site, base, donor, heads) for site in joining])
                sums.append(before[[site.token for site in joining]] + new)
                senders |= {site: len(senders) + place for place, site in enumerate(joining)}
            if sums:
                shape = torch.broadcast_shapes(*(one.shape[1:] for one in sums))
                streams = part.LayerNorm(torch.cat([one.expand(-1, *shape) for one in sums]))
    runs = max(one.shape[1] for one in found.values())
    return {number: one.expand(-1, runs, -1) for number, one in found.items()}


def _stacked(given: Sequence[Float[Tensor, "_ hidden"]]) -> Float[Tensor, "one run hidden"]:
    """States of one run, or of as many as there are bases, one by one."""
    runs = max(map(len, given))
    return torch.stack([one.expand(runs, -1) for one in given])


def _contribution(
    dense: Any, site: Site, base: States, donor: States, heads: int
) -> Float[Tensor, "run hidden"]:  # fmt: skip
    """What the sender's sublayer adds with the sender's part of it from the donor."""
    key = site.component, site.kind, site.layer
    if site.kind not in HEAD_KINDS:
        return donor[key][:, site.token]
    mine, other = torch.broadcast_tensors(base[key][:, site.token], donor[key][:, site.token])
    context = mine.clone()
    context.unflatten(-1, (heads, -1))[:, site.head] = other.unflatten(-1, (heads, -1))[:, site.head]
    return dense(context)


def _attend(
    module: Any, edges: Sequence[Edge], read: Sequence[Tensor], base: States
) -> Float[Tensor, "edge run hidden"]:
    """What attention adds at receivers' tokens, one input of it read from elsewhere."""
    attention, receiver = module.self, edges[0].receiver
    name, heads, what = sublayer(receiver.kind), attention.num_attention_heads, edges[0].input
    own = base[receiver.component, BEFORE[name], receiver.layer]
    if name == "attention":
        source = own
    elif receiver.component == "question_encoder":
        assert base.image_embeds is not None
        source = base.image_embeds
    else:
        last = max(layer for component, _, layer in base if component == "question_encoder")
        source = base["question_encoder", "block", last]
    tokens = [edge.receiver.token for edge in edges]
    query = by_head(attention.query(own), heads)[:, :, tokens].permute(2, 0, 1, 3)[
        ..., None, :
    ]  # (edge, run, head, 1, dim)
    key, value = (by_head(part(source), heads) for part in (attention.key, attention.value))  # (run, head, key, dim)
    if what == "query":
        query = by_head(attention.query(torch.stack([one[0] for one in read]))[..., None, :], heads)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (edge, run, head, 1, key)
    places = [(number, site.token) for number, edge in enumerate(edges) for site in edge.sender]
    numbers, where = (list(one) for one in zip(*places, strict=True))
    vectors = None if what == "query" else torch.cat(list(read))  # (place, run, hidden)
    if what == "key":
        changed = by_head(attention.key(vectors)[..., None, :], heads)  # (place, run, head, 1, dim)
        scores = scores.expand(-1, len(changed[0]) if len(scores[0]) == 1 else -1, -1, -1, -1).clone()
        scores[numbers, :, :, 0, where] = (query[numbers] * changed).sum(-1)[..., 0] / query.shape[-1] ** 0.5
    unseen = None
    if name == "attention" and receiver.component == "answer_decoder":
        unseen = torch.arange(key.shape[2], device=key.device) > torch.tensor(tokens, device=key.device)[:, None]
        unseen = unseen[:, None, None, None]
    weights = weights_of(scores, unseen)
    context = (weights @ value)[..., 0, :]  # (edge, run, head, dim)
    if what == "value":
        assert vectors is not None
        gap = by_head(attention.value(vectors)[..., None, :], heads)[..., 0, :] - value[:, :, where].permute(2, 0, 1, 3)
        gap = gap * weights[numbers, :, :, 0, where][..., None]
        context = context.expand(-1, len(gap[0]) if len(context[0]) == 1 else -1, -1, -1).clone()
        context.index_put_((torch.tensor(numbers, device=context.device),), gap, accumulate=True)
    whole = by_head(base[receiver.component, f"{name}_head", receiver.layer], heads)[:, :, tokens].permute(2, 0, 1, 3)
    kept = torch.tensor(
        [[edge.receiver.head not in (None, head) for head in range(heads)] for edge in edges], device=context.device
    )
    context = torch.where(kept[:, None, :, None], whole, context)
    return module.output.dense(context.flatten(2))
