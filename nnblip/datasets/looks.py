"""How a data set shows itself in a notebook: its first rows, with small pictures."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nnblip.errors import NnblipError
from nnblip.examples import Example, load_image
from nnblip.shown import Markup, table

ROWS = 10
#: Pixels of the longer side of a picture in the table.
SIDE = 56
OWN = "(the model's own)"


def as_html(title: str, examples: Iterator[Example]) -> str:
    """The first examples, as far as they have to be read for it."""
    head = ("", "id", "picture", "question", "answer", "question_type", "more")
    try:
        some = list(itertools.islice(examples, ROWS + 1))
    except NnblipError as error:
        return table(title, ("cannot be read",), [(error,)])
    rows = [
        (
            number, one.id, _picture(one.image), one.question, one.answer or OWN, one.question_type or "",
            ", ".join(f"{name}={value}" for name, value in one.extra.items()),
        )
        for number, one in enumerate(some[:ROWS])
    ]  # fmt: skip
    note = f"The first {ROWS}; len(dataset) counts all, dataset[{ROWS}:{2 * ROWS}] are the next." if some[ROWS:] else ""
    return table(title, head, rows, note)


def _picture(image: Any) -> str:
    """A small picture of what is here already; what a function makes or fetches stays unmade."""
    if not isinstance(image, str | Path | Image.Image | np.ndarray):
        return "made when it is needed"
    try:
        small = load_image(image)
    except NnblipError as error:
        return str(error)
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return Markup(f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">')
