"""What circuits do on their own: chosen edges as in one run, all other edges as in another.

An edge (`nnblip.paths`) changes one input of one receiver, and its row goes on with all that follows. In a *circuit*
what follows reads the change along edges of the circuit only. Sublayer by sublayer, at every token:

1. Each input that a receiver reads (a query, a key or value of one source, what an MLP reads) is a stream of its own:
   the embedding of its token, to which the sublayers before add in turn, each with its LayerNorm. A sublayer whose
   edge to this input is in the circuit adds what it adds in this run, any other what it added in the base run.
2. Keys and values of image regions are the donor's where the edge is in the circuit, else the base run's.
3. The head reads what all sublayers of the decoder add in this run.

So no edge at all is the base run and all edges together are the donor run. An edge of the question encoder, together
with all edges before its sender (which make that the donor's) and all that follow its receiver, is the row of that
edge. Several circuits run at once, as rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnblip.blip.network import Blip
from nnblip.blip.upstream import is_edited
from nnblip.errors import SettingError, SiteError
from nnblip.passes.cutting import by_head, weights_of
from nnblip.passes.gradients import gauss
from nnblip.passes.sending import BEFORE, layers_of
from nnblip.passes.states import States
from nnblip.paths import SUBLAYERS, Edge, place, sublayer
from nnblip.states import HEAD_KINDS, TEXT_COMPONENTS

#: By receiver (component, layer, sublayer) and input, (circuit, reader, ...): which sublayer or patch it reads anew.
Masks = dict[tuple[str, int, str, str], Tensor]


def run_circuits(
    model: Blip, edges: Sequence[Edge], kept: Bool[Tensor, "circuit edge"] | Float[Tensor, "circuit edge"],
    base: States, donor: States,
) -> Float[Tensor, "circuit position word"]:  # fmt: skip
    """The answer's logits of each circuit.

    Args:
        model: the model.
        edges: between whole sublayers, and from patches of the image.
        kept: which of them are in each circuit; or how far, from 0 (as in the base run) to 1, with gradients.
        base: all states of the run whose edges the others are, of one run.
        donor: likewise of the run whose edges are in the circuit.

    Raises:
        SiteError: for an edge from or to a head, or from a block of the question encoder.
        SettingError: for a model with edits, or runs whose question differs.
    """
    if is_edited(model):
        raise SettingError("circuits of an edited model: edits would not be heeded; take a model without edits")
    words = "question_encoder", "block_input", 0
    if not torch.equal(base[words], donor[words]):
        raise SettingError("circuits of a damaged question: its words are in every stream; damage the image")
    masks = _masks(edges, kept, base)
    said: dict[str, list[Tensor]] = {}
    for component in TEXT_COMPONENTS:
        said[component] = _component(model, component, len(kept), masks, base, donor, said)
    last = "answer_decoder"
    reads = torch.ones(1, 1, len(said[last]), dtype=torch.bool, device=base[words].device)
    return model._module.text_decoder.cls(_stream(model, last, said[last], base, reads))


def score_edges(
    model: Blip,
    edges: Sequence[Edge],
    base: States,
    donor: States,
    number: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, " edge"]:
    """How much each edge of a circuit brings, by integrated gradients (Sundararajan et al. 1703.01365).

    The scores of all edges add up to what the circuit brings, up to the error of the integral.

    Args:
        model, base, donor: as for `run_circuits`.
        edges: the circuit.
        steps: at how many places on the way there is a gradient, by Gauss and Legendre; all of them run at once.
        number: of the logits (row, position, word), what is to be explained: (row).
    """
    first = base["question_encoder", "block_input", 0]
    places, weights = (torch.tensor(one, device=first.device)[:, None] for one in gauss(steps))
    part = places.expand(-1, len(edges)).to(first.dtype).requires_grad_()
    with torch.enable_grad():
        numbers = number(run_circuits(model, edges, part, base, donor))
        (gradient,) = torch.autograd.grad(numbers.sum(), part)
    return (weights * gradient).sum(0).to(first.dtype)


def _component(
    model: Blip, component: str, circuits: int, masks: Masks, base: States, donor: States,
    said: dict[str, list[Tensor]],
) -> list[Float[Tensor, "circuit token hidden"]]:  # fmt: skip
    """What each sublayer of a component adds, in the order in which they run."""
    own: list[Tensor] = []
    for layer, block in enumerate(layers_of(model, component)):
        for name in SUBLAYERS:
            there = {what: masks.get((component, layer, name, what)) for what in ("mlp", "query", "key", "value")}
            at = component, layer, name
            if all(mask is None for mask in there.values()):
                added = base[component, f"{name}_out", layer]
            elif name == "mlp":
                read = _read(model, at, there["mlp"], own, base)
                added = block.output.dense(block.intermediate(read))
            else:
                added = _attention(model, at, getattr(block, name), there, own, base, donor, said)
            own.append(added.expand(circuits, -1, -1))
    return own


def _read(
    model: Blip, at: tuple[str, int, str], mask: Tensor | None, own: list[Tensor], base: States
) -> Float[Tensor, "#circuit token hidden"]:
    """The stream of a receiver's own token, as its query or MLP reads it."""
    component, layer, name = at
    if mask is None:
        return base[component, BEFORE[name], layer]
    return _stream(model, component, own, base, mask)


