"""One question about one picture, as a user gives it: `Example`, and what may be its picture.

Knows NumPy and Pillow, not torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nnblip.errors import STUMBLES, InputError, told

#: Larger pictures are refused: this is 8192 x 6144, as the largest that phones take, and reading one fills the memory
#: by 0.3 to 1.2 GB, as its kind is.
MAX_PIXELS = 50_331_648
#: What is read of files. Pillow knows more, some of which it hands to other programs (Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

#: What may be given as a picture.
ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Callable[[], Any]


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
        other_question: another question of as many tokens, which the model answers differently, for noise
            "swap" at the question.
        extra: whatever else its data set says of it. Texts and numbers become coordinates of
            the result.
    """

    image: ImageLike
    question: str
    answer: str | None = None
    question_type: str | None = None
    id: str | None = None
    partner: ImageLike | None = None
    other_question: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: ExampleLike) -> Example:
        """An `Example` from (image, question), (image, question, answer), a mapping or a record.

        Raises:
            InputError: if it is none of these, or its id, type or extra fields cannot be in a result.
        """
        found = cls._made_of(given)
        for what in ("id", "question_type"):
            _check_label(getattr(found, what), what)
        if not isinstance(found.extra, Mapping):
            raise InputError(f"extra {found.extra!r:.100}: expected names with values, such as {{'scene': 3}}")
        return found

    @classmethod
    def _made_of(cls, given: ExampleLike) -> Example:
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


def _check_label(label: object, what: str) -> None:
    if label is None or (isinstance(label, int) and not isinstance(label, bool)):
        return
    if not isinstance(label, str):
        raise InputError(f"{what} {label!r:.100}: expected a text")
    try:
        label.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which no file takes
        raise InputError(f"{what} {label!r:.100}: not UTF-8 text") from error


class Record(Protocol):
    """An example of a data set's own class: anything with an image and a question."""

    @property
    def image(self) -> Any: ...

    @property
    def question(self) -> str: ...


#: What may be given as an example.
ExampleLike: TypeAlias = (
    Example | tuple[ImageLike, str] | tuple[ImageLike, str, str | None] | Mapping[str, Any] | Record
)


def load_image(image: ImageLike) -> Image.Image:
    """A path, PIL image or array as an RGB picture, turned upright by its EXIF tag.

    Args:
        image: a path; a PIL image; an array (height, width), (height, width, 3) or
            (height, width, 4), uint8 or float in [0, 1]; or a function that gives one of these.
            Files may be PNG, JPEG, WebP, GIF (the first picture), BMP, TIFF or PPM.

    Raises:
        InputError: for a missing, truncated, empty, non-image or absurdly large file, one of
            another format, or an array of another shape or range.
    """
    if callable(image):
        image = image()
    is_path = isinstance(image, str | Path)
    name = f"image {told(str(image), 200)}" if is_path else f"the {type(image).__name__} given as image"
    if isinstance(image, np.ndarray):
        return _upright(_from_array(image), name)
    if isinstance(image, Image.Image):
        if getattr(image, "tile", None) and image.format not in (*FORMATS, "MPO"):  # a file that is not decoded yet
            raise InputError(f"{name}: a file of format {image.format}, expected {_spoken(FORMATS)}")
        return _upright(image, name)
    if not isinstance(image, str | Path):
        raise InputError(f"{name}: expected a path, a PIL image or an array")
    path = Path(image)
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # a name that cannot be one: too long, or with a zero in it
        size = None
    if size is None:
        raise InputError(f"{name}: there is no such file")
    if size == 0:
        raise InputError(f"{name}: the file is empty")
    with open_image(path, name) as opened:
        return _upright(opened, name)


def open_image(file: Any, name: str) -> Image.Image:
    """A PIL image of a file or stream, not decoded yet.

    Raises:
        InputError: if it is not one of `FORMATS`, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large, more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image, expected {_spoken(FORMATS)}") from error
    except STUMBLES as error:  # Pillow's readers raise whatever they stumble on
        raise InputError(f"{name}: not an image that Pillow can read ({error})") from error


def _spoken(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _upright(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width * height:
        raise InputError(f"{name}: it has no pixels ({width} x {height})")
    _require_size(width, height, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except (Image.DecompressionBombError, *STUMBLES) as error:  # Pillow's decoders raise whatever they stumble on
        raise InputError(f"{name}: damaged, it cannot be decoded ({error})") from error


def _require_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width} x {height} is too large, at most {MAX_PIXELS:,} pixels")


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
    _require_size(array.shape[1], array.shape[0], "image array")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"image array of {array.dtype}: expected uint8, or float in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(f"image array of {array.dtype} with values {low:g} to {high:g}: expected [0, 1], or uint8")
    return Image.fromarray((array * 255).round().astype(np.uint8))
