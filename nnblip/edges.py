"""Knock-outs: attention edges that are cut in some layers. Plain Python and NumPy.

Attention knockout after Geva et al. 2023 (2304.14767): before the softmax the scores of
the cut edges become minus infinity, so that the weights of the others sum to one. A token
that has nothing left to read reads zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnblip.errors import SiteError, one_of, whole
from nnblip.sites import Extent

#: From where to where attention moves information: component and sublayer of the reader.
EDGES = {
    "image_to_question": ("question_encoder", "crossattention"),
    "question_to_question": ("question_encoder", "attention"),
    "question_to_answer": ("answer_decoder", "crossattention"),
    "answer_to_answer": ("answer_decoder", "attention"),
}
_SOURCES = {
    "image_to_question": "image_encoder",
    "question_to_question": "question_encoder",
    "question_to_answer": "question_encoder",
    "answer_to_answer": "answer_decoder",
}

#: By (component, sublayer, layer): True where the reading token (row) may not read the other (column).
Cuts = dict[tuple[str, str, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class KnockOut:
    """Cut edges, as `knock_out` makes them; None stands for all."""

    edges: str
    layers: tuple[int, ...] | None = None
    source: tuple[int, ...] | None = None
    target: tuple[int, ...] | None = None

    def __str__(self) -> str:
        parts = [
            f" {name} {','.join(map(str, value))}"
            for name in ("layers", "source", "target")
            if (value := getattr(self, name)) is not None
        ]
        return self.edges + "".join(parts)


def knock_out(
    edges: str,
    layers: int | Iterable[int] | None = None,
    source: int | Iterable[int] | None = None,
    target: int | Iterable[int] | None = None,
) -> KnockOut:
    """Attention edges to cut.

    Args:
        edges: "image_to_question", "question_to_question", "question_to_answer" or
            "answer_to_answer".
        layers: in which layers of the reading component; all if None.
        source: tokens that are not read (patches counted from 1, 0 is [CLS]); all if None.
        target: tokens that do not read them; all if None.

    Raises:
        SiteError: for unknown edges, or a layer or token that is no whole number of at least 0.
    """
    one_of(edges, EDGES, "edges", SiteError)
    return KnockOut(
        edges, _several(layers, "layer", edges), _several(source, "source", edges), _several(target, "target", edges)
    )


def _several(given: Any, what: str, edges: str) -> tuple[int, ...] | None:
    if given is None:
        return None
    values = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not values:
        raise SiteError(f"{what} of {edges}: expected at least one, or None for all")
    return tuple(sorted({whole(value, what, 0, SiteError, f" of {edges}") for value in values}))


#: What may be given as knock-outs: one or several.
KnockOutLike = KnockOut | Iterable[KnockOut]


def as_knock_outs(given: KnockOutLike) -> tuple[KnockOut, ...]:
    """One knock-out or several. Raises `SiteError` for anything else."""
    several = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    for one in several:
        if not isinstance(one, KnockOut):
            raise SiteError(f"knock_out {one!r}: expected nnblip.knock_out({', '.join(map(repr, EDGES))}, ...)")
    return several


def cuts(knock_outs: Sequence[KnockOut], extent: Extent) -> Cuts:
    """What each attention sublayer may not read, for a question and answer of some length.

    Raises:
        SiteError: for a layer or token that is not there.
    """
    found: Cuts = {}
    for one in knock_outs:
        component, sublayer = EDGES[one.edges]
        source = _SOURCES[one.edges]
        sizes = {"layer": extent.layers, "source": extent.tokens(source), "target": extent.tokens(component)}
        given = {"layer": one.layers, "source": one.source, "target": one.target}
        places = {}
        for name, size in sizes.items():
            values = given[name]
            if values is not None and values[-1] >= size:
                raise SiteError(f"{name} {values[-1]} of {one.edges}: there are {size}, 0 to {size - 1}")
            places[name] = list(range(size) if values is None else values)
        for layer in places["layer"]:
            cut = found.setdefault((component, sublayer, layer), np.zeros((sizes["target"], sizes["source"]), bool))
            cut[np.ix_(places["target"], places["source"])] = True
    return found


def at_length(every_cut: Cuts, answer_tokens: int) -> Cuts:
    """The same cuts while an answer has only so many tokens."""
    return {
        (component, sublayer, layer): cut
        if component != "answer_decoder"
        else cut[:answer_tokens, : answer_tokens if sublayer == "attention" else None]
        for (component, sublayer, layer), cut in every_cut.items()
    }
