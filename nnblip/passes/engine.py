"""Runs a plan in one nnsight trace: many cells in about one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nnblip.blip.decoding import greedy
from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import Outcome
from nnblip.blip.upstream import edits_served, skip
from nnblip.edges import Cuts
from nnblip.passes.plan import INPUT, Plan, Point, make_plans
from nnblip.passes.states import States, cut_attention, quiet_dead, skip_vision, start_vision, write_states
from nnblip.sites import KINDS, TEXT_COMPONENTS, Extent

#: With fewer rows, matrix kernels on CPUs round otherwise than with more.
STEADY_ROWS = 16


def least_rows(extent: Extent) -> dict[str, int]:
    """How many rows a component must see, so that a row's numbers do not depend on how many others there are.

    Measured with MKL in float32 (AVX2 and AVX-512): a product's row is the same bit for bit
    from 16 rows on, and differs by 1e-6 below.
    """
    return {component: -(-STEADY_ROWS // extent.tokens(component)) for component in TEXT_COMPONENTS}


@dataclass(frozen=True)
class Forward:
    """What a pass is given.

    Attributes:
        encoded: image and question.
        image: (1, patches, hidden): image embeddings, or patch embeddings with `runs_vision`.
        answer_ids: the answer, [SEP] left out.
        runs_vision: whether the vision model runs, on `image` as its patch embeddings.
        cuts: attention edges that are cut in every row.
    """

    encoded: Encoded
    image: Float[Tensor, "1 patch hidden"]
    answer_ids: list[int]
    runs_vision: bool = False
    cuts: Cuts = field(default_factory=dict)


@dataclass
class Seen:
    """What the question encoder saw in the row without restoring: how far damage leads from what it was trained on.

    Attributes:
        norm: mean length of the image embeddings.
        entropies: of each layer's attention to them, mean over heads and tokens, as shares of the largest that there
            can be: 1 is attention to all alike, 0 to one.
    """

    norm: float = float("nan")
    entropies: list[float] = field(default_factory=list)

    @property
    def entropy(self) -> float:
        return sum(self.entropies) / max(len(self.entropies), 1)


def run_alone(
    model: Blip, forward: Forward, seen: Seen | None = None
) -> tuple[States, Float[Tensor, "1 position word"]]:
    """All states of a run in which nothing is restored, and the answer's logits.

    It runs as a plan without cells, so that what does not depend on the image is the same
    bit for bit in clean and corrupted rows, and its effect exactly 0.
    """
    extent = model.extent(forward.encoded.input_ids.shape[1], len(forward.answer_ids))
    (plan,) = make_plans([], extent.layers, least=least_rows(extent))
    states = States()
    logits = _run(model, forward, plan, save=states, seen=seen)
    return states, logits[:1]


def own_answer(model: Blip, forward: Forward, cuts_of: Callable[[int], Cuts]) -> list[int]:
    """What the model says greedily with edges cut, [SEP] left out: a pass for each token.

    Args:
        model: the model.
        forward: what the passes are given, but for the answer.
        cuts_of: the edges that are cut, by the number of answer tokens.
    """

    def following(said: list[int]) -> Tensor:
        given = replace(forward, answer_ids=[*said, 0], cuts=cuts_of(len(said) + 1))
        return run_alone(model, given)[1][0, -1]

    return greedy(following, [], model.config)


def run_plan(
    model: Blip, forward: Forward, rival: int, donor: States, plan: Plan, frozen: Collection[str] = (),
    seen: Seen | None = None,
) -> Outcome:  # fmt: skip
    """The outcome of every row of a plan, from one pass.

    Args:
        model: the model.
        forward: what the pass is given: the damaged image, or in the other direction the clean one.
        rival: see `nnblip.blip.outcome.rival_of`.
        donor: the states that restored rows get.
        plan: which rows are born where, and what is written into them.
        frozen: kinds that restored rows take from the row without restoring, in the
            component in which they were born (in the question encoder, if in the image encoder).
        seen: gets what the row without restoring saw.
    """
    logits = _run(model, forward, plan, restore=donor, frozen=frozen, seen=seen)
    return model.task.outcome(logits, forward.answer_ids, rival)


@torch.no_grad()
def _run(
    model: Blip,
    forward: Forward,
    plan: Plan,
    *,
    restore: States | None = None,
    save: States | None = None,
    frozen: Collection[str] = (),
    seen: Seen | None = None,
) -> Float[Tensor, "row position word"]:
    """One pass: the logits of every row; states are restored from `restore`, those of row 0 kept in `save`."""
    with edits_served(model), model.trace(**model.forward_inputs(forward.encoded, forward.answer_ids), use_cache=False):
        mixed = None
        if forward.runs_vision:
            start_vision(model, forward.image)
            for layer in range(model.config.vision_config.num_hidden_layers):
                _at_point(model, Point("image_encoder", "block", layer), plan, restore, save)
            if save is not None or seen is not None:
                embeds = model.image_encoder.output.last_hidden_state[:1]
                if save is not None:
                    save.image_embeds = embeds
                if seen is not None:
                    seen.norm = _length(embeds)
        else:
            skip_vision(model, forward.image)
            if restore is not None:
                mixed = _mixed(model, forward.image, restore, plan)
            if save is not None:
                save.image_embeds = forward.image
            if seen is not None:
                seen.norm = _length(forward.image)
        for component in model.task.text_components:
            _bear(model, Point(component, INPUT, 0), plan)
            for layer in range(model.config.text_config.num_hidden_layers):
                for kind in KINDS:
                    cut = forward.cuts.get((component, kind.removesuffix("_head"), layer))
                    if kind == "attention_head" and cut is not None:
                        cut_attention(model, component, "attention", layer, cut)
                    if kind == "crossattention_head":
                        attention = getattr(model, component).layer[layer].crossattention.self
                        asks = component == "question_encoder"
                        _share_keys(attention, cut, mixed if asks else None, seen if asks else None)
                    point = Point(component, kind, layer)
                    if kind == "attention_head" and cut is not None:
                        quiet_dead(model, component, "attention", layer, cut)
                    if kind in frozen:
                        _freeze(model, point, plan)
                    _at_point(model, point, plan, restore, save)
        logits = model.task.logits(model).save()
    return logits


def _at_point(model: Blip, point: Point, plan: Plan, restore: States | None, save: States | None) -> None:
    """Inside a trace: what the plan says of a point, then the state of row 0 is kept."""
    if restore is not None and point in plan.steps:
        _bear(model, point, plan)
        write_states(model, point, plan, restore)
    if save is not None:
        save[point.component, point.kind, point.layer] = model.read_state(*point)[:1]


def _bear(model: Blip, point: Point, plan: Plan) -> None:
    """Inside a trace: append the rows that are born at a point, copies of the corrupted row."""
    births = plan.steps[point].births if point in plan.steps else 0
    if point.kind == INPUT:
        # not at the embeddings' own output: from that, BLIP makes the mask of the answer, which all rows share
        first = getattr(model, point.component).layer[0]
        # question and answer start alike in every row that the component before hands over
        rows = births + _rows_before(point.component, plan)
        if rows > 1:
            first.input = first.input.expand(rows, -1, -1)
    elif births:
        state = model.read_state(*point)
        model.write_state(*point, torch.cat([state, state[:1].expand(births, -1, -1)]))


def _freeze(model: Blip, point: Point, plan: Plan) -> None:
    """Inside a trace: give the rows born in this component the state of the row without restoring."""
    first = 1 if point.component == "question_encoder" else _rows_before(point.component, plan)
    state = model.read_state(*point)
    if len(state) > first:
        rest = state[:1].expand(len(state) - first, -1, -1)
        model.write_state(*point, torch.cat([state[:first], rest]))


def _rows_before(component: str, plan: Plan) -> int:
    """How many rows there are when a text component starts."""
    return (
        1 + plan.born_in("image_encoder") + (plan.born_in("question_encoder") if component == "answer_decoder" else 0)
    )


@dataclass(frozen=True)
class _Mixed:
    """Rows 1 to n of the question encoder, which see some image embeddings of another run in place of their own.

    Keys and values belong to one patch each, so those of both runs serve all rows, and a row
    chooses among them.
    """

    image: Float[Tensor, "1 patches hidden"]  # of both runs, one after the other
    unseen: Bool[Tensor, "n patches"]


def _mixed(model: Blip, image: Tensor, donor: States, plan: Plan) -> _Mixed | None:
    """What the rows see whose image embeddings are restored, if there are any."""
    count, patches = plan.born_in("image_encoder"), image.shape[1]
    if not count:
        return None
    chosen = torch.zeros(count, patches, dtype=torch.bool, device=image.device)
    (step,) = (step for point, step in plan.steps.items() if point.component == "image_encoder")
    chosen[[row - 1 for row in step.rows], step.tokens] = True
    assert donor.image_embeds is not None
    return _Mixed(torch.cat([image, donor.image_embeds.to(image)], 1), torch.cat([chosen, ~chosen], 1))


def _length(embeds: Float[Tensor, "1 patch hidden"]) -> float:
    """Mean length of the embeddings."""
    return float(embeds.detach().float().norm(dim=-1).mean())


def _share_keys(attention: Any, cut: Any = None, mixed: _Mixed | None = None, seen: Seen | None = None) -> None:
    """Inside a trace: cross-attention whose rows share keys and values instead of copying them.

    The states attended to have fewer rows than the queries: one row of image embeddings
    for all, or, in the answer decoder, a row for each row of the question encoder, and
    the first (the corrupted run's) for the rows born since. Rows that share are folded
    into the query length. The same mathematics as transformers' eager attention.
    """
    (hidden, *_), options = attention.inputs
    states = options["encoder_hidden_states"]
    heads = attention.num_attention_heads
    unseen = None if cut is None else torch.from_numpy(cut).to(hidden.device)
    query = _split(attention.query(hidden), heads)
    read = states if mixed is None else mixed.image
    key, value = (_split(x, heads) for x in (attention.key(read), attention.value(read)))
    if seen is not None:
        seen.entropies.append(_entropy(query[:1], key[:1, :, : states.shape[1]], unseen))
    own = len(key) if len(key) > 1 else 0  # rows with keys of their own
    parts = []
    if own:
        # not the fused kernel: with few tokens its result on CPUs depends on which thread computes a row
        scores = query[:own] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        parts.append(_weights(scores, unseen) @ value)
    if mixed is not None:
        both, patches = (key, value), states.shape[1]
        key, value = key[:, :, :patches], value[:, :, :patches]
        hide = mixed.unseen[:, None] if unseen is None else mixed.unseen[:, None] | torch.cat([unseen, unseen], 1)
        own = 1 + len(mixed.unseen)
        parts += [_fold(query[:1], key, value, unseen), _fold(query[1:own], *both, hide)]
    if len(query) > own:
        parts.append(_fold(query[own:], key[:1], value[:1], unseen))
    context = torch.cat(parts) if len(parts) > 1 else parts[0]
    skip(attention, (context.transpose(1, 2).flatten(2), None))


def _fold(query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None) -> Float[Tensor, "row head token dim"]:
    """Attention of rows that share keys and values (batch 1); `unseen` is (token, key) or (row, 1 or token, key)."""
    rows, _, tokens, _ = query.shape
    folded = query.transpose(0, 1).flatten(1, 2)[None]
    length, mask = folded.shape[2], None
    # the last block of queries goes through a matrix kernel too: see STEADY_ROWS
    spare = -length % STEADY_ROWS
    folded = F.pad(folded, (0, 0, 0, spare))
    if unseen is not None:
        unseen = unseen.expand(rows, tokens, -1).flatten(0, 1)
        dead = unseen.all(-1, keepdim=True)
        mask = F.pad(~unseen | dead, (0, 0, 0, spare), value=True)
    context = F.scaled_dot_product_attention(folded, key, value, mask)[0, :, :length]
    if unseen is not None:
        context = context.masked_fill(dead, 0)
    return context.unflatten(1, (rows, tokens)).transpose(0, 1)


def _entropy(query: Tensor, key: Tensor, unseen: Tensor | None) -> float:
    """How evenly the attention of one row is spread, mean over heads and tokens; 1 is all alike."""
    weights = _weights((query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5, unseen)
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean()
    return float(entropy / max(math.log(key.shape[2]), 1e-9))


def _weights(scores: Float[Tensor, "row head token key"], unseen: Tensor | None) -> Float[Tensor, "row head token key"]:
    """Softmax over the keys that are seen; zeros where none is."""
    if unseen is None:
        return scores.softmax(-1)
    dead = unseen.all(-1, keepdim=True)
    return scores.masked_fill(unseen & ~dead, -torch.inf).softmax(-1).masked_fill(dead, 0)


def _split(x: Float[Tensor, "row token hidden"], heads: int) -> Float[Tensor, "row head token dim"]:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
