"""Attention without some of its edges, inside a trace: in all rows of a pass, or in one row each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnblip.blip.masks import dead_of, with_cut
from nnblip.blip.network import Blip
from nnblip.edges import KnockOut
from nnblip.passes.plan import Point

# --- in all rows -------------------------------------------------------------------------


def cut_attention(model: Blip, component: str, sublayer: str, layer: int, cut: np.ndarray) -> None:
    """Before an attention sublayer runs: its mask hides what is cut, (token, key) True."""
    attention = getattr(getattr(model, component).layer[layer], sublayer).self
    args, options = attention.inputs
    attention.inputs = (args, with_cut(options, sublayer, cut, args[0]))


def quiet_dead(model: Blip, component: str, sublayer: str, layer: int, cut: np.ndarray) -> None:
    """After it has run: a token with nothing left to read has read zeros."""
    dead = torch.from_numpy(dead_of(component, sublayer, cut))
    if dead.any():
        point = (component, f"{sublayer}_head", layer)
        context = model.read_state(*point)
        model.write_state(*point, context.masked_fill(dead[:, None].to(context.device), 0))


# --- in one row each ---------------------------------------------------------------------


def cut_rows(
    model: Blip, point: Point, cuts: Sequence[tuple[int, KnockOut]], bases: int, everywhere: np.ndarray | None
) -> None:
    """After a self-attention sublayer has run: rows that read without some edges have read anew.

    Args:
        model: the model.
        point: the heads of the sublayer.
        cuts: rows with what is cut in them.
        bases: how many the rows of the pass have.
        everywhere: (token, key), True where no row may read.
    """
    attention = getattr(model, point.component).layer[point.layer].attention.self
    hidden = attention.input.unflatten(0, (-1, bases))  # before the output: nnsight goes with the model
    context = model.read_state(*point).clone()
    grid = context.unflatten(0, (-1, bases))
    tokens, heads = context.shape[1], attention.num_attention_heads
    blind = torch.zeros(tokens, tokens, dtype=torch.bool, device=context.device)
    if point.component == "answer_decoder":  # no token reads a later one
        blind = torch.ones_like(blind).triu(1)
    if everywhere is not None:
        blind = blind | torch.from_numpy(everywhere).to(context.device)
    rows = [row for row, _ in cuts]
    query, key, value = (
        by_head(part(hidden[rows]), heads) for part in (attention.query, attention.key, attention.value)
    )
    found = read_without(query, key, value, [cut for _, cut in cuts], blind)
    grid[rows] = found.transpose(2, 3).flatten(3)
    model.write_state(*point, context)


def read_without(
    query: Float[Tensor, "row base head token dim"],
    key: Float[Tensor, "#row #base head key dim"],
    value: Float[Tensor, "#row #base head key dim"],
    cuts: Sequence[KnockOut],
    blind: Bool[Tensor, "token key"] | None,
) -> Float[Tensor, "row base head token dim"]:
    """What rows read with some edges cut, each row its own: by mask or by mean, see `nnblip.edges`."""
    size = (query.shape[-2], key.shape[-2])
    cut = torch.from_numpy(np.stack([_cut(one, *size) for one in cuts])).to(query.device)[:, None, None]
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    mean = torch.tensor([one.by == "mean" for one in cuts], device=query.device)[:, None, None, None, None]
    unseen = cut & ~mean if blind is None else (cut & ~mean) | blind
    weights = weights_of(scores, unseen)
    found = weights.masked_fill(cut, 0) @ value
    if mean.any():
        seen = torch.ones(size, dtype=value.dtype, device=value.device) if blind is None else (~blind).to(value.dtype)
        means = seen / seen.sum(-1, keepdim=True).clamp_min(1) @ value
        found = found + weights.masked_fill(~cut, 0).sum(-1, keepdim=True) * means
    return found


def weights_of(scores: Float[Tensor, "*row token key"], unseen: Tensor | None) -> Float[Tensor, "*row token key"]:
    """Softmax over the keys that are seen; zeros where none is."""
    if unseen is None:
        return scores.softmax(-1)
    dead = unseen.all(-1, keepdim=True)
    return scores.masked_fill(unseen & ~dead, -torch.inf).softmax(-1).masked_fill(dead, 0)


def by_head(x: Float[Tensor, "*row token hidden"], heads: int) -> Float[Tensor, "*row head token dim"]:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _cut(one: KnockOut, tokens: int, sources: int) -> np.ndarray:
    cut = np.zeros((tokens, sources), bool)
    target, source = (range(size) if given is None else given for given, size in
                      ((one.target, tokens), (one.source, sources)))  # fmt: skip
    cut[np.ix_(target, source)] = True
    return cut
