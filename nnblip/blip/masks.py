"""Cut attention edges in the mask of an attention module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def with_cut(options: dict[str, Any], sublayer: str, cut: np.ndarray, like: Tensor) -> dict[str, Any]:
    """The keyword arguments of an attention module with the cut edges hidden in its additive mask.

    Args:
        options: as the module is called.
        sublayer: "attention" or "crossattention", which take their masks under different names.
        cut: (token, key), True where a token may not read a key.
        like: a tensor of the mask's device and dtype.
    """
    name = "encoder_attention_mask" if sublayer == "crossattention" else "attention_mask"
    mask, hidden = options.get(name), torch.from_numpy(cut).to(like.device)
    if mask is None:
        mask = like.new_zeros(1, 1, *cut.shape)
    elif mask.dtype == torch.bool:
        mask = like.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(like.dtype).min)
    return {**options, name: mask.masked_fill(hidden, torch.finfo(like.dtype).min)}


def dead_of(component: str, sublayer: str, cut: np.ndarray) -> np.ndarray:
    """Which tokens have nothing left to read; in the answer decoder, no token reads later ones."""
    seen = ~cut
    if component == "answer_decoder" and sublayer == "attention":
        seen = np.tril(seen)
    return np.asarray(~seen.any(1))
