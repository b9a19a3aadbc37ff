"""How things show themselves in a notebook: small tables in HTML, every text in them escaped. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from nnblip.errors import visible


class Markup(str):
    """A text that is HTML already, made of what was escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML shows it: escaped, with what nobody would see as an escape of its own."""
    return value if isinstance(value, Markup) else Markup(escape(visible(value)))


def code(value: object) -> Markup:
    return Markup(f"<code>{text(value)}</code>")


def listed(values: Iterable[object], by: str = ", ") -> Markup:
    return Markup(text(by).join(map(text, values)))


def table(title: object, head: Sequence[object], rows: Iterable[Sequence[object]], note: object = "") -> str:
    """A title, a table with names over its columns, and a line below it."""
    names = "".join(_cell("th", name) for name in head)
    body = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in rows)
    below = f"<div>{text(note)}</div>" if note else ""
    over = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f"<div><div><b>{text(title)}</b></div><table>{over}<tbody>{body}</tbody></table>{below}</div>"


def _cell(tag: str, value: object) -> str:
    return f'<{tag} style="text-align: left; vertical-align: top">{text(value)}</{tag}>'


def facts(title: object, rows: Iterable[tuple[object, object]], note: object = "") -> str:
    """A title and a table of names and what they are."""
    return table(title, (), ((Markup(f"<b>{text(name)}</b>"), value) for name, value in rows), note)


def plain(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """The same as a text: `<title>`, then a line for each name."""
    lines = [f"  {name}: {visible(value)}" for name, value in rows]
    return "\n".join([f"<{visible(title)}>", *lines])


def number(value: float) -> str:
    """A probability as it is shown: four digits, or as many more as tell it from 0 and 1."""
    off = min(value, 1 - value)
    if 0 < off < 5e-5:
        return f"{value:.1e}" if off == value else f"{value:.{-math.floor(math.log10(off))}f}"
    return f"{value:.4f}"
