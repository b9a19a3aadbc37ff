"""A result as the page holds it: an index that is read at once, and a text for each sheet that is read when chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnblip.errors import visible
from nnblip.report.numbers import Map, Sheet, Sure
from nnblip.report.packing import Pack, plain, rounded
from nnblip.results import VARIABLES

#: Digits after the point, of numbers by each variable and of shares of them.
DIGITS = dict(zip(VARIABLES, (4, 3, 3), strict=True))
SHARES = 3
UNITS = dict(zip(VARIABLES, ("", "nats", "logits"), strict=True))


class Marks:
    """Why a cell has no interval, by number; the first two are of those that have one."""

    def __init__(self) -> None:
        self.texts = ["interval without 0", "interval includes 0"]

    def of(self, sure: Sure) -> NDArray[np.intp]:
        for reason in np.unique(sure.reason.astype(str)).tolist():
            if reason and reason not in self.texts:
                self.texts.append(reason)
        number = {text: place for place, text in enumerate(self.texts)}
        found = np.array([number.get(reason, 0) for reason in np.ravel(sure.reason).tolist()], np.intp)
        includes = np.ravel((sure.low <= 0) & (sure.high >= 0))
        return np.where((found == 0) & includes, 1, found)


@dataclass(frozen=True)
class Held:
    """A sheet as texts.

    Attributes:
        means: what is always there.
        units: for each variable the numbers of its draws, or examples.
    """

    means: str
    units: dict[str, str]


def held(sheet: Sheet, noising: bool, marks: Marks) -> Held:
    """All numbers of a sheet.

    Restored runs follow from effects but for rounding, so what is held of them is the difference, mostly 0.
    """
    pack = Pack()
    said: dict[str, Any] = {"units": [visible(name) for name in sheet.units], "numbers": {}, "maps": {}}
    for variable, digits in DIGITS.items():
        said["numbers"][variable] = {
            "clean": pack.add(rounded(np.nanmean(sheet.clean[variable]), digits)),
            "corrupted": pack.add(rounded(_mean(sheet.corrupted[variable]), digits)),
            "total": _sure(pack, sheet.total[variable], digits, marks),
        }
    for name, map_ in sheet.maps.items():
        said["maps"][name] = _map(pack, sheet, map_, noising, marks)
    return Held(pack.text(said), {variable: _units(sheet, variable, noising) for variable in VARIABLES})


def _map(pack: Pack, sheet: Sheet, map_: Map, noising: bool, marks: Marks) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kinds": map_.kinds,
        "layers": map_.layers,
        "rows": [visible(text) for text in map_.rows],
        "roles": [visible(text) for text in map_.roles],
        "grid": map_.grid,
        "structural": pack.add(map_.structural),
        "gamma": _sure(pack, map_.gamma, SHARES, marks),
        "effect": {}, "relevance": {}, "restored": {},
    }  # fmt: skip
    for variable, digits in DIGITS.items():
        effect = map_.effect[variable]
        found["effect"][variable] = _sure(pack, effect, digits, marks)
        found["relevance"][variable] = _sure(pack, map_.relevance[variable], SHARES, marks)
        ends = (np.nanmean(sheet.clean[variable], keepdims=True), _mean(sheet.corrupted[variable]))
        left = _left(map_.restored[variable], effect.value, ends, noising, digits)
        found["restored"][variable] = pack.add(left)
    return found


def _units(sheet: Sheet, variable: str, noising: bool) -> str:
    pack, digits = Pack(), DIGITS[variable]
    clean, corrupted = sheet.clean[variable][:, None], sheet.corrupted[variable]
    said: dict[str, Any] = {
        "clean": pack.add(rounded(clean, digits)),
        "corrupted": pack.add(rounded(corrupted, digits)),
    }
    said["maps"] = {
        name: {
            "effect": pack.add(rounded(map_.effects[variable], digits)),
            "restored": pack.add(
                _left(map_.runs[variable], map_.effects[variable], (clean, corrupted), noising, digits)
            ),
        }
        for name, map_ in sheet.maps.items()
    }
    return pack.text(said)


def _left(restored: Any, effect: Any, ends: tuple[Any, Any], noising: bool, digits: int) -> NDArray[np.float64]:
    """What is left of restored runs after what is known: the corrupted run + effect, or the clean run − effect."""
    end = rounded(ends[0 if noising else 1], digits)
    end = end.reshape(*end.shape, *[1] * (np.ndim(restored) - end.ndim))
    moved = rounded(effect, digits)
    return rounded(restored, digits) - (end - moved if noising else end + moved)


def _sure(pack: Pack, sure: Sure, digits: int, marks: Marks) -> dict[str, Any]:
    found = {part: pack.add(rounded(getattr(sure, part), digits)) for part in ("value", "low", "high")}
    return found | {"mark": pack.add(marks.of(sure))}


def _mean(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    from nnblip.effects.numbers import mean_known

    return mean_known(numbers, 0)


def effects_of(sheets: Iterable[Sheet]) -> list[Any]:
    """The total effect of each sheet at every ν, to sort by."""
    return [plain(sheet.total[VARIABLES[0]].value) for sheet in sheets]
