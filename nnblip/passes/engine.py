"""Runs a plan in one nnsight trace: many cells of many bases in about one forward pass.

A pass starts with B *bases*, runs in which nothing is restored: the corrupted runs of B (draw, ν) pairs, or in
the other direction B times the clean run. Every row of the plan is there once for each of them, so states are
grids (row, base, token, hidden), the bases of a row one after the other; the first B are the bases themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip.decoding import greedy
from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import Outcome
from nnblip.blip.upstream import edits_served
from nnblip.edges import Cuts
from nnblip.passes.cutting import cut_attention, cut_rows, quiet_dead
from nnblip.passes.plan import INPUT, Plan, Point, make_plans
from nnblip.passes.room import least_rows
from nnblip.passes.sharing import Mixed, Seen, share_keys
from nnblip.passes.states import Donor, States, skip_vision, start_vision, start_words, write_states
from nnblip.sites import KINDS


@dataclass(frozen=True)
class Forward:
    """What a pass is given.

    Attributes:
        encoded: image and question.
        image: (base, patches, hidden), or (1, patches, hidden) for all bases: image embeddings, or patch embeddings
            with `runs_vision`.
        answer_ids: the answer, [SEP] left out.
        runs_vision: whether the vision model runs, on `image` as its patch embeddings.
        cuts: attention edges that are cut in every row.
        words: (base or 1, token, hidden): word embeddings in place of the question's own.
        bases: how many there are.
    """

    encoded: Encoded
    image: Float[Tensor, "image patch hidden"]
    answer_ids: list[int]
    runs_vision: bool = False
    cuts: Cuts = field(default_factory=dict)
    words: Float[Tensor, "question token hidden"] | None = None
    bases: int = 1


def run_alone(
    model: Blip, forward: Forward, seen: Seen | None = None, only: Collection[Point] | None = None
) -> tuple[States, Float[Tensor, "base position word"]]:
    """All states of the bases, or `only` those at some points, and the answer's logits; nothing is restored.

    It runs as a plan without cells, so that what does not depend on the image is the same
    bit for bit in clean and corrupted rows, and its effect exactly 0.
    """
    extent = model.extent(forward.encoded.input_ids.shape[1], len(forward.answer_ids))
    (plan,) = make_plans([], extent.layers, least=least_rows(extent))
    states = States()
    logits = _run(model, forward, plan, save=states, only=only, seen=seen)
    return states, logits[: forward.bases]


def own_answer(model: Blip, forward: Forward, cuts_of: Callable[[int], Cuts]) -> list[int]:
    """What the model says greedily with edges cut, [SEP] left out: a pass for each token.

    Args:
        model: the model.
        forward: what the passes are given, but for the answer.
        cuts_of: the edges that are cut, by the number of answer tokens.
    """

    def following(said: list[int]) -> Tensor:
        given = replace(forward, answer_ids=[*said, 0], cuts=cuts_of(len(said) + 1))
        return run_alone(model, given, only=())[1][0, -1]

    return greedy(following, [], model.config)


def run_plan(
    model: Blip, forward: Forward, rival: int, donor: Donor, plan: Plan, frozen: Collection[str] = (),
    seen: Seen | None = None,
) -> Outcome:  # fmt: skip
    """The outcome of every row of a plan for every base, row by row, from one pass.

    Args:
        model: the model.
        forward: what the pass is given: the damaged images, or in the other direction the clean one.
        rival: see `nnblip.blip.outcome.rival_of`.
        donor: the states that restored rows get: one run's for all bases, or each base its own.
        plan: which rows are born where, and what is written into them.
        frozen: kinds that restored rows take from their base, in the component in which they
            were born (in the question encoder, if in the image encoder).
        seen: gets what the bases saw.
    """
    logits = _run(model, forward, plan, restore=donor, frozen=frozen, seen=seen)
    return model.task.outcome(logits, forward.answer_ids, rival)


@torch.no_grad()
def _run(
    model: Blip,
    forward: Forward,
    plan: Plan,
    *,
    restore: Donor | None = None,
    save: States | None = None,
    only: Collection[Point] | None = None,
    frozen: Collection[str] = (),
    seen: Seen | None = None,
) -> Float[Tensor, "row position word"]:
    """One pass: the logits of every row; states are restored from `restore`, those of the bases kept in `save`."""
    bases = forward.bases

    def at_point(point: Point) -> None:
        """What the plan says of a point, then the state of the bases is kept."""
        if restore is not None and point in plan.steps:
            _bear(model, point, plan, bases)
            write_states(model, point, plan, restore, bases)
        if save is not None and (only is None or point in only):
            save[point.component, point.kind, point.layer] = model.read_state(*point)[:bases]

    with edits_served(model), model.trace(**model.forward_inputs(forward.encoded, forward.answer_ids), use_cache=False):
        embeds, mixed = forward.image, None
        if forward.runs_vision:
            start_vision(model, embeds.expand(bases, -1, -1))
            for layer in range(model.config.vision_config.num_hidden_layers):
                at_point(Point("image_encoder", "block", layer))
            if save is not None or seen is not None:
                embeds = model.image_encoder.output.last_hidden_state[:bases]
        else:
            skip_vision(model, embeds)
            if isinstance(restore, States):
                mixed = Mixed.of(plan, restore, embeds)
        if save is not None:
            save.image_embeds = embeds
        if seen is not None:
            seen.measure(embeds if forward.words is None else forward.words)
        if forward.words is not None:
            start_words(model, forward.words)
        for component in model.task.text_components:
            _bear(model, Point(component, INPUT, 0), plan, bases)
            for layer in range(model.config.text_config.num_hidden_layers):
                for kind in KINDS:
                    point = Point(component, kind, layer)
                    cut = forward.cuts.get((component, kind.removesuffix("_head"), layer))
                    cuts = plan.steps[point].cuts if point in plan.steps else []
                    if kind == "attention_head" and cut is not None:
                        cut_attention(model, component, "attention", layer, cut)
                    if kind == "crossattention_head":
                        attention = getattr(model, component).layer[layer].crossattention.self
                        asks = component == "question_encoder"
                        share_keys(attention, bases, cut, mixed if asks else None, seen if asks else None, cuts)
                    if kind == "attention_head" and cuts:
                        cut_rows(model, point, cuts, bases, cut)
                    if kind == "attention_head" and cut is not None:
                        quiet_dead(model, component, "attention", layer, cut)
                    if kind in frozen:
                        _freeze(model, point, plan, bases)
                    at_point(point)
        logits = model.task.logits(model).save()
    return logits


def _bear(model: Blip, point: Point, plan: Plan, bases: int) -> None:
    """Inside a trace: append the rows that are born at a point, copies of the bases."""
    births = plan.steps[point].births if point in plan.steps else 0
    if point.kind == INPUT:
        # not at the embeddings' own output: from that, BLIP makes the mask of the answer, which all rows share
        first = getattr(model, point.component).layer[0]
        # question and answer start alike in every row that the component before hands over
        rows, given = bases * (births + _rows_before(point.component, plan)), first.input
        if rows > len(given):
            first.input = given.repeat(rows // len(given), 1, 1)
    elif births:
        state = model.read_state(*point)
        model.write_state(*point, torch.cat([state, state[:bases].repeat(births, 1, 1)]))


def _freeze(model: Blip, point: Point, plan: Plan, bases: int) -> None:
    """Inside a trace: give the rows born in this component the state of their base."""
    first = bases * (1 if point.component == "question_encoder" else _rows_before(point.component, plan))
    state = model.read_state(*point)
    if len(state) > first:
        rest = state[:bases].repeat((len(state) - first) // bases, 1, 1)
        model.write_state(*point, torch.cat([state[:first], rest]))


def _rows_before(component: str, plan: Plan) -> int:
    """How many rows there are when a text component starts."""
    return (
        1 + plan.born_in("image_encoder") + (plan.born_in("question_encoder") if component == "answer_decoder" else 0)
    )
