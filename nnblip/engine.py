"""Runs a plan in one nnsight trace: many cells in about one forward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nnblip.contexts import States, skip_vision, write_states
from nnblip.inputs import Encoded
from nnblip.outcome import Outcome, outcome_of
from nnblip.plan import INPUT, Plan, Point, make_plans
from nnblip.sites import KINDS, TEXT_COMPONENTS, Extent

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


#: With fewer rows, matrix kernels on CPUs round otherwise than with more.
STEADY_ROWS = 16


def least_rows(extent: Extent) -> dict[str, int]:
    """How many rows a component must see, so that a row's numbers do not depend on how many others there are.

    Measured with MKL in float32 (AVX2 and AVX-512): a product's row is the same bit for bit
    from 16 rows on, and differs by 1e-6 below.
    """
    return {component: -(-STEADY_ROWS // extent.tokens(component)) for component in TEXT_COMPONENTS}


def run_alone(
    model: BlipVQA, encoded: Encoded, image_embeds: Float[Tensor, "1 patch hidden"], answer_ids: Sequence[int]
) -> tuple[States, Float[Tensor, "1 position word"]]:
    """All states of a run in which nothing is restored, and the answer's logits.

    It runs as a plan without cells, so that what does not depend on the image is the same
    bit for bit in clean and corrupted rows, and its effect exactly 0.
    """
    extent = model.extent(encoded.input_ids.shape[1], len(answer_ids))
    (plan,) = make_plans([], extent.layers, least=least_rows(extent))
    states = States()
    logits = _run(model, encoded, image_embeds, answer_ids, plan, save=states)
    return states, logits[:1]


def run_plan(
    model: BlipVQA,
    encoded: Encoded,
    image_embeds: Float[Tensor, "1 patch hidden"],
    answer_ids: Sequence[int],
    rival: int,
    donor: States,
    plan: Plan,
    frozen: Collection[str] = (),
) -> Outcome:
    """The outcome of every row of a plan, from one pass.

    Args:
        model: the model.
        encoded: image and question.
        image_embeds: what the question encoder sees: the noisy embeddings, or in the other
            direction the clean ones.
        answer_ids: the answer, [SEP] left out.
        rival: see `nnblip.outcome.rival_of`.
        donor: the states that restored rows get.
        plan: which rows are born where, and what is written into them.
        frozen: kinds that restored rows take from the row without restoring, in the
            component in which they were born.
    """
    logits = _run(model, encoded, image_embeds, answer_ids, plan, restore=donor, frozen=frozen)
    return outcome_of(logits, answer_ids, rival)


@torch.no_grad()
def _run(
    model: BlipVQA,
    encoded: Encoded,
    image_embeds: Float[Tensor, "1 patch hidden"],
    answer_ids: Sequence[int],
    plan: Plan,
    *,
    restore: States | None = None,
    save: States | None = None,
    frozen: Collection[str] = (),
) -> Float[Tensor, "row position word"]:
    """One pass: the logits of every row; states are restored from `restore`, those of row 0 kept in `save`."""
    with model.trace(**model.forward_inputs(encoded, answer_ids), use_cache=False):
        skip_vision(model, image_embeds)
        for component in TEXT_COMPONENTS:
            _bear(model, Point(component, INPUT, 0), plan)
            for layer in range(model.config.text_config.num_hidden_layers):
                for kind in KINDS:
                    if kind == "crossattention_head":
                        _share_keys(getattr(model, component).layer[layer].crossattention.self)
                    point = Point(component, kind, layer)
                    if kind in frozen:
                        _freeze(model, point, plan)
                    if restore is not None and point in plan.steps:
                        _bear(model, point, plan)
                        write_states(model, point, plan, restore)
                    if save is not None:
                        save[component, kind, layer] = model.read_state(*point)[:1]
        logits = model.text_decoder.output.logits.save()
    return logits


def _bear(model: BlipVQA, point: Point, plan: Plan) -> None:
    """Inside a trace: append the rows that are born at a point, copies of the corrupted row."""
    births = plan.steps[point].births if point in plan.steps else 0
    if point.kind == INPUT:
        # not at the embeddings' own output: from that, BLIP makes the mask of the answer, which all rows share
        first = getattr(model, point.component).layer[0]
        # the answer starts alike in every row that the question encoder hands over
        rows = births + (1 if point.component == "question_encoder" else _rows_before_decoder(plan))
        if rows > 1:
            first.input = first.input.expand(rows, -1, -1)
    elif births:
        state = model.read_state(*point)
        model.write_state(*point, torch.cat([state, state[:1].expand(births, -1, -1)]))


def _freeze(model: BlipVQA, point: Point, plan: Plan) -> None:
    """Inside a trace: give the rows born in this component the state of the row without restoring."""
    first = 1 if point.component == "question_encoder" else _rows_before_decoder(plan)
    state = model.read_state(*point)
    if len(state) > first:
        rest = state[:1].expand(len(state) - first, -1, -1)
        model.write_state(*point, torch.cat([state[:first], rest]))


def _rows_before_decoder(plan: Plan) -> int:
    return 1 + sum(step.births for point, step in plan.steps.items() if point.component == "question_encoder")


def _share_keys(attention: Any) -> None:
    """Inside a trace: cross-attention whose rows share keys and values instead of copying them.

    The states attended to have fewer rows than the queries: one row of image embeddings
    for all, or, in the answer decoder, a row for each row of the question encoder, and
    the first (the corrupted run's) for the rows born since. Rows that share are folded
    into the query length. The same mathematics as transformers' eager attention.
    """
    (hidden, *_), options = attention.inputs
    states = options["encoder_hidden_states"]
    heads = attention.num_attention_heads
    query, key, value = (
        _split(x, heads) for x in (attention.query(hidden), attention.key(states), attention.value(states))
    )
    own = len(key) if len(key) > 1 else 0  # rows with keys of their own
    parts = []
    if own:
        # not the fused kernel: with few tokens its result on CPUs depends on which thread computes a row
        weights = (query[:own] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        parts.append(weights @ value)
    if len(query) > own:
        rest = query[own:].transpose(0, 1).flatten(1, 2)[None]
        length = rest.shape[2]
        # the last block of queries goes through a matrix kernel too: see STEADY_ROWS
        rest = F.pad(rest, (0, 0, 0, -length % STEADY_ROWS))
        folded = F.scaled_dot_product_attention(rest, key[:1], value[:1])[0, :, :length]
        parts.append(folded.unflatten(1, (len(query) - own, -1)).transpose(0, 1))
    context = torch.cat(parts) if len(parts) > 1 else parts[0]
    attention.skip((context.transpose(1, 2).flatten(2), None))


def _split(x: Float[Tensor, "row token hidden"], heads: int) -> Float[Tensor, "row head token dim"]:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
