"""Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(*rows: Sequence[str]) -> str:
    """A table; the first row is its head. What would part a cell does not."""
    head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