def _attention(
    model: Blip, at: tuple[str, int, str], module: Any, masks: dict[str, Tensor | None], own: list[Tensor],
    base: States, donor: States, said: dict[str, list[Tensor]],
) -> Float[Tensor, "#circuit token hidden"]:  # fmt: skip
    component, layer, name = at
    attention, heads = module.self, module.self.num_attention_heads
    query = by_head(attention.query(_read(model, at, masks["query"], own, base)), heads)  # (circuit, head, token, dim)
    read: dict[str, Tensor] = {}
    for what in ("key", "value"):
        part, mask = getattr(attention, what), masks[what]
        if name == "crossattention" and component == "question_encoder":
            assert base.image_embeds is not None and donor.image_embeds is not None
            made = part(base.image_embeds)[:, None]
            if mask is not None:
                made = _mixed(mask[..., None], part(donor.image_embeds)[:, None], made)
        elif name == "crossattention":
            made = part(_from(model, "question_encoder", said["question_encoder"], base, mask))
        else:
            made = part(_from(model, component, own, base, mask, layer))
        read[what] = by_head(made, heads)  # (circuit, reader or 1, head, source, dim)
    scores = query.transpose(1, 2)[:, :, :, None] @ read["key"].transpose(-1, -2) / query.shape[-1] ** 0.5
    unseen = None
    if name == "attention" and component == "answer_decoder":  # no word reads a later one
        tokens = query.shape[2]
        unseen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)[:, None, None]
    context = (weights_of(scores, unseen) @ read["value"])[..., 0, :]  # (circuit, reader, head, dim)
    return module.output.dense(context.flatten(2))


def _from(
    model: Blip, component: str, said: list[Tensor], base: States, mask: Tensor | None, layer: int | None = None
) -> Float[Tensor, "#circuit #reader source hidden"]:
    """The streams of all sources, for each reader its own; at a layer's beginning, or at the component's end."""
    if mask is not None:
        return _stream(model, component, said, base, mask)
    if layer is not None:
        return base[component, "block_input", layer][:, None]
    return base[component, "block", len(layers_of(model, component)) - 1][:, None]


def _stream(
    model: Blip, component: str, said: list[Tensor], base: States, mask: Tensor
) -> Float[Tensor, "circuit *reader token hidden"]:
    """The embedding of each token with what the sublayers before add, `mask` (circuit, *reader, token, sublayer) True
    where as in this run."""
    deep = mask.dim() == 4
    stream = base[component, "block_input", 0]
    for number, added in enumerate(said):
        layer, name = number // len(SUBLAYERS), SUBLAYERS[number % len(SUBLAYERS)]
        block = layers_of(model, component)[layer]
        norm = (block.output if name == "mlp" else getattr(block, name).output).LayerNorm
        mine, other = added, base[component, f"{name}_out", layer]
        if deep:
            mine, other = mine[:, None], other[:, None]
            stream = stream if stream.dim() == 4 else stream[:, None]
        stream = norm(stream + _mixed(mask[..., number, None], mine, other))
    return stream


def _mixed(mask: Tensor, mine: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask, mine, other) if mask.dtype == torch.bool else other + mask * (mine - other)


def _masks(edges: Sequence[Edge], kept: Tensor, base: States) -> Masks:
    """Of every receiver that has one of the edges."""
    tokens = {name: base[name, "block_input", 0].shape[1] for name in TEXT_COMPONENTS}
    layers = 1 + max(layer for component, _, layer in base if component == "question_encoder")
    assert base.image_embeds is not None
    patches = base.image_embeds.shape[1]
    shapes: dict[tuple[str, int, str, str], tuple[int, ...]] = {}
    places: dict[tuple[str, int, str, str], list[tuple[int, ...]]] = defaultdict(list)  # the last is the edge's number
    for number, edge in enumerate(edges):
        receiver, first = edge.receiver, edge.sender[0]
        if receiver.kind in HEAD_KINDS or first.kind in HEAD_KINDS:
            raise SiteError(f"edge {edge}: circuits are of whole sublayers, expected no head")
        if first.component == "question_encoder" and first.kind == "block":
            raise SiteError(f"edge {edge}: expected what a sublayer adds as its sender, which the block sums up")
        name, reader = sublayer(receiver.kind), receiver.token
        key = receiver.component, receiver.layer, name, edge.input
        readers = tokens[receiver.component]
        if first.component == "image_encoder":
            shapes[key] = readers, patches
            places[key] += [(reader, site.token, number) for site in edge.sender]
            continue
        at = len(SUBLAYERS) * first.layer + place(first)[1]
        before = len(SUBLAYERS) * layers
        if first.component == receiver.component:
            before = len(SUBLAYERS) * receiver.layer + SUBLAYERS.index(name)
        if edge.input in ("query", "mlp"):
            shapes[key] = readers, before
            places[key].append((reader, at, number))
        else:
            shapes[key] = readers, tokens[first.component], before
            places[key].append((reader, first.token, at, number))
    masks: Masks = {}
    for key, shape in shapes.items():
        *where, numbers = torch.tensor(places[key], device=kept.device).T
        if kept.requires_grad or bool(kept[:, numbers].any()):
            empty = torch.zeros((len(kept), *shape), dtype=kept.dtype, device=kept.device)
            masks[key] = empty.index_put(
                (torch.arange(len(kept), device=kept.device)[:, None], *where), kept[:, numbers]
            )
    return masks
