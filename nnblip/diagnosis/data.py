"""Are there enough draws and examples for what is asked of them, and do all have numbers?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import PROBABILITY, Look
from nnblip.effects import draws_needed, examples_needed
from nnblip.effects.intervals import MIN_DRAWS, MIN_EXAMPLES
from nnblip.effects.reading import restored_names
from nnblip.passes.reliability import LEAST_DRAWS

#: The fewest draws that planning takes for a pilot, and the fewest examples.
PILOT_DRAWS, PILOT_EXAMPLES = 3, 2


@check(
    "too few draws or examples",
    limits=f"{MIN_DRAWS} draws of an example or {MIN_EXAMPLES} examples, below which no interval holds; or as"
    " many as the"
    " width asked for needs",
    why="Effects are skewed: of a few draws or examples nobody can say how far their mean may be off.",
    reference="`effects.interval`, `effects.draws_needed`, `effects.examples_needed`",
    remedy='Take more of them; `draws="auto"` goes on until the maps are reliable.',
)
def too_few(look: Look) -> Iterator[Seen]:
    examples = int((look.draws > 0).sum())
    few = (look.draws > 0) & (look.draws < MIN_DRAWS)
    if look.varied and few.any():
        least = int(look.draws[few].min())
        alone = examples < MIN_EXAMPLES
        if alone or least < LEAST_DRAWS:
            said = f"{least} draws" if least > 1 else "1 draw"
            where = tuple(look.examples[k] for k in np.flatnonzero(few))
            level = "warning" if alone else "note"
            yield Seen(level, f"{said} of a noise that differs from draw to draw", f"at least {MIN_DRAWS}", where)
    if 1 < examples < MIN_EXAMPLES:
        yield Seen("note", f"{examples} examples, whose mean has no interval", f"at least {MIN_EXAMPLES}")
    if look.width is not None and restored_names(look.tree):
        yield from _for_width(look, look.width, examples)


def _for_width(look: Look, width: float, examples: int) -> Iterator[Seen]:
    if examples >= PILOT_EXAMPLES:
        needed, have, unit = examples_needed(look.tree, width), np.array([examples]), "examples"
    elif look.varied and look.draws.max(initial=0) >= PILOT_DRAWS:
        needed, have, unit = draws_needed(look.tree, width), look.draws[look.draws > 0], "draws"
    else:
        few = f"{examples} example and {look.draws.max(initial=0)} draws" if look.varied else ""
        if few:
            said = f"{few} tell nothing about the width of intervals"
            yield Seen("warning", said, f"at least {PILOT_DRAWS} draws")
        return
    for one in look.maps:
        found = needed[one.node].to_dataset()[unit]
        found = found.sel(kind=one.kind) if "kind" in found.dims else found
        inner = [dim for dim in ("layer", "head", "token", "cell") if dim in found.dims]
        outer = [dim for dim in found.dims if dim not in inner]
        counts = found.transpose(*outer, *inner).values.reshape(-1, len(one.labels))
        counts = np.where(one.structural.all(0), np.nan, counts)
        more = counts > have.min()
        if more.any():
            most = int(np.nanmax(counts))
            where = tuple(one.labels[k] for k in np.flatnonzero(more.any(0)))
            said = f"{one}: {have.min()} {unit} for intervals of width {width:g}"
            yield Seen("warning", said, f"{most} {unit}", where)


@check(
    "examples without numbers",
    limits="numbers of every example",
    why="Means leave them out, and are of the others.",
    reference="the coordinates `status` and `error` of a sweep",
    remedy="Let the sweep finish, or try them again (`--retry-failed`).",
)
def unfinished(look: Look) -> Iterator[Seen]:
    none = np.isnan(look.clean[PROBABILITY]) | np.isnan(look.total[PROBABILITY]).all((1, 2))
    if none.any():
        where = tuple(look.examples[k] for k in np.flatnonzero(none))
        yield Seen("note", f"{none.sum()} of {len(none)} examples have none", "numbers of all", where)
