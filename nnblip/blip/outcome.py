"""From logits to the three numbers of every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.errors import ModelError


@dataclass(frozen=True)
class Outcome:
    """How far each row of a run gives the answer.

    Attributes:
        probability: joint probability of the answer's tokens, teacher-forced, [SEP] left out.
        log_probability: its natural logarithm.
        logit_difference: logit of the answer's first token minus that of the rival, the
            strongest other token of the clean run.
    """

    probability: Float[Tensor, " row"]
    log_probability: Float[Tensor, " row"]
    logit_difference: Float[Tensor, " row"]


#: Results have the numbers of every run in this order.
NAMES = tuple(field.name for field in fields(Outcome))


def require_numbers(found: Tensor) -> None:
    """Raise `ModelError` where a model gives something else than numbers."""
    if found.isnan().any():
        raise ModelError(
            "the model's probabilities are NaN: its numbers leave the range of their dtype (dtype='float32' has more)"
        )


def wide(numbers: Tensor) -> Tensor:
    """In float32 what has less, as it is what has more."""
    return numbers if numbers.dtype == torch.float64 else numbers.float()


def rival_of(logits: Float[Tensor, "1 position word"], answer_ids: Sequence[int]) -> int:
    """The strongest other first token of a clean run."""
    first = wide(logits[0, 0]).clone()
    first[answer_ids[0]] = -torch.inf
    return int(first.argmax())


def outcome_of(logits: Float[Tensor, "row position word"], answer_ids: Sequence[int], rival: int) -> Outcome:
    """The outcome of every row on the CPU, in float32, or in float64 of a model in float64.

    Args:
        logits: of the answer decoder's head; position i predicts answer token i.
        answer_ids: the answer, [SEP] left out.
        rival: see `rival_of`.

    Raises:
        ModelError: for probabilities that are NaN.
    """
    logits = wide(logits.detach())
    ids = torch.tensor(list(answer_ids), device=logits.device)
    chosen = logits.gather(2, ids.expand(len(logits), -1)[..., None])[..., 0]
    log_probability = (chosen - logits.logsumexp(-1)).sum(1)
    require_numbers(log_probability)
    difference = chosen[:, 0] - logits[:, 0, rival]
    return Outcome(log_probability.exp().cpu(), log_probability.cpu(), difference.cpu())
