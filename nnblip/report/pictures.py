"""The pictures of the examples, small enough to be on the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from nnblip.errors import InputError, SettingError, told
from nnblip.examples import ImageLike, load_image

#: Pixels of the longer side: the first at which all pictures together take no more than so many characters.
SIDES = (512, 384, 256, 192)
MOST = 3_000_000


def given(images: Any, examples: list[str], paths: list[str]) -> list[ImageLike | None]:
    """The picture of each example: of those given, else the path that the result has.

    Args:
        images: pictures by the names of examples, or in their order, or of one example the picture itself; None for the
            paths of the result.
        examples: their names.
        paths: what the result says, "" for nothing.

    Raises:
        SettingError: if there are not as many as examples, or a name is none of theirs.
    """
    own: list[ImageLike | None] = [path or None for path in paths]
    if images is None:
        return own
    if isinstance(images, Mapping):
        if unknown := [name for name in images if str(name) not in examples]:
            raise SettingError(f"images: {told(unknown[0])} is no example of the result, as {told(examples[0])} is.")
        known = {str(name): image for name, image in images.items()}
        return [known.get(name, path) for name, path in zip(examples, own, strict=True)]
    single = not isinstance(images, Sequence) or isinstance(images, str) or callable(images)
    found = [images] if single or isinstance(images, np.ndarray) else list(images)
    if len(found) != len(examples):
        raise SettingError(
            f"images: {len(found)} given of {len(examples)} examples; give them in the order of the result, or as"
            " {example: picture}."
        )
    return found


def embedded(pictures: Sequence[ImageLike | None], is_given: Callable[[int], bool]) -> tuple[list[str], list[str]]:
    """WebP pictures as base64, "" where there is none; and why there is none.

    Raises:
        InputError: if a picture that was given cannot be read; of a path of the result it is said instead.
    """
    loaded: list[Image.Image | None] = []
    reasons = []
    for number, picture in enumerate(pictures):
        reason = "" if picture is not None else "the result does not say where its picture is"
        image = None
        if picture is not None:
            try:
                image = load_image(picture)
                image.thumbnail((SIDES[0], SIDES[0]))
            except InputError as error:
                if is_given(number):
                    raise
                reason = str(error)
        loaded.append(image)
        reasons.append(reason)
    for side in SIDES:
        texts = [_webp(image, side) for image in loaded]
        if sum(map(len, texts)) <= MOST:
            break
    return texts, reasons


def _webp(image: Image.Image | None, side: int) -> str:
    if image is None:
        return ""
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return base64.b64encode(file.getvalue()).decode()
