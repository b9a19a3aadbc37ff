"""Answers token by token, from what the question encoder hands over."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.models.blip.modeling_blip_text import BlipTextModel

from nnblip.blip.masks import dead_of, with_cut
from nnblip.blip.outcome import require_numbers
from nnblip.edges import Cuts
from nnblip.errors import NnblipWarning

#: As many tokens as transformers' `generate` gives by default.
MAX_ANSWER_TOKENS = 20

#: What transformers calls the keys and values that are kept from token to token: "cache" since 5.24.
CACHE = "cache" if "cache" in inspect.signature(BlipTextModel.forward).parameters else "past_key_values"


class Ending(NamedTuple):
    """What a pass with an answer teacher-forced leaves for decoding on.

    Attributes:
        logits: (1, position, word).
        question_states: (1, token, hidden), the question encoder's output.
        cache: keys and values of [DEC] and of all answer tokens but the last.
    """

    logits: Float[Tensor, "1 position word"]
    question_states: Float[Tensor, "1 token hidden"]
    cache: Any


@torch.no_grad()
def decode(
    module: Any, question_states: Float[Tensor, "1 token hidden"], said: list[int], cache: Any = None,
    cuts: Cuts | None = None,
) -> list[int]:  # fmt: skip
    """Go on answering greedily, up to [SEP], `MAX_ANSWER_TOKENS` or what the model takes.

    Args:
        module: a `BlipForQuestionAnswering`.
        question_states: the question encoder's output.
        said: the answer so far.
        cache: keys and values of [DEC] and of all of `said` but its last token.
        cuts: attention edges that the answer decoder does without.
    """
    text = module.config.text_config

    def following(said: list[int]) -> Tensor:
        nonlocal cache
        fed = [text.bos_token_id, *said] if cache is None else said[-1:]
        out = module.text_decoder(
            input_ids=torch.tensor([fed], device=question_states.device),
            encoder_hidden_states=question_states,
            **{CACHE: cache},
            use_cache=True,
        )
        cache = getattr(out, CACHE)
        return out.logits[0, -1]

    with _without(module.text_decoder.bert.encoder.layer, cuts or {}):
        return greedy(following, said, module.config)


def greedy(following: Callable[[list[int]], Float[Tensor, " word"]], said: list[int], config: Any) -> list[int]:
    """Go on answering with the likeliest token again and again, up to [SEP] or the longest answer.

    Args:
        following: the logits of the token that follows an answer so far.
        said: the answer so far.
        config: the model's.
    """
    said, limit = list(said), longest_answer(config)
    while len(said) < limit:
        logits = following(said)
        require_numbers(logits)
        token = int(logits.argmax())
        if token == config.text_config.sep_token_id:
            return said
        said.append(token)
    warnings.warn(
        f"the answer did not end within {limit} tokens and counts as it is so far",
        NnblipWarning,
        stacklevel=2,
    )
    return said


def said_after(module: Any, ending: Ending, answer_ids: Sequence[int], cuts: Cuts) -> list[int]:
    """The greedy answer: as a pass says it while that agrees with the traced answer, then decoded on.

    The keys and values of the pass carry its interventions, so what follows the first
    disagreement is decoded with them in place.
    """
    said, over = said_in(ending.logits, answer_ids, module.config)
    if over:
        return said
    if unused := len(answer_ids) - len(said):
        ending.cache.crop(-unused)
    return decode(module, ending.question_states, said, ending.cache, cuts)


def said_in(logits: Float[Tensor, "1 position word"], answer_ids: Sequence[int], config: Any) -> tuple[list[int], bool]:
    """What a pass with an answer teacher-forced says up to the first disagreement, and whether it ends there."""
    said: list[int] = []
    for position, expected in enumerate(answer_ids):
        token = int(logits[0, position].argmax())
        if token == config.text_config.sep_token_id:
            return said, True
        said.append(token)
        if token != expected:
            break
    return said, False


def longest_answer(config: Any) -> int:
    """How many tokens an answer has at most."""
    return min(MAX_ANSWER_TOKENS, int(config.text_config.max_position_embeddings))


@contextmanager
def _without(layers: Any, cuts: Cuts) -> Iterator[None]:
    """Forward hooks that cut attention edges of the answer decoder, whatever part of the answer is fed."""
    handles = []
    for (component, sublayer, layer), cut in cuts.items():
        if component == "answer_decoder":
            attention, dead = getattr(layers[layer], sublayer).self, dead_of(component, sublayer, cut)
            handles += [
                attention.register_forward_pre_hook(partial(_hide, cut, sublayer), with_kwargs=True),
                attention.register_forward_hook(partial(_silence, dead, sublayer), with_kwargs=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hide(
    cut: np.ndarray, sublayer: str, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    start, count = _fed(attention, args, kwargs, before=sublayer == "attention")
    part = cut[start : start + count]
    if sublayer == "attention":
        part = part[:, : start + count]
    return args, with_cut(kwargs, sublayer, part, args[0])


def _silence(
    dead: np.ndarray, sublayer: str, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
    output: tuple[Any, ...],
) -> tuple[Any, ...]:  # fmt: skip
    start, count = _fed(attention, args, kwargs, before=False)
    quiet = torch.from_numpy(dead[start : start + count])[:, None].to(output[0].device)
    return (output[0].masked_fill(quiet, 0), *output[1:])


def _fed(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: bool) -> tuple[int, int]:
    """Position of the first token that is fed, and how many are; `before` its own keys are in the cache."""
    known, count = kwargs[CACHE].get_seq_length(attention.layer_idx), args[0].shape[1]
    return (known if before else known - count), count
