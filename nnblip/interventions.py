"""What happens inside a trace: states are read, kept and overwritten, attention edges cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.errors import SiteError, one_of
from nnblip.plan import Plan, Point
from nnblip.sites import COMPONENTS, IMAGE_KINDS, KINDS

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


class States(dict[tuple[str, str, int], Tensor]):
    """States of a run by (component, kind, layer), each (1, tokens, hidden).

    Attributes:
        image_embeds: what the question encoder saw, (1, patches, hidden).
    """

    image_embeds: Tensor | None = None

    def __missing__(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 3):
            raise SiteError(f"states[{key!r}]: expected states[component, kind, layer]")
        one_of(key[0], COMPONENTS, "component", SiteError)
        one_of(key[1], IMAGE_KINDS if key[0] == "image_encoder" else KINDS, "kind", SiteError)
        layers = 1 + max((layer for component, _, layer in self if component == key[0]), default=-1)
        raise SiteError(f"layer {key[2]!r} of {key[0]}: there are {layers}, 0 to {layers - 1}")


def skip_vision(model: BlipVQA, image_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: these embeddings instead of running the vision model."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    model.image_encoder.skip(BaseModelOutputWithPooling(last_hidden_state=image_embeds))


def write_states(model: BlipVQA, point: Point, plan: Plan, clean: States) -> None:
    """Inside a trace: overwrite the states that the plan names at a point by their clean values."""
    step = plan.steps[point]
    if step.rows:
        state = model.read_state(*point).clone()
        source = clean[point.component, point.kind, point.layer].to(state)
        if step.heads:
            heads = model.config.text_config.num_attention_heads
            by_head, source = (x.unflatten(-1, (heads, -1)) for x in (state, source))  # views: writes reach `state`
            by_head[step.rows, step.tokens, step.heads] = source[0, step.tokens, step.heads]
        else:
            state[step.rows, step.tokens] = source[0, step.tokens]
        model.write_state(*point, state)


def cut_attention(model: BlipVQA, component: str, sublayer: str, layer: int, cut: np.ndarray) -> None:
    """Before an attention sublayer runs: its mask hides what is cut, (token, key) True."""
    attention = getattr(getattr(model, component).layer[layer], sublayer).self
    args, options = attention.inputs
    attention.inputs = (args, with_cut(options, sublayer, cut, args[0]))


def quiet_dead(model: BlipVQA, component: str, sublayer: str, layer: int, cut: np.ndarray) -> None:
    """After it has run: a token with nothing left to read has read zeros."""
    dead = torch.from_numpy(dead_of(component, sublayer, cut))
    if dead.any():
        point = (component, f"{sublayer}_head", layer)
        context = model.read_state(*point)
        model.write_state(*point, context.masked_fill(dead[:, None].to(context.device), 0))


def with_cut(options: dict[str, Any], sublayer: str, cut: np.ndarray, like: Tensor) -> dict[str, Any]:
    """The arguments of an attention module with the cut edges in its additive mask."""
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
