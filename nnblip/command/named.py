"""Cells and knock-outs by name, as the command takes them: NAME, NAME:VALUE or NAME:VALUE,ARGUMENT=VALUE,...

The names are those of the functions in Python, and so are their arguments: `windows:3,kind=attention` is
`nnblip.sites.windows(3, kind="attention")`. Several values are joined by "+", as in `layers=0+1`, a grid is `4x4`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from nnblip import sites
from nnblip.edges import EDGES, KnockOut, knock_out
from nnblip.errors import SiteError, one_of, told

#: Families that are said with texts and numbers alone; `pairs` takes sites, and so a program.
FAMILIES: Mapping[str, Callable[..., Any]] = {
    family.__name__: family
    for family in (sites.windows, sites.all_tokens, sites.token_across_layers, sites.knock_outs, sites.edges)
}


def family(text: str) -> sites.Family:
    """A family of cells, such as `windows:3` or `knock_outs:image_to_question,sources=4,widths=3`.

    Raises:
        SiteError: for another family or argument (the nearest is suggested), or a value that it does not take.
    """
    name, _, given = text.partition(":")
    return _called(FAMILIES[one_of(name, FAMILIES, "cells", SiteError)], given, text)


def cut(text: str) -> KnockOut:
    """A knock-out of whole runs, such as `image_to_question:layers=0+1`. Raises as `family` does."""
    name, _, given = text.partition(":")
    return _called(knock_out, f"{one_of(name, EDGES, 'edges', SiteError)},{given}".rstrip(","), text)


def _called(function: Callable[..., Any], given: str, text: str) -> Any:
    """What a function makes of its arguments as a text: the first may stand without its name."""
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    values: dict[str, Any] = {}
    for number, part in enumerate(given.split(",") if given else []):
        name, is_named, value = part.partition("=")
        if not is_named:
            if number:
                raise SiteError(f"{told(text)}: {told(part)} has no name; expected one, such as {names[1]}={part}")
            name, value = names[0], part
        one_of(name, names, f"argument of {function.__name__}", SiteError)
        if name in values:
            raise SiteError(f"{told(text)}: {name} is given twice")
        values[name] = _value(value)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in values:
            raise SiteError(f"{told(text)}: expected its {name}, as in {text}:{name}=...")
    return function(**values)


def _value(text: str) -> Any:
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+x\d+", text):
        return tuple(int(part) for part in text.split("x"))
    if "+" in text:
        return tuple(_value(part) for part in text.split("+"))
    return text
