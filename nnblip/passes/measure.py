"""All numbers of one example: what runs where the model is, here or on a server.

Nothing of this file and of those above it needs more than torch, NumPy, transformers and
nnsight, which is what an NDIF server has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import NAMES, Outcome
from nnblip.blip.places import clean_at, damaged, patch_embeds
from nnblip.blip.places import partner as partner_of
from nnblip.edges import at_length, cuts
from nnblip.errors import InputError, SettingError
from nnblip.examples import Example
from nnblip.noise import Swap
from nnblip.passes import engine
from nnblip.passes.engine import Forward
from nnblip.passes.plan import Plan
from nnblip.passes.reliability import maps_of, split_half
from nnblip.passes.room import fit
from nnblip.passes.sending import send
from nnblip.passes.settings import AUTO, BATCH, Settings
from nnblip.passes.sharing import Seen
from nnblip.passes.states import States
from nnblip.paths import Edge
from nnblip.sites import BEFORE_VISION, EDGES_NODE, KNOCK_OUTS_NODE, SUBLAYERS, Cell, Extent

#: The most bytes that the numbers of one example take, which are in memory at once, some of them twice.
MOST_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Asked:
    """An example as the model reads it.

    Attributes:
        encoded: image and question.
        answer_ids: the answer to trace, [SEP] left out; the model's own if None.
        roles: of the question's tokens, for families that go by them.
        partner: another image with the same question, or the same with another question, for noise "swap".
        rival: the token of the logit difference; chosen where the model is if None.
    """

    encoded: Encoded
    answer_ids: list[int] | None = None
    roles: tuple[str, ...] = ()
    partner: Encoded | None = None
    rival: int | None = None

    @classmethod
    def of(cls, model: Blip, example: Example, settings: Settings) -> Asked:
        """Needs the processor of a model and not its weights. Raises `NnblipError` for what it cannot read."""
        encoded = model.encode(example.image, example.question)
        answer_ids = None if example.answer is None else model.encode_answer(example.answer)
        partner = None
        if isinstance(settings.noise, Swap):
            partner = model.encode_partner(encoded, settings.noise_at, example.partner, example.other_question)
        rival = settings.rival
        if rival is not None:
            rival = model.encode_rival(rival)
        return cls(encoded, answer_ids, settings.roles(encoded.tokens), partner, rival)


@dataclass(frozen=True)
class Measured:
    """The numbers of an example.

    Attributes:
        answer_ids: the answer that was traced.
        predicted: what the model says, with what is knocked out.
        rival: token of the logit difference.
        clean: (3), in the order of `nnblip.blip.outcome.NAMES`.
        corrupted: (3, nu, draw).
        restored: (3, nu, draw, cell), the cells of all nodes but knock-outs in their order.
        cut: (3, knock-out), each in the clean run.
        damage: (2, nu, draw), see `DAMAGE`.
    """

    answer_ids: list[int]
    predicted: list[int]
    rival: int
    clean: np.ndarray
    corrupted: np.ndarray
    restored: np.ndarray
    damage: np.ndarray
    cut: np.ndarray


#: How far the damage leads from clean runs: mean length of the damaged image embeddings over that of the clean ones,
#: and how much more evenly the question encoder's attention to them is spread (its entropy, in shares of the largest).
DAMAGE = ("norm_ratio", "entropy_change")


@dataclass(frozen=True)
class Ready:
    """An example before its first pass: inputs, clean states, and the cells of each node of its result."""

    encoded: Encoded
    undamaged: Tensor
    answer_ids: list[int]
    predicted: list[int]
    rival: int
    clean: States
    clean_outcome: Outcome
    clean_seen: Seen
    partner: Tensor | None
    extent: Extent
    nodes: Mapping[str, Sequence[Any]]
    forward: Forward

    @classmethod
    def of(cls, model: Blip, asked: Asked, settings: Settings) -> Ready:
        """Runs the vision model and one clean pass. Raises `NnblipError` for what cannot be traced."""
        encoded = asked.encoded
        embeds = model.image_embeds(encoded)
        if asked.answer_ids is None:
            answer_ids = predicted = model.own_answer(encoded, embeds)
        else:
            answer_ids, predicted = asked.answer_ids, model.own_answer(encoded, embeds, empty=True)
        extent = replace(
            model.extent(len(encoded.tokens), len(answer_ids), settings.noise_at),
            roles=asked.roles, texts=encoded.tokens,
        )  # fmt: skip
        place = settings.noise_at
        undamaged = embeds if place == "image_embeds" else clean_at(model, encoded, place)
        if place in BEFORE_VISION:
            embeds = patch_embeds(model, undamaged, place)
        words = undamaged if place == "question" else None
        forward = Forward(
            encoded, embeds, answer_ids, place in BEFORE_VISION, cuts(settings.knock_out, extent), words
        )  # fmt: skip
        if settings.knock_out:
            longest = model.extent(len(encoded.tokens), model.longest_answer, settings.noise_at)
            predicted = engine.own_answer(model, forward, partial(at_length, cuts(settings.knock_out, longest)))
        seen = Seen()
        clean, logits = engine.run_alone(model, forward, seen)
        rival, partner = model.task.rival(logits, answer_ids), None
        if isinstance(settings.noise, Swap):
            assert asked.partner is not None
            partner, rival = partner_of(model, asked.partner, answer_ids, settings.noise_at)
        if asked.rival is not None:
            rival = asked.rival
            if rival == answer_ids[0]:
                raise InputError(
                    f"rival {settings.rival!r}: it is the first token of the traced answer itself; expected another"
                )
        return cls(
            encoded, undamaged, answer_ids, predicted, rival, clean, model.task.outcome(logits, answer_ids, rival),
            seen, partner, extent, settings.nodes(extent), forward,
        )  # fmt: skip

    @property
    def cells(self) -> list[Cell]:
        """Those that are states, of all nodes in their order; edges come after them."""
        return [cell for cells in self.nodes.values() for cell in cells if isinstance(cell, tuple)]

    @property
    def edges(self) -> Sequence[Edge]:
        return self.nodes.get(EDGES_NODE, ())

    def damage(self, seen: Seen) -> np.ndarray:
        """(2, base) of corrupted runs, see `DAMAGE`."""
        return np.stack([seen.norm / np.maximum(self.clean_seen.norm, 1e-30), seen.entropy - self.clean_seen.entropy])

    def noisy(self, model: Blip, settings: Settings, pairs: Sequence[tuple[int, float]]) -> Forward:
        """The pass whose bases are corrupted runs, one for each (draw, ν)."""
        place = settings.noise_at
        found = torch.cat([
            damaged(
                model, self.undamaged, settings.noise, nu, settings.seed, draw, self.encoded.key, place, self.partner
            )
            for draw, nu in pairs
        ])  # fmt: skip
        if place == "question":
            return replace(self.forward, words=found, bases=len(pairs))
        return replace(self.forward, image=found, bases=len(pairs))


def measure(
    model: Blip, settings: Settings, asked: Asked, tick: Callable[[], object] = lambda: None,
    donor: Callable[[Ready], States] | None = None,
) -> Measured:  # fmt: skip
    """All numbers of one example; `tick` is called for each (draw, ν). Raises `NnblipError` for what cannot be traced.

    As many (draw, ν) as `nnblip.passes.room` finds room for are the bases of one pass. `donor` gives other states that
    are restored, in the place of the example's own clean ones: a control (`nnblip.experiments.controls`).
    """
    ready = Ready.of(model, asked, settings)
    if donor is not None:
        ready = replace(ready, clean=donor(ready))
    count = len(ready.cells) + len(ready.edges)
    check_room(settings, count)
    plans, width = fit(model, settings, ready.extent, ready.cells)
    paths: list[Plan] = []
    if ready.edges:
        paths, room = fit(model, settings, ready.extent, ready.edges)
        width = min(width, room)
        plans = plans if ready.cells else []  # the bases run for the edges
    clean = stack(ready.clean_outcome)[:, 0]
    most = settings.most_draws
    corrupted = np.empty((3, len(settings.nu), most), clean.dtype)
    restored = np.empty((3, len(settings.nu), most, count), clean.dtype)
    damage = np.empty((2, len(settings.nu), most), np.float32)
    at_a_time = BATCH if settings.draws == AUTO else most
    for start in range(0, most, at_a_time):
        if settings.draws == AUTO and _reliable(ready, settings, restored[0, :, :start]):
            corrupted, restored, damage = corrupted[:, :, :start], restored[:, :, :start], damage[:, :, :start]
            break
        pairs = list(product(range(start, min(start + at_a_time, most)), range(len(settings.nu))))
        for first in range(0, len(pairs), width):
            some = pairs[first : first + width]
            draws, levels = map(list, zip(*some, strict=True))
            asked_of = [(draw, settings.nu[level]) for draw, level in some]
            found = _run_bases(model, settings, ready, plans, paths, asked_of)
            corrupted[:, levels, draws], restored[:, levels, draws], damage[:, levels, draws] = found
            for _ in some:
                tick()
    return Measured(
        ready.answer_ids, ready.predicted, ready.rival, clean, corrupted, restored, damage, _cut(model, settings, ready)
    )  # fmt: skip


def _run_bases(
    model: Blip, settings: Settings, ready: Ready, plans: Sequence[Plan], paths: Sequence[Plan],
    pairs: Sequence[tuple[int, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Of each (draw, ν), in one pass for each plan: (3, base) corrupted, (3, base, cell) restored, (2, base) damage.

    Args:
        plans: of the cells that are states.
        paths: of the edges.
    """
    frozen = frozenset(SUBLAYERS[name] for name in settings.freeze)
    base, donor, seen = ready.noisy(model, settings, pairs), ready.clean, Seen()
    noising, damaged_states = settings.direction == "noising", None
    if noising or paths:
        written = {point for plan in plans for point, step in plan.steps.items() if step.rows}
        damaged_states, logits = engine.run_alone(model, base, seen, only=None if paths else written)
        corrupted = stack(model.task.outcome(logits, ready.answer_ids, ready.rival))
    if noising:
        assert damaged_states is not None
        donor, base = damaged_states, replace(ready.forward, bases=len(pairs))
    found = []
    for number, plan in enumerate(plans):
        see = None if damaged_states is not None or number else seen
        rows = stack(engine.run_plan(model, base, ready.rival, donor, plan, frozen, see))
        found.append(_by_cell(plan, rows, len(pairs)))
        if number == 0 and not noising:
            corrupted = rows[:, : len(pairs)]
    if paths:
        assert damaged_states is not None
        offset = len(ready.cells)
        for plan in paths:
            edges = {cell: ready.edges[cell] for cell in plan.cells if cell is not None}
            sent = send(model, edges, ready.clean if noising else damaged_states, donor)
            rows = stack(engine.run_plan(model, base, ready.rival, sent, plan))
            found.append({offset + cell: one for cell, one in _by_cell(plan, rows, len(pairs)).items()})
    restored = np.empty((3, len(pairs), sum(map(len, found))), corrupted.dtype)
    for some in found:
        for cell, numbers in some.items():
            restored[:, :, cell] = numbers
    return corrupted, restored, ready.damage(seen)


