"""Cross-attention whose rows share keys and values instead of copying them: what makes a map one pass.

The states attended to have fewer rows than the queries: a row of image embeddings for each base, or one for
all, or, in the answer decoder, a row for each row of the question encoder, and the base's for the rows born
since. Rows that share are folded into the query length. The same mathematics as transformers' eager attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nnblip.blip.upstream import skip
from nnblip.edges import KnockOut
from nnblip.passes.cutting import by_head, read_without, weights_of
from nnblip.passes.plan import Plan
from nnblip.passes.states import States

#: With fewer rows, matrix kernels on CPUs round otherwise than with more.
STEADY_ROWS = 16


@dataclass
class Seen:
    """What the question encoder saw in the bases: how far damage leads from what it was trained on.

    Attributes:
        norm: (base), mean length of the embeddings on which the noise falls: the image's, or the question's words.
        entropies: of each layer's attention to the image, (base), mean over heads and tokens, as shares of the largest
            that there can be: 1 is attention to all alike, 0 to one.
    """

    norm: np.ndarray = field(default_factory=lambda: np.array([np.nan]))
    entropies: list[np.ndarray] = field(default_factory=list)

    @property
    def entropy(self) -> np.ndarray:
        """(base), mean over layers."""
        return np.mean(self.entropies, 0)

    def measure(self, embeds: Float[Tensor, "base token hidden"]) -> None:
        """Keep the mean length of the embeddings of each base."""
        self.norm = embeds.detach().float().norm(dim=-1).mean(-1).cpu().numpy()


@dataclass(frozen=True)
class Mixed:
    """Rows 1 to n of the question encoder, which see some image embeddings of another run in place of their own.

    Keys and values belong to one patch each, so those of both runs serve all rows, and a row
    chooses among them.
    """

    donor: Float[Tensor, "donor patches hidden"]
    unseen: Bool[Tensor, "n twice_patches"]  # of its own, then of the donor's

    @classmethod
    def of(cls, plan: Plan, donor: States, image: Float[Tensor, "base patches hidden"]) -> Mixed | None:
        """What the rows see whose image embeddings are restored, if there are any."""
        count, patches = plan.born_in("image_encoder"), image.shape[1]
        if not count:
            return None
        chosen = torch.zeros(count, patches, dtype=torch.bool, device=image.device)
        (step,) = (step for point, step in plan.steps.items() if point.component == "image_encoder")
        chosen[[row - 1 for row in step.rows], step.tokens] = True
        assert donor.image_embeds is not None
        return cls(donor.image_embeds.to(image), torch.cat([chosen, ~chosen], 1))


def share_keys(
    attention: Any, bases: int = 1, cut: np.ndarray | None = None, mixed: Mixed | None = None,
    seen: Seen | None = None, cuts: Sequence[tuple[int, KnockOut]] = (),
) -> None:  # fmt: skip
    """Inside a trace: give what a cross-attention module would give, without keys and values for every row.

    Args:
        attention: the module.
        bases: how many the rows of the pass have, see `nnblip.passes.engine`.
        cut: (token, key), True where a token may not read a key, in all rows.
        mixed: rows that see two images.
        seen: gets how the attention of the bases is spread.
        cuts: rows that read without some edges of their own; they have the keys of their base.
    """
    (hidden, *_), options = attention.inputs
    states = options["encoder_hidden_states"]
    heads = attention.num_attention_heads
    unseen = None if cut is None else torch.from_numpy(cut).to(hidden.device)
    query = by_head(attention.query(hidden), heads)
    key, value = (by_head(x, heads) for x in (attention.key(states), attention.value(states)))
    if seen is not None:
        seen.entropies.append(_entropy(query[:bases], key[:bases], unseen))
    own = len(key) if len(key) > bases else 0  # rows with keys of their own
    parts = []
    if own:
        # not the fused kernel: with few tokens its result on CPUs depends on which thread computes a row
        scores = query[:own] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        parts.append(weights_of(scores, unseen) @ value)
    if mixed is not None:
        donor = (by_head(x, heads) for x in (attention.key(mixed.donor), attention.value(mixed.donor)))
        # one after the other; a run that serves all bases is there for each
        twice_key, twice_value = (
            torch.cat([x.expand(bases, -1, -1, -1) for x in pair], 2) for pair in zip((key, value), donor, strict=True)
        )
        hide = mixed.unseen[:, None] if unseen is None else mixed.unseen[:, None] | torch.cat([unseen, unseen], 1)
        own = bases * (1 + len(mixed.unseen))
        parts += [_fold(query[:bases], key, value, unseen), _fold(query[bases:own], twice_key, twice_value, hide)]
    if len(query) > own:
        parts.append(_fold(query[own:], key[:bases], value[:bases], unseen))
    context = torch.cat(parts) if len(parts) > 1 else parts[0]
    if cuts:
        rows = [row for row, _ in cuts]
        asked = query.unflatten(0, (-1, bases))[rows]
        context.unflatten(0, (-1, bases))[rows] = read_without(
            asked, key[:bases][None], value[:bases][None], [one for _, one in cuts], unseen
        )
    skip(attention, (context.transpose(1, 2).flatten(2), None))


def _fold(
    query: Float[Tensor, "row head token dim"], key: Float[Tensor, "base head key dim"], value: Tensor,
    unseen: Tensor | None,
) -> Float[Tensor, "row head token dim"]:  # fmt: skip
    """Attention of rows that share the keys and values of their base; `unseen` is (token, key) or (n, 1, key)."""
    bases, tokens = len(key), query.shape[2]
    folded = query.unflatten(0, (-1, bases)).permute(1, 2, 0, 3, 4).flatten(2, 3)
    rows, length, mask = len(query) // bases, folded.shape[2], None
    # the last block of queries goes through a matrix kernel too: see STEADY_ROWS
    spare = -length % STEADY_ROWS
    folded = F.pad(folded, (0, 0, 0, spare))
    if unseen is not None:
        unseen = unseen.expand(rows, tokens, -1).flatten(0, 1)
        dead = unseen.all(-1, keepdim=True)
        mask = F.pad(~unseen | dead, (0, 0, 0, spare), value=True)
    context = F.scaled_dot_product_attention(folded, key, value, mask)[:, :, :length]
    if unseen is not None:
        context = context.masked_fill(dead, 0)
    return context.unflatten(2, (rows, tokens)).permute(2, 0, 1, 3, 4).flatten(0, 1)


def _entropy(query: Tensor, key: Tensor, unseen: Tensor | None) -> np.ndarray:
    """How evenly the attention of each base is spread, mean over heads and tokens; 1 is all alike."""
    weights = weights_of((query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5, unseen)
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean((1, 2))
    return (entropy / max(math.log(key.shape[2]), 1e-9)).cpu().numpy()
