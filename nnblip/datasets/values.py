"""Values of fields that a selection asks for: what occurs nowhere is misspelt rather than rare."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from nnblip.errors import InputError, told
from nnblip.examples import Example

#: So many different values of a field are remembered for a message, and so many stand in it.
MOST, SHOWN = 1000, 10
TYPE = "question_type"


class Seen:
    """What was seen of some fields while rows went by.

    Args:
        wanted: of each field, the values that fit; `question_type` is a field too.
    """

    def __init__(self, wanted: Mapping[str, Collection[Any]]) -> None:
        self.wanted = wanted
        self.rows = 0
        self.fields: set[str] = set()
        self.values: dict[str, dict[Hashable, None]] = {name: {} for name in wanted}
        self.fitting: dict[str, list[Any]] = {name: [] for name in wanted}

    def fits(self, example: Example) -> bool:
        """Whether all fields of an example have a value that is wanted."""
        self.rows += 1
        self.fields |= {str(name) for name in example.extra}
        fitting = True
        for name, values in self.wanted.items():
            there = name == TYPE or name in example.extra
            value = example.question_type if name == TYPE else example.extra.get(name)
            if there and value is not None and isinstance(value, Hashable) and len(self.values[name]) < MOST:
                self.values[name][value] = None
            if there and value in values:
                if value not in self.fitting[name]:
                    self.fitting[name].append(value)
            else:
                fitting = False
        return fitting

    def require_found(self, where: str) -> None:
        """Once all rows went by: raise `InputError` for a field that none has, and a text that is nowhere in it."""
        for name, values in self.wanted.items() if self.rows else ():
            if name != TYPE and name not in self.fields:
                fields = sorted({TYPE, *self.fields})
                raise InputError(f"{where}: no example has a field {told(name)}{_hint(name, fields)}")
            several = () if isinstance(values, range) else values
            texts = [value for value in several if isinstance(value, str) and value not in self.fitting[name]]
            if texts or not self.fitting[name]:
                given = texts[0] if texts else next(iter(values)) if len(values) == 1 else values
                raise InputError(
                    f"{where}: none of {self.rows} examples has the {name} {told(given)}"
                    + _hint(str(given), list(self.values[name]))
                )


def _hint(given: str, there: list[Any]) -> str:
    """The nearest of what there is, and some of it."""
    texts = {str(one): one for one in there}
    near = [texts[one] for one in difflib.get_close_matches(given, texts, n=1, cutoff=0.5)]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    said = f" There is: {', '.join(map(told, there[:SHOWN]))}{more}." if there else " None has any."
    return (f"; did you mean {told(near[0])}?" if near else ".") + said
