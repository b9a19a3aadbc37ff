"""Where the noise falls: image embeddings, patch embeddings, pixels or the question, all as (1, tokens, size)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import wide
from nnblip.errors import InputError, one_of
from nnblip.noise import Noise, corrupt, unit_noise
from nnblip.sites import BEFORE_VISION, PLACES

#: The tokens of a question without [CLS] and [SEP].
WORDS = slice(1, -1)


@torch.no_grad()
def clean_at(model: Blip, encoded: Encoded, place: str) -> Float[Tensor, "1 token size"]:
    """What the noise falls on, undamaged.

    `image_embeds` is the vision model's output, `patch_embeds` what its first layer reads;
    of `pixels` a token is the normalized colours of one patch, after a first token (in
    place of [CLS]) that is their mean and is left out again. `question` is the embeddings of its
    tokens, before positions are added.

    Raises:
        NnblipError: for an unknown place, or a question of a single token.
    """
    one_of(place, PLACES, "noise_at")
    if place == "question":
        return _words(model, encoded)
    vision: Any = model._module.vision_model
    pixels = encoded.pixel_values.to(vision.device)
    if place == "image_embeds":
        return vision(pixels).last_hidden_state
    if place == "patch_embeds":
        return vision.embeddings(pixels)
    size = model.config.vision_config.patch_size
    patches = F.unfold(pixels, size, stride=size).transpose(1, 2)
    return torch.cat([patches.mean(1, keepdim=True), patches], 1)


def _words(model: Blip, encoded: Encoded) -> Float[Tensor, "1 token hidden"]:
    if len(encoded.tokens[WORDS]) < 2:
        raise InputError(
            f"question {encoded.question!r} has one token: noise_at='question' damages the words of a question among"
            " others; expected at least two"
        )
    embeddings: Any = model._module.text_encoder.embeddings.word_embeddings
    return embeddings(encoded.input_ids.to(embeddings.weight.device))


def partner(
    model: Blip, encoded: Encoded, answer_ids: Sequence[int], noise_at: str = "image_embeds"
) -> tuple[Float[Tensor, "1 token size"], int]:
    """For noise "swap": of another image or question what the noise falls on (on the CPU), and the first token there.

    Raises:
        InputError: if the model's answer there begins alike.
    """
    embeds = model.image_embeds(encoded)
    other = model.own_answer(encoded, embeds)
    if other[0] == answer_ids[0]:
        given, what = ("other_question", "a question") if noise_at == "question" else ("partner", "an image")
        raise InputError(
            f"{given}: the model answers {model.text(other)!r} there too, so there is nothing to trace;"
            f" expected {what} with another answer"
        )
    if noise_at != "image_embeds":
        embeds = clean_at(model, encoded, noise_at)
    return wide(embeds).cpu(), other[0]


@torch.no_grad()
def damaged(
    model: Blip, undamaged: Float[Tensor, "1 token size"], noise: Noise, nu: float, seed: int, draw: int, key: str,
    place: str, partner: Tensor | None = None,
) -> Float[Tensor, "1 token hidden"]:  # fmt: skip
    """What is damaged of a corrupted run: image embeddings, with noise before the vision model patch embeddings, words.

    Of a question the noise sees the words only: [CLS] and [SEP] stay as they are.

    Args:
        undamaged: what `clean_at` gives at `place`.
        key: the example's content hash, see `nnblip.noise.unit_noise`.
        partner: what `clean_at` gives of another image or question, for noise "swap".
    """
    unit = unit_noise(noise, tuple(undamaged.shape), seed, key, draw) if partner is None else partner
    if place == "question":
        found = undamaged.clone()
        found[:, WORDS] = corrupt(noise, undamaged[:, WORDS], unit[:, WORDS], nu)
        return found
    found = corrupt(noise, undamaged, unit, nu)
    return patch_embeds(model, found, place) if place in BEFORE_VISION else found


@torch.no_grad()
def patch_embeds(model: Blip, damaged: Float[Tensor, "1 token size"], place: str) -> Float[Tensor, "1 patch hidden"]:
    """What the vision model's first layer reads, from what `clean_at` gives at "patch_embeds" or "pixels"."""
    if place == "patch_embeds":
        return damaged
    vision: Any = model._module.vision_model
    config = model.config.vision_config
    patches = damaged[:, 1:].transpose(1, 2)
    return vision.embeddings(F.fold(patches, config.image_size, config.patch_size, stride=config.patch_size))
