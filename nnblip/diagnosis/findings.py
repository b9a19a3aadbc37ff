"""What a diagnosis says: findings, the registry's form of a check, and the text and JSON of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, overload

import xarray as xr

from nnblip.diagnosis.look import Look
from nnblip.errors import ResultError, one_line, one_of
from nnblip.shown import table

#: A note is true and worth knowing, and the numbers stand; of a warning, some should not be relied on before what it
#: says is done; where one is severe, there is nothing in the numbers that it is about.
LEVELS = ("note", "warning", "severe")
#: So many of the cells or examples concerned stand in a finding's line.
SHOWN = 4
#: The attribute of a stored result that has the findings of when it was written.
ATTRIBUTE = "findings"


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against some numbers of a result, or that one must know to read them.

    Attributes:
        name: of the check, such as "weak corruption".
        level: "note", "warning" or "severe".
        measured: what was measured.
        limit: what it was held against.
        where: the cells, examples or ν concerned, all of them.
        why: why it matters.
        reference: who says so.
        remedy: what to try.
    """

    name: str
    level: str
    measured: str
    limit: str
    where: tuple[str, ...] = ()
    why: str = ""
    reference: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """In one line, without the reason."""
        some = _some(self.where)
        concerned = f" [{some}]" if some else ""
        against = f"; expected {self.limit}" if self.limit else ""
        return one_line(f"{self.level}: {self.name}: {self.measured}{against}{concerned}. {self.remedy}")


def _some(where: Sequence[str]) -> str:
    """The first of the cells or examples concerned, and how many more there are."""
    more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
    return ", ".join(where[:SHOWN]) + more


class Findings(Sequence[Finding]):
    """Findings, the gravest first: a list to go through, a text with a line for each, and JSON to keep."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._findings = tuple(sorted(findings, key=lambda one: -LEVELS.index(one.level)))

    @overload
    def __getitem__(self, place: int) -> Finding: ...
    @overload
    def __getitem__(self, place: slice) -> Findings: ...
    def __getitem__(self, place: int | slice) -> Finding | Findings:
        return Findings(self._findings[place]) if isinstance(place, slice) else self._findings[place]

    def __len__(self) -> int:
        return len(self._findings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Findings) and self._findings == other._findings

    def __hash__(self) -> int:
        return hash(self._findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing found"

    def __repr__(self) -> str:
        return f"<{self._title()}>\n{self}"

    def _repr_html_(self) -> str:
        rows = [(one.level, one.name, one.measured, one.limit, _some(one.where), one.remedy) for one in self]
        head = ("level", "finding", "measured", "expected", "where", "what to try")
        return table(self._title(), head if rows else (), rows or [("nothing found",)])

    def _title(self) -> str:
        counts = Counter(one.level for one in self)
        return f"Findings: {', '.join(f'{counts[level]} {level}' for level in reversed(LEVELS))}"

    @property
    def names(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys(one.name for one in self))

    def at_least(self, level: str) -> Findings:
        """Those of this level and graver. Raises `SettingError` for a level that is none."""
        least = LEVELS.index(one_of(level, LEVELS, "level"))
        return Findings(one for one in self if LEVELS.index(one.level) >= least)

    def to_json(self) -> str:
        """All of it, in ASCII."""
        return json.dumps([asdict(one) for one in self])

    @classmethod
    def from_json(cls, text: str) -> Findings:
        """What `to_json` wrote. Raises `ResultError` for anything else."""
        try:
            rows = json.loads(text)
            found = [Finding(**{**row, "where": tuple(row["where"])}) for row in rows]
            return cls(found)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ResultError(f"these are no findings as `to_json` writes them: {error}") from error

    @classmethod
    def stored_in(cls, tree: xr.DataTree) -> Findings | None:
        """What `nnblip trace` found when it wrote a result, of all that it wrote; None of a result without."""
        text = tree.attrs.get(ATTRIBUTE)
        return None if text is None else cls.from_json(str(text))


class Seen(NamedTuple):
    """What a check sees in one result: the part of a finding that differs."""

    level: str
    measured: str
    limit: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One kind of finding.

    Attributes:
        function: what looks for it.
        name, why, reference, remedy: as of a `Finding`.
        limits: all that it holds results against, and at which level.
    """

    function: Callable[[Look], Iterator[Seen]]
    name: str
    limits: str
    why: str
    reference: str
    remedy: str

    def __call__(self, look: Look) -> Iterator[Finding]:
        for level, measured, limit, where in self.function(look):
            yield Finding(self.name, level, measured, limit, where, self.why, self.reference, self.remedy)


def check(name: str, **said: str) -> Callable[[Callable[[Look], Iterator[Seen]]], Check]:
    """Make a check of a function; what it says beside the numbers stands above it."""

    def made(function: Callable[[Look], Iterator[Seen]]) -> Check:
        return Check(function, name, **said)

    return made
