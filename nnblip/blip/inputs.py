"""An image, a question and an answer become tensors, token texts and a content hash."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nnblip.errors import InputError, NnblipWarning, told
from nnblip.examples import ImageLike, load_image


@dataclass(frozen=True)
class Encoded:
    """An image and a question as the model reads them.

    Attributes:
        pixel_values: (1, 3, height, width) float32.
        input_ids: (1, tokens), [CLS] first, [SEP] last, never padded.
        tokens: the text of each question token.
        key: hash of image content and question; the noise is seeded by it.
    """

    pixel_values: Float[Tensor, "1 3 height width"]
    input_ids: Int[Tensor, "1 token"]
    tokens: tuple[str, ...]
    key: str
    question: str = field(default="")

    def __reduce__(self) -> Any:
        # an image has at most 256 values in each colour, and travels as one byte for each
        return _unpacked, (_packed(self.pixel_values), self.input_ids, self.tokens, self.key, self.question)


def _packed(pixels: Tensor) -> Any:
    """Pixel values as their different values and a byte for each pixel, bit for bit; as they are if there are more."""
    channels = [np.unique(channel, return_inverse=True) for channel in pixels[0].numpy()]
    if any(len(values) > 256 for values, _ in channels):
        return pixels
    shape = tuple(pixels.shape[1:])
    return [values for values, _ in channels], np.stack([index.astype(np.uint8) for _, index in channels]).reshape(
        shape
    )


def _unpacked(packed: Any, *rest: Any) -> Encoded:
    if not isinstance(packed, Tensor):
        values, indices = packed
        packed = torch.from_numpy(np.stack([one[index] for one, index in zip(values, indices, strict=True)]))[None]
    return Encoded(packed, *rest)


def encode(processor: Any, image: ImageLike, question: str | None, max_tokens: int) -> Encoded:
    """An image and a question as the model reads them.

    Args:
        processor: the model's `BlipProcessor`.
        image: see `load_image`.
        question: its text.
        max_tokens: how many tokens the model takes ([CLS] and [SEP] included).

    Raises:
        InputError: for an image that cannot be read, an empty question, or one that is too long.
    """
    question = _text("question", question)
    picture = load_image(image)
    ids = _question_ids(processor.tokenizer, "question", question)
    if len(ids) > max_tokens:
        raise InputError(
            f"question of {len(ids)} tokens ({question[:60]!r}...): this model takes at most {max_tokens};"
            " shorten it, nothing is ever cut off silently"
        )
    tokens = tuple(processor.tokenizer.convert_ids_to_tokens(ids))
    unknown = processor.tokenizer.unk_token
    if unknown in tokens:
        warnings.warn(
            f"the question {told(question)} has words that this model's vocabulary lacks; it reads {' '.join(tokens)}",
            NnblipWarning,
            stacklevel=2,
        )
    pixels = processor.image_processor(picture, return_tensors="pt").pixel_values
    content = hashlib.blake2b(np.asarray(picture).tobytes(), digest_size=16)
    content.update(f"{picture.size}/{question}".encode())
    return Encoded(pixels, torch.tensor([ids]), tokens, content.hexdigest(), question)


def with_question(processor: Any, encoded: Encoded, question: object) -> Encoded:
    """The same image with another question of as many tokens.

    Raises:
        InputError: for an empty question, or one of another length.
    """
    question = _text("other_question", question)
    ids = _question_ids(processor.tokenizer, "other_question", question)
    if len(ids) != len(encoded.tokens):
        raise InputError(
            f"other_question {told(question)} has {len(ids)} tokens, the question {told(encoded.question)}"
            f" {len(encoded.tokens)}: expected as many, since each takes the place of one"
        )
    tokens = tuple(processor.tokenizer.convert_ids_to_tokens(ids))
    return replace(encoded, input_ids=torch.tensor([ids]), tokens=tokens, question=question)


def _text(what: str, question: object) -> str:
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{what} {told(question)}: expected a text with at least one word")
    return question


def _question_ids(tokenizer: Any, what: str, question: str) -> list[int]:
    ids = _ids(tokenizer, what, question, add_special_tokens=True)
    if len(ids) <= 2:
        raise InputError(f"{what} {question!r}: expected a text with at least one word")
    return ids


def _ids(tokenizer: Any, what: str, text: str, add_special_tokens: bool) -> list[int]:
    try:
        ids: list[int] = tokenizer(
            text, add_special_tokens=add_special_tokens, truncation=False, verbose=False
        ).input_ids
    except TypeError as error:
        raise InputError(f"{what} {text!r:.200}: not a text that can be tokenized ({error})") from error
    return ids


def answer_ids(processor: Any, answer: str, max_tokens: int, what: str = "answer") -> list[int]:
    """The tokens of an answer, without [DEC] and [SEP]; `what` names it in a message.

    Raises:
        InputError: for an empty answer, one with words that the vocabulary lacks, or one that is too long.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise InputError(f"{what} {told(answer)}: expected a text with at least one word")
    tokenizer = processor.tokenizer
    ids = _ids(tokenizer, what, answer, add_special_tokens=False)
    if not ids or {*ids} & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}:
        raise InputError(f"{what} {told(answer)}: expected words, without special tokens")
    if tokenizer.unk_token_id in ids:
        read = " ".join(tokenizer.convert_ids_to_tokens(ids))
        raise InputError(f"{what} {told(answer)}: this model's vocabulary lacks a word of it (it reads {read!r})")
    if len(ids) > max_tokens:
        raise InputError(f"{what} of {len(ids)} tokens ({answer[:60]!r}...): this model takes at most {max_tokens}")
    return ids


def answer_text(processor: Any, ids: Iterable[int]) -> str:
    """The text of answer tokens."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def answer_tokens(processor: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text at each position of the answer decoder's input: [DEC], then all but the last answer token."""
    return ("[DEC]", *processor.tokenizer.convert_ids_to_tokens(list(ids[:-1])))
