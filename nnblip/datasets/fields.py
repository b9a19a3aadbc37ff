"""Fields of a row, checked: texts and numbers as they should be, or an error that says what they are."""

from __future__ import annotations

import re
from typing import Any

from nnblip.datasets.json_bytes import HALF
from nnblip.errors import InputError


def text(value: Any, what: str) -> str:
    """`value` without spaces around it.

    Raises:
        InputError: if it is no text, has no characters, or is not valid Unicode.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} {value!r:.100}: expected a text that is not empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # bytes that were not UTF-8, or half a pair in JSON
            raise InputError(f"{what} {value!r:.100}: not UTF-8 text") from error
        _require_whole(value, what)
    return value.strip()


def number(value: Any, what: str) -> int:
    """A whole number of at least 0, from an int or its decimal digits.

    Raises:
        InputError: if it is another thing.
    """
    digits = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", digits):
        raise InputError(f"{what} {value!r:.100}: expected a whole number")
    return int(digits)


def name(value: Any, what: str) -> str:
    """A name that can be part of a file name: letters, digits, "_" and "-".

    Raises:
        InputError: if it is another thing (a path, for example).
    """
    if not isinstance(value, str | int) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", str(value)):
        raise InputError(f"{what} {value!r:.100}: expected letters, digits, '_' and '-'")
    return str(value)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Raises `InputError` if `value` is no dict, or a text anywhere in it is no text."""
    if not isinstance(value, dict):
        raise InputError(f"{what} {value!r:.100}: expected names with values, not {type(value).__name__}")
    _require_whole(value, what)
    return value


def _require_whole(value: Any, what: str) -> None:
    """Raises `InputError` for half of a surrogate pair in a text, or in one that a list or dict holds."""
    left = [(what, value)]
    while left:  # however deep they are nested
        where, one = left.pop()
        if isinstance(one, str):
            if HALF in one:
                raise InputError(f"{where} {one!r:.100}: half of a surrogate pair, which is no character")
        elif isinstance(one, dict):
            left += [(f"{what}: {key}", inner) for key, inner in one.items()]
        elif isinstance(one, list):
            left += [(where, inner) for inner in one]
