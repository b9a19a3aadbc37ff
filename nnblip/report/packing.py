"""Numbers as the page holds them: whole numbers of the last digit that is shown, in typed arrays, zipped, as text.

What is shown is what is held, so a number on the page is the stored one rounded once, and nothing of it is left over
to be rounded again. Zipping takes bytes of one place together, as most of the upper ones are alike.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types by name, as page.js knows them, each with the whole number that stands for NaN. Of the last, floats, it is NaN.
TYPES: dict[str, tuple[type[np.generic], int]] = {
    "i1": (np.int8, -(2**7)),
    "i2": (np.int16, -(2**15)),
    "i4": (np.int32, -(2**31)),
}


def rounded(values: Any, digits: int) -> NDArray[np.float64]:
    """Values in units of the last digit that is shown, as whole numbers; NaN stays."""
    return np.rint(np.asarray(values, float) * 10.0**digits)


class Pack:
    """Arrays that are written one after the other, and what a reader must know of each."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, numbers: Any) -> list[Any]:
        """Append whole numbers (or NaN) and say where: [type, first byte, how many]."""
        numbers = np.ravel(np.asarray(numbers, float))
        known = numbers[~np.isnan(numbers)]
        most = float(np.abs(known).max(initial=0))
        fits = [name for name, (_, nothing) in TYPES.items() if most < -nothing]
        name = fits[0] if fits else "f8"
        if fits:
            dtype, nothing = TYPES[name]
            numbers = np.where(np.isnan(numbers), nothing, numbers).astype(dtype)
        data = numbers.astype(numbers.dtype.newbyteorder("<"))
        planes = np.ascontiguousarray(data.view(np.uint8).reshape(-1, data.itemsize).T).tobytes()
        place = [name, self._length, len(data)]
        self._parts.append(planes)
        self._length += len(planes)
        return place

    def text(self, said: Any) -> str:
        """All of it with what is said of it, as base64: a length (4 bytes), JSON, the arrays; zipped together."""
        head = json.dumps(said, allow_nan=False).encode()
        data = len(head).to_bytes(4, "little") + head + b"".join(self._parts)
        return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def plain(numbers: Any) -> Any:
    """Floats for JSON, None for NaN."""
    values = np.asarray(numbers, float)
    return np.where(np.isnan(values), None, values.astype(object)).tolist()
