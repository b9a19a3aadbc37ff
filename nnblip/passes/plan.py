"""Cells become births and writes, in the order in which the model runs. Plain Python.

A plan lets one pass compute many cells. The pass starts with one corrupted row. At the
*birth point* of a cell a new row is appended, a copy of the corrupted row, so that a
row never recomputes what comes before its own first state; at each site of the cell the
row's state is overwritten by its clean value. Row 0 stays the corrupted run itself.

A state of the stream (`block_input`, `attention`, `crossattention`, `block`) is born where it
is written. What a sublayer or a part of it adds (`attention_out`, `mlp_activation`, ...) is born
one state of the stream earlier: the residual that it is added to must have the new row too.

An edge's row is born as one that restores what its receiver adds; a knock-out's where the first sublayer
begins that it cuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from nnblip.edges import EDGES, KnockOut
from nnblip.errors import whole
from nnblip.paths import Connection, Edge
from nnblip.states import COMPONENTS, KINDS, TEXT_COMPONENTS, Cell, Site

INPUT = "input"


class Point(NamedTuple):
    """A place in the forward pass: a state (of all tokens) of one layer, or what a component's first layer reads."""

    component: str
    kind: str
    layer: int


@dataclass
class Step:
    """What happens at a point: `births` rows are appended, then states are overwritten.

    Attributes:
        births: how many rows are born.
        rows, tokens, heads: where states are written; heads only where the kind has them.
        cuts: at the heads of a sublayer, rows that read without some edges.
    """

    births: int = 0
    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    cuts: list[tuple[int, KnockOut]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """One pass: its steps by point, and for each row the index of its cell (None: a corrupted row)."""

    steps: dict[Point, Step]
    cells: tuple[int | None, ...]

    @property
    def rows(self) -> int:
        return len(self.cells)

    def born_in(self, component: str) -> int:
        """How many rows."""
        return sum(step.births for point, step in self.steps.items() if point.component == component)


def points(layers: int, image_layers: int = 0) -> Iterator[Point]:
    """Every point of a pass, in the order in which the model reaches it."""
    for layer in range(image_layers):
        yield Point("image_encoder", "block", layer)
    for component in TEXT_COMPONENTS:
        yield Point(component, INPUT, 0)
        for layer in range(layers):
            for kind in KINDS:
                yield Point(component, kind, layer)


def birth_point(site: Site) -> Point:
    """Where the row of a cell whose first site is this one must be born."""
    match site.kind:
        case "attention_head" | "attention_value_output" | "attention_out":
            return Point(site.component, "block_input", site.layer)
        case "crossattention_head" | "crossattention_out":
            return Point(site.component, "attention", site.layer)
        case "mlp_activation" | "mlp_out":
            return Point(site.component, "crossattention", site.layer)
    return Point(site.component, site.kind, site.layer)


def make_plans(
    cells: Sequence[Cell | Connection],
    layers: int,
    max_rows: int | Mapping[str, Fraction] | None = None,
    least: Mapping[str, int] | None = None,
) -> list[Plan]:
    """Plans that compute every cell, each of at most `max_rows` rows (the corrupted row counts).

    Cells are taken in the order of their birth, so that a plan's rows share as much of
    the pass as they can.

    Args:
        cells: what to compute.
        layers: how many there are in a text component.
        max_rows: bound on the rows of a pass; by component, how many rows born there would fill it, where a row of one
            takes more than a row of another; None for no bound.
        least: by component, how many rows it must see at least; further copies of the
            corrupted row make them up, whatever `max_rows` says.

    Raises:
        NnblipError: if `max_rows` leaves no room for a cell.
    """
    image_layers = max(
        (site.layer + 1 for cell in cells for site in written(cell) if site.component == "image_encoder"), default=0
    )
    order = {point: number for number, point in enumerate(points(layers, image_layers))}
    born = [min(map(birth_point, first_states(cell, layers)), key=order.__getitem__) for cell in cells]
    queue = sorted(range(len(cells)), key=lambda index: order[born[index]])
    share = shares(max_rows)
    base = share["image_encoder" if image_layers else "question_encoder"]
    chunks: list[list[int]] = [[]]
    taken = base
    for index in queue:
        row = share[born[index].component]
        if chunks[-1] and taken + row > 1:
            chunks.append([])
            taken = base
        chunks[-1].append(index)
        taken += row
    return [_plan(chunk, cells, born, least or {}, layers) for chunk in chunks]


def shares(max_rows: int | Mapping[str, Fraction] | None) -> dict[str, Fraction]:
    """Which part of a pass a row takes, by the component in which it is born. Raises as `make_plans` does."""
    if max_rows is None:
        return dict.fromkeys(COMPONENTS, Fraction(0))
    if isinstance(max_rows, Mapping):
        return {component: 1 / rows for component, rows in max_rows.items()}
    return dict.fromkeys(COMPONENTS, Fraction(1, whole(max_rows, "max_rows", 2)))


def written(cell: Cell | Connection) -> Cell:
    """The states that a cell's row gets: of an edge what its receiver adds, of a knock-out none."""
    if isinstance(cell, KnockOut):
        return ()
    return (cell.lands,) if isinstance(cell, Edge) else cell


def first_states(cell: Cell | Connection, layers: int) -> Iterable[Site]:
    """States of which the earliest is the first in which a cell's row differs from its base."""
    if not isinstance(cell, KnockOut):
        return written(cell)
    component, sublayer = EDGES[cell.edges]
    return [Site(component, f"{sublayer}_head", min(cell.layers or range(layers)), 0, 0)]


def _plan(
    chunk: list[int], cells: Sequence[Cell | Connection], born: Sequence[Point], least: Mapping[str, int], layers: int
) -> Plan:
    steps: dict[Point, Step] = {}
    rows: list[int | None] = [None]
    for component in COMPONENTS:
        if lacking := max(0, least.get(component, 1) - len(rows)):
            steps[Point(component, INPUT, 0)] = Step(births=lacking)
            rows += [None] * lacking
        for index in chunk:
            if born[index].component == component:
                steps.setdefault(born[index], Step()).births += 1
                _write(steps, written(cells[index]), len(rows))
                _cut(steps, cells[index], len(rows), layers)
                rows.append(index)
    return Plan(steps, tuple(rows))


def _cut(steps: dict[Point, Step], cell: Cell | Connection, row: int, layers: int) -> None:
    if isinstance(cell, KnockOut):
        component, sublayer = EDGES[cell.edges]
        for layer in cell.layers or range(layers):
            steps.setdefault(Point(component, f"{sublayer}_head", layer), Step()).cuts.append((row, cell))


def restore_in_place(cell: Cell) -> Plan:
    """A plan with no births: the one row of the pass itself is restored."""
    steps: dict[Point, Step] = {}
    _write(steps, cell, 0)
    return Plan(steps, (None,))


def _write(steps: dict[Point, Step], cell: Cell, row: int) -> None:
    for site in cell:
        step = steps.setdefault(Point(site.component, site.kind, site.layer), Step())
        step.rows.append(row)
        step.tokens.append(site.token)
        if site.head is not None:
            step.heads.append(site.head)