def _by_cell(plan: Plan, rows: np.ndarray, bases: int) -> dict[int, np.ndarray]:
    """(3, base) of each cell of a plan."""
    grid = rows.reshape(3, plan.rows, bases)
    return {cell: grid[:, row] for row, cell in enumerate(plan.cells) if cell is not None}


def _cut(model: Blip, settings: Settings, ready: Ready) -> np.ndarray:
    """(3, knock-out): the clean run without some edges, one knock-out at a time."""
    cuts = ready.nodes.get(KNOCK_OUTS_NODE, ())
    found = np.empty((3, len(cuts)), stack(ready.clean_outcome).dtype)
    plans, _ = fit(model, settings, ready.extent, cuts)
    for plan in plans if cuts else ():
        rows = stack(engine.run_plan(model, ready.forward, ready.rival, ready.clean, plan))
        for cell, numbers in _by_cell(plan, rows, 1).items():
            found[:, cell] = numbers[:, 0]
    return found


def check_room(settings: Settings, cells: int) -> None:
    """Before anything is allocated: raise `SettingError` if the numbers of so many cells are too many."""
    draws = settings.most_draws
    size = 4 * 3 * len(settings.nu) * draws * (1 + cells)
    if size > MOST_BYTES:
        raise SettingError(
            f"{len(settings.nu)} noise factors, {draws} draws and {cells} cells are {size / 2**30:.1f} GiB of"
            f" numbers for one example, at most {MOST_BYTES / 2**30:.0f} GiB are taken: ask for fewer draws or cells"
        )


def _reliable(ready: Ready, settings: Settings, restored: np.ndarray) -> bool:
    """Whether each map, (nu, draw, cell), is as reliable as wished for; what has no reliability cannot get better."""
    if not restored.shape[1]:
        return False
    found = [split_half(one[:, cells]) for _, _, cells in maps_of(ready.nodes) for one in restored if len(cells) > 2]
    return all(value >= settings.reliability for value in found if not np.isnan(value))


def stack(outcome: Outcome) -> np.ndarray:
    """(3, rows), in the order of `nnblip.blip.outcome.NAMES`."""
    return np.stack([getattr(outcome, name).numpy() for name in NAMES])
