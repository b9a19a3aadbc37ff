"""One family of errors: what was given, what was expected, what to do.

Bad input is a `ValueError` too, so that code that knows nothing of nnblip catches it.
"""

from __future__ import annotations

import difflib
import errno
import operator
import pickle
import struct
import sys
import unicodedata
import zlib
from collections.abc import Iterable

#: What the readers of others (Pillow's, zarr's codecs, pickle, the user's own functions) raise when they stumble over
#: what they are given. Not a name that is missing in our own code, nor a wish to stop.
STUMBLES = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    OSError, RuntimeError, SyntaxError, TypeError, ValueError, pickle.PickleError, struct.error, zlib.error,
)  # fmt: skip


def visible(text: object) -> str:
    """A text as it may be shown to people: what a terminal would obey, or nobody would see, as an escape like `\\x1b`.

    These are control characters, marks that turn the direction of writing, invisible ones and
    halves of surrogate pairs. Letters of all scripts, spaces and new lines stay as they are.
    Everything passes here that a message, a warning, a table or a figure takes from others.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(one if one.isprintable() or one == "\n" or _is_space(one) else _escaped(one) for one in said)


def one_line(text: object) -> str:
    """A text as `visible` has it, in a single line."""
    return " ".join(visible(text).split())


def reason(error: Exception, with_file: bool = True) -> str:
    """Why something cannot be written, and where another name would not help, what does."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: make room there (df and df -i say how much of bytes and files there is)"
    return str(error if with_file else getattr(error, "strerror", None) or error)


def told(value: object, most: int = 100) -> str:
    """What was given, as a message shows it: its `repr` in one line that is not long."""
    try:
        said = one_line(repr(value))
    except ValueError:  # Python writes no number of thousands of digits
        said = f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return said if len(said) <= most else f"{said[:most]}..."


def _is_space(one: str) -> bool:
    return unicodedata.category(one) == "Zs"


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode()


class NnblipError(Exception):
    """Something that nnblip cannot do; the message says what would be right."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(visible(one) if isinstance(one, str) else one for one in args))


class SettingError(NnblipError, ValueError):
    """An argument that cannot be used."""


class InputError(NnblipError, ValueError):
    """An image, question or answer that the model cannot read."""


class PlaceError(NnblipError, IndexError):
    """A place in a data set beyond its examples."""


class SiteError(NnblipError, ValueError):
    """A site, component or kind that the model does not have."""


class ModelError(NnblipError, ValueError):
    """A model that is not a BLIP for question answering, or that cannot be loaded."""


class ResultError(NnblipError, ValueError):
    """A result that lacks what is asked of it, or a stored one or output folder that cannot be read or written."""


class RemoteError(NnblipError):
    """A server that cannot be reached, has failed, or cannot run what was asked; the message says what to do."""


class NnblipWarning(UserWarning):
    """A number may not mean what it seems to; the message says why."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(visible(one) if isinstance(one, str) else one for one in args))


def one_of(given: object, allowed: Iterable[str], what: str, error: type[NnblipError] = SettingError) -> str:
    """`given` if it is one of `allowed`, else an error that suggests the nearest name."""
    names = list(allowed)
    if given in names:
        return str(given)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5) if isinstance(given, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise error(f"{what} {told(given)} is unknown{hint} Expected one of: {', '.join(names)}.")


def whole(
    value: object, what: str, least: int, error: type[NnblipError] = SettingError, where: str = "",
    most: int = sys.maxsize,
) -> int:  # fmt: skip
    """`value` as an int, if it is a whole number from `least` to `most` (NumPy's count too, bool does not)."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise error(f"{what} {told(value)}{where}: expected a whole number of at least {least}")
    if number > most:
        raise error(f"{what} {told(value)}{where}: expected a whole number of at most {most}")
    return number
