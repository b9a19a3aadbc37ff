"""An image, a question and an answer become tensors, token texts and a content hash."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor

from nnblip.errors import InputError, NnblipWarning

#: Larger pictures are refused: no photograph has them, and decoding one fills the memory.
MAX_PIXELS = 100_000_000

ImageLike = "str | Path | Image.Image | np.ndarray"


@dataclass(frozen=True)
class Example:
    """One question about one image, as `causal_trace` takes it (a tuple or dict does too).

    Attributes:
        image: a path, a PIL image, an array, or a function without arguments that gives one
            of these (for images that are made or fetched when they are needed).
        question: its text.
        answer: the answer to trace; the model's own if None.
        question_type: for averages by type.
        id: its name in the result; its content hash if None.
        partner: another image of which the model answers the same question differently, for
            noise "swap".
        extra: whatever else its data set says of it. Texts and numbers become coordinates of
            the result.
    """

    image: Any
    question: str
    answer: str | None = None
    question_type: str | None = None
    id: str | None = None
    partner: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> Example:
        """An `Example` from (image, question), (image, question, answer), a mapping or a record.

        Raises:
            InputError: if it is none of these.
        """
        if isinstance(given, Example):
            return given
        if isinstance(given, Mapping) and {"image", "question"} <= set(given):
            return cls(**{k: given[k] for k in cls.__dataclass_fields__ if k in given})
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given) in (2, 3):
            return cls(*given)
        if hasattr(given, "image") and hasattr(given, "question"):
            fields: dict[str, Any] = {k: getattr(given, k) for k in cls.__dataclass_fields__ if hasattr(given, k)}
            return cls(**fields)
        raise InputError(
            f"example {given!r:.200}: expected (image, question), (image, question, answer) or nnblip.Example(...)"
        )


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


def load_image(image: Any) -> Image.Image:
    """A path, PIL image or array as an RGB picture, turned upright by its EXIF tag.

    Args:
        image: a path; a PIL image; an array (height, width), (height, width, 3) or
            (height, width, 4), uint8 or float in [0, 1]; or a function that gives one of these.

    Raises:
        InputError: for a missing, truncated, empty, non-image or absurdly large file, or
            an array of another shape or range.
    """
    if callable(image):
        image = image()
    given = f"image {str(image)!r:.200}"
    name = given if isinstance(image, str | Path) else f"the {type(image).__name__} given as image"
    if isinstance(image, np.ndarray):
        return _upright(_from_array(image), name)
    if isinstance(image, Image.Image):
        return _upright(image, name)
    if not isinstance(image, str | Path):
        raise InputError(f"{name}: expected a path, a PIL image or an array")
    path = Path(image)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:  # a name longer than names can be
        size = None
    if size is None:
        raise InputError(f"{name}: there is no such file")
    if size == 0:
        raise InputError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large, more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's readers raise whatever they stumble on
        raise InputError(f"{name}: not an image that Pillow can read ({error})") from error
    with opened:
        return _upright(opened, name)


def _upright(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width * height:
        raise InputError(f"{name}: it has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width} x {height} is too large, at most {MAX_PIXELS:,} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise InputError(f"{name}: damaged, it cannot be decoded ({error})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _from_array(np.asarray(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:  # on white, as transformers has it
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not fits or 0 in array.shape:
        raise InputError(
            f"image array of shape {array.shape}: expected (height, width), (height, width, 3) or (height, width, 4)"
        )
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"image array of {array.dtype}: expected uint8, or float in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(f"image array of {array.dtype} with values {low:g} to {high:g}: expected [0, 1], or uint8")
    return Image.fromarray((array * 255).round().astype(np.uint8))


def encode(processor: Any, image: Any, question: str, max_tokens: int) -> Encoded:
    """An image and a question as the model reads them.

    Args:
        processor: the model's `BlipProcessor`.
        image: see `load_image`.
        question: its text.
        max_tokens: how many tokens the model takes ([CLS] and [SEP] included).

    Raises:
        InputError: for an image that cannot be read, an empty question, or one that is too long.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"question {question!r}: expected a text with at least one word")
    picture = load_image(image)
    ids = _ids(processor.tokenizer, "question", question, add_special_tokens=True)
    if len(ids) <= 2:
        raise InputError(f"question {question!r}: expected a text with at least one word")
    if len(ids) > max_tokens:
        raise InputError(
            f"question of {len(ids)} tokens ({question[:60]!r}...): this model takes at most {max_tokens};"
            " shorten it, nothing is ever cut off silently"
        )
    tokens = tuple(processor.tokenizer.convert_ids_to_tokens(ids))
    unknown = processor.tokenizer.unk_token
    if unknown in tokens:
        warnings.warn(
            f"the question {question!r} has words that this model's vocabulary lacks; it reads {' '.join(tokens)}",
            NnblipWarning,
            stacklevel=2,
        )
    pixels = processor.image_processor(picture, return_tensors="pt").pixel_values
    content = hashlib.blake2b(np.asarray(picture).tobytes(), digest_size=16)
    content.update(f"{picture.size}/{question}".encode())
    return Encoded(pixels, torch.tensor([ids]), tokens, content.hexdigest(), question)


def _ids(tokenizer: Any, what: str, text: str, add_special_tokens: bool) -> list[int]:
    try:
        ids: list[int] = tokenizer(
            text, add_special_tokens=add_special_tokens, truncation=False, verbose=False
        ).input_ids
    except TypeError as error:
        raise InputError(f"{what} {text!r:.200}: not a text that can be tokenized ({error})") from error
    return ids


def answer_ids(processor: Any, answer: str, max_tokens: int) -> list[int]:
    """The tokens of an answer, without [DEC] and [SEP].

    Raises:
        InputError: for an empty answer, one with words that the vocabulary lacks, or one that is too long.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise InputError(f"answer {answer!r}: expected a text with at least one word")
    tokenizer = processor.tokenizer
    ids = _ids(tokenizer, "answer", answer, add_special_tokens=False)
    if not ids or {*ids} & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}:
        raise InputError(f"answer {answer!r}: expected words, without special tokens")
    if tokenizer.unk_token_id in ids:
        read = " ".join(tokenizer.convert_ids_to_tokens(ids))
        raise InputError(f"answer {answer!r}: this model's vocabulary lacks a word of it (it reads {read!r})")
    if len(ids) > max_tokens:
        raise InputError(f"answer of {len(ids)} tokens ({answer[:60]!r}...): this model takes at most {max_tokens}")
    return ids


def answer_text(processor: Any, ids: Iterable[int]) -> str:
    """The text of answer tokens."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def answer_tokens(processor: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text at each position of the answer decoder's input: [DEC], then all but the last answer token."""
    return ("[DEC]", *processor.tokenizer.convert_ids_to_tokens(list(ids[:-1])))
