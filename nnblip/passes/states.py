"""What happens inside a trace: states are read, kept and overwritten, attention edges cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip.masks import dead_of, with_cut
from nnblip.blip.network import Blip
from nnblip.blip.upstream import is_edited, skip
from nnblip.errors import SiteError, one_of
from nnblip.passes.plan import Plan, Point
from nnblip.sites import COMPONENTS, IMAGE_KINDS, KINDS


class States(dict[tuple[str, str, int], Tensor]):
    """States of a run by (component, kind, layer), each (1, tokens, hidden); of several runs, (run, tokens, hidden).

    Attributes:
        image_embeds: what the question encoder saw, (1, patches, hidden); of several runs, or one for all of them.
    """

    image_embeds: Tensor | None = None

    def __missing__(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 3):
            raise SiteError(f"states[{key!r}]: expected states[component, kind, layer]")
        one_of(key[0], COMPONENTS, "component", SiteError)
        one_of(key[1], IMAGE_KINDS if key[0] == "image_encoder" else KINDS, "kind", SiteError)
        layers = 1 + max((layer for component, _, layer in self if component == key[0]), default=-1)
        raise SiteError(f"layer {key[2]!r} of {key[0]}: there are {layers}, 0 to {layers - 1}")


def skip_vision(model: Blip, image_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: these embeddings instead of what the vision model gives."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    _instead(model, model.image_encoder, BaseModelOutputWithPooling(last_hidden_state=image_embeds))


def start_vision(model: Blip, patch_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: the vision model starts from these patch embeddings instead of the image's own."""
    _instead(model, model.image_encoder.embeddings, patch_embeds)


def _instead(model: Blip, module: Any, value: Any) -> None:
    """A module need not run, unless edits that are stored on the model may wait for what is inside it."""
    if is_edited(model):
        module.output = value
    else:
        skip(module, value)


def start_words(model: Blip, words: Float[Tensor, "base token hidden"]) -> None:
    """Inside a trace: these word embeddings instead of the question's own."""
    model.question_encoder.embeddings.word_embeddings.output = words.clone()  # BLIP adds positions in place


def write_states(model: Blip, point: Point, plan: Plan, donor: States, bases: int = 1) -> None:
    """Inside a trace: overwrite the states that the plan names at a point by the donor's, for every base."""
    step = plan.steps[point]
    if step.rows:
        state = model.read_state(*point).clone()
        source = donor[point.component, point.kind, point.layer].to(state)
        grid = state.unflatten(0, (-1, bases))  # a view: writes reach `state`
        if step.heads:
            heads = model.config.text_config.num_attention_heads
            grid, source = (x.unflatten(-1, (heads, -1)) for x in (grid, source))
            grid[step.rows, :, step.tokens, step.heads] = source[:, step.tokens, step.heads].transpose(0, 1)
        else:
            grid[step.rows, :, step.tokens] = source[:, step.tokens].transpose(0, 1)
        model.write_state(*point, state)


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
