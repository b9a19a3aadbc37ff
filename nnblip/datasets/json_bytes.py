"""What a JSON parser must not be given: brackets nested absurdly deep, and halves of surrogate pairs.

Both are wrapped around a file opened for reading bytes, and are read as it is.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

#: Stands for half of a surrogate pair, which is no character: neither is U+FFFE, and it can be told of.
HALF = "\ufffe"


class Shallow:
    """A file of JSON whose brackets do not nest absurdly deep: ijson's memory grows with the depth squared.

    Brackets in texts count too, which is far from the limit as long as most are closed again.
    """

    LIMIT = 1000

    def __init__(self, file: Any) -> None:
        self.file = file
        self.depth = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        signs = np.frombuffer(data, np.uint8)
        depth = self.depth + np.cumsum(np.isin(signs, _OPEN).astype(int) - np.isin(signs, _CLOSE))
        if depth.size:
            self.depth = int(depth[-1])
            if depth.max() > self.LIMIT:
                raise ValueError(f"more than {self.LIMIT} brackets within each other")
        return data


class Pairs:
    """A file of JSON in which half of a surrogate pair, such as `\\ud83d` alone, is marked by `HALF`.

    ijson's parser would give a question mark for the first half alone, which nobody would see, and stop at the second.
    `fields` refuses what is marked, row by row.
    """

    #: A cut before one of these cuts no escape and no pair.
    BETWEEN = b", \n}]"
    #: What has none of them for so long is no text that people have written; it is passed on as it is.
    LONGEST = 2**20

    def __init__(self, file: Any) -> None:
        self.file = file
        self.kept = b""

    def read(self, size: int = -1) -> bytes:
        while True:
            new: bytes = self.file.read(size)
            data, self.kept = self.kept + new, b""
            if new and b"\\" in data[-11:]:  # an escape, or the first half of a pair, may go on in what comes next
                cut = max(0, *(data.rfind(one) for one in self.BETWEEN))
                if cut or len(data) < self.LONGEST:
                    data, self.kept = data[:cut], data[cut:]
            if data or not new:
                return _ESCAPES.sub(_marked, data) if b"\\u" in data else data


#: A whole pair, half of one, or any other escape (so that `\\\\ud83d` is seen as a backslash and letters).
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.", re.DOTALL
)
_OPEN, _CLOSE = list(b"[{"), list(b"]}")


def _marked(found: re.Match[bytes]) -> bytes:
    return b"\\ufffe" if len(found[0]) == 6 else found[0]
