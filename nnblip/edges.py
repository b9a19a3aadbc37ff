"""Knock-outs: attention edges that are cut in some layers. Plain Python and NumPy.

Attention knockout after Geva et al. 2023 (2304.14767), by "mask": before the softmax the scores of
the cut edges become minus infinity, so that the weights of the others sum to one. A token
that has nothing left to read reads zeros.

By "mean" the weights stay what they are, and what is read along a cut edge is no longer the value
vector of its source but the mean of the value vectors of all sources that the reading token can see, cut
ones included, of the same head in the same run: how much was read stays, which of them it was is lost.
(In the answer decoder a token sees itself and those before it, so that nothing of a later word leaks back.)

A knock-out can hold for a whole run (`knock_out=`), or be a *cell*: a row of its own, which is the clean run
without these edges. `knock_outs` is the family of such cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnblip.errors import SiteError, one_of, told, whole
from nnblip.states import Extent, grid_of, regions, runs, spans, widths_of

#: From where to where attention moves information: component and sublayer of the reader.
EDGES = {
    "image_to_question": ("question_encoder", "crossattention"),
    "question_to_question": ("question_encoder", "attention"),
    "question_to_answer": ("answer_decoder", "crossattention"),
    "answer_to_answer": ("answer_decoder", "attention"),
}
#: Where what is read comes from.
SOURCES = {
    "image_to_question": "image_encoder",
    "question_to_question": "question_encoder",
    "question_to_answer": "question_encoder",
    "answer_to_answer": "answer_decoder",
}

#: How an edge is cut.
BY = ("mask", "mean")

#: By (component, sublayer, layer): True where the reading token (row) may not read the other (column).
Cuts = dict[tuple[str, str, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class KnockOut:
    """Cut edges, as `knock_out` makes them; None stands for all.

    Attributes:
        edges: from where to where, one of `EDGES`.
        layers: in which layers, see `knock_out`.
        source: tokens that are not read.
        target: tokens that do not read them.
        by: how they are cut, one of `BY`.
        source_name: what a family calls the tokens that are not read, such as their role; not compared.
        target_name: likewise those that do not read.
    """

    edges: str
    layers: tuple[int, ...] | None = None
    source: tuple[int, ...] | None = None
    target: tuple[int, ...] | None = None
    by: str = "mask"
    source_name: str = field(default="", compare=False)
    target_name: str = field(default="", compare=False)

    def __str__(self) -> str:
        parts = [
            f" {name} {','.join(map(str, value))}"
            for name in ("layers", "source", "target")
            if (value := getattr(self, name)) is not None
        ]
        return self.edges + "".join(parts) + (f" by {self.by}" if self.by != "mask" else "")

    @property
    def name(self) -> str:
        """As its text, with the names of its tokens where it has some: the same for all questions with such tokens."""
        bare = replace(
            self, source=None if self.source_name else self.source, target=None if self.target_name else self.target
        )
        named = {"source": self.source_name, "target": self.target_name}
        return str(bare) + "".join(f" {what} {name}" for what, name in named.items() if name)


def knock_out(
    edges: str,
    layers: int | Iterable[int] | None = None,
    source: int | Iterable[int] | None = None,
    target: int | Iterable[int] | None = None,
    by: str = "mask",
) -> KnockOut:
    """Attention edges to cut.

    Args:
        edges: "image_to_question", "question_to_question", "question_to_answer" or
            "answer_to_answer".
        layers: in which layers of the reading component; all if None.
        source: tokens that are not read (patches counted from 1, 0 is [CLS]); all if None.
        target: tokens that do not read them; all if None.
        by: "mask", or "mean": the weights stay, and instead of a source's value vector the mean of those of
            all sources that the token can see is read. A whole run (`knock_out=`) is cut by mask.

    Raises:
        SiteError: for unknown edges or an unknown `by`, or a layer or token that is no whole number of at least 0.
    """
    one_of(edges, EDGES, "edges", SiteError)
    one_of(by, BY, "by", SiteError)
    places = (_several(layers, "layer", edges), _several(source, "source", edges), _several(target, "target", edges))
    return KnockOut(edges, *places, by)


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
        if callable(one):
            raise SiteError(
                "knock_out: a family such as nnblip.sites.knock_outs(...) cuts one edge at a time, give it as cells=;"
                " expected nnblip.knock_out(...) for a whole run"
            )
        if not isinstance(one, KnockOut):
            raise SiteError(f"knock_out {told(one)}: expected nnblip.knock_out({', '.join(map(repr, EDGES))}, ...)")
    return several


def cuts(knock_outs: Sequence[KnockOut], extent: Extent) -> Cuts:
    """What each attention sublayer may not read, for a question and answer of some length.

    Raises:
        SiteError: for a layer or token that is not there, or a knock-out that is not by mask.
    """
    found: Cuts = {}
    for one in knock_outs:
        if one.by != "mask":
            raise SiteError(f"{one}: a whole run is cut by mask; give it as a cell, or without by=")
        component, sublayer = EDGES[one.edges]
        layers, source, target = places(one, extent)
        for layer in layers:
            size = extent.tokens(component), extent.tokens(SOURCES[one.edges])
            cut = found.setdefault((component, sublayer, layer), np.zeros(size, bool))
            cut[np.ix_(target, source)] = True
    return found


def places(one: KnockOut, extent: Extent) -> tuple[list[int], list[int], list[int]]:
    """Its layers, source and target tokens, None written out. Raises `SiteError` for one that is not there."""
    component, source = EDGES[one.edges][0], SOURCES[one.edges]
    found = []
    for name, values, size in (
        ("layer", one.layers, extent.layers),
        ("source", one.source, extent.tokens(source)),
        ("target", one.target, extent.tokens(component)),
    ):
        if values is not None and values[-1] >= size:
            raise SiteError(f"{name} {values[-1]} of {one.edges}: there are {size}, 0 to {size - 1}")
        found.append(list(range(size) if values is None else values))
    return found[0], found[1], found[2]


def at_length(every_cut: Cuts, answer_tokens: int) -> Cuts:
    """The same cuts while an answer has only so many tokens."""
    return {
        (component, sublayer, layer): cut
        if component != "answer_decoder"
        else cut[:answer_tokens, : answer_tokens if sublayer == "attention" else None]
        for (component, sublayer, layer), cut in every_cut.items()
    }


# --- knock-outs as cells ------------------------------------------------------------------


def check(one: KnockOut, extent: Extent) -> None:
    """Raise `SiteError` if a cell cuts something that is not there, or nothing."""
    _, source, target = places(one, extent)
    if one.edges == "answer_to_answer" and min(source) > max(target):
        raise SiteError(
            f"{one}: no word of the answer reads a later one, so there is no such edge;"
            f" expected a source of at most {max(target)}"
        )


def describe_knock_out(one: KnockOut, layers: int) -> dict[str, str | int]:
    """What a knock-out is, as coordinates of a result; `layers` is how many a component has.

    Returns:
        `knock_out`, its text; `edges` and `by`; `source` and `target`, what a family calls them, or their tokens in
        runs, or "all"; `layer`, the first of its layers, and `window`, how many there are from that to the last.
    """
    cut = one.layers or range(layers)
    names = {
        what: name or ("all" if tokens is None else runs(tokens))
        for what, name, tokens in (
            ("source", one.source_name, one.source),
            ("target", one.target_name, one.target),
        )
    }
    return {
        "knock_out": one.name, "edges": one.edges, "by": one.by, **names,
        "layer": min(cut), "window": max(cut) - min(cut) + 1,
    }  # fmt: skip


#: Which tokens are sources or targets: together ("all"), one by one ("each"), by role ("roles", or the name of a role),
#: image regions by their grid (6 or (4, 6)), or names with the tokens that they stand for.
Tokens = str | int | tuple[int, int] | Mapping[str, Iterable[int]]


def knock_outs(
    edges: str = "image_to_question",
    sources: Tokens = "all",
    targets: Tokens = "each",
    widths: int | Sequence[int] = 1,
    by: str = "mask",
    align: str = "start",
    ends: str = "drop",
) -> Callable[[Extent], list[KnockOut]]:
    """A knock-out map: from every source to every target, cut in every window of layers, each alone.

    Args:
        edges: from where to where, one of `EDGES`.
        sources: "all" together, "each" token alone, "roles" for the tokens of each role together, or the name of one
            role; of the image, a grid of regions (6, or (4, 6)), which leaves [CLS] (token 0) out; or a mapping from
            names to tokens, such as `{"subject": [5, 6]}`. Roles are those of question tokens.
        targets: the same, of the tokens that read.
        widths: of the windows of layers, one or several.
        by: "mask" or "mean", see `nnblip.knock_out`.
        align, ends: where windows lie and what happens to those that reach beyond the layers, as `align` and `edges`
            of `nnblip.sites.windows`.

    Returns:
        A family whose cells come window by window, then source by source, then target by target. Of
        "answer_to_answer", pairs that the decoder has no edge for (a source later than all targets) are left out.

    Raises:
        SiteError: for unknown edges, `by`, `align` or `ends`, or a bad width or grid; from the family, for windows
            wider than the model, a grid that does not divide the patches, a token that is not there, or a role that
            no token has.
    """
    component, source = EDGES[one_of(edges, EDGES, "edges", SiteError)][0], SOURCES[edges]
    widths = widths_of(widths)
    for value, allowed, what in (
        (by, BY, "by"),
        (align, ("start", "center"), "align"),
        (ends, ("drop", "cut"), "ends"),
    ):
        one_of(value, allowed, what, SiteError)
    for given, whose, what in ((sources, source, "sources"), (targets, component, "targets")):
        _check_tokens(given, whose, f"{what} of {edges}")

    def family(extent: Extent) -> list[KnockOut]:
        cells = [
            KnockOut(edges, tuple(span), read, reader, by, read_name, reader_name)
            for span in spans(widths, extent.layers, align, ends, component)
            for read_name, read in _tokens(sources, source, extent, f"sources of {edges}")
            for reader_name, reader in _tokens(targets, component, extent, f"targets of {edges}")
        ]
        if edges == "answer_to_answer":
            cells = [cell for cell in cells if _can_be_read(cell)]
            if not cells:
                raise SiteError(
                    "sources and targets of answer_to_answer: no word of the answer reads a later one, so there is no"
                    " such edge; expected a source that is a target or comes before one"
                )
        for cell in cells:
            check(cell, extent)
        return cells

    return family


def _can_be_read(one: KnockOut) -> bool:
    return one.source is None or one.target is None or min(one.source) <= max(one.target)


def _check_tokens(given: Any, component: str, what: str) -> None:
    if isinstance(given, Mapping):
        if not given:
            raise SiteError(f"{what}: expected at least one name with its tokens")
        for name, tokens in given.items():
            if not isinstance(name, str) or _several(tokens, "token", f"{what} {name!r}") is None:
                raise SiteError(f"{what}: {told(name)} with {told(tokens)}, expected a name with its tokens")
    elif isinstance(given, str):
        if given not in ("all", "each") and component != "question_encoder":
            raise SiteError(f"{what} {told(given)}: roles are those of question tokens; expected 'all' or 'each'")
    elif isinstance(given, int | tuple) and not isinstance(given, bool):
        if component != "image_encoder":
            raise SiteError(f"{what} {told(given)}: a grid is one of image regions; expected 'all' or 'each'")
        grid_of(given)
    else:
        raise SiteError(
            f"{what} {told(given)}: expected 'all', 'each', 'roles', a role, a grid of image regions,"
            " or names with tokens"
        )


def _tokens(given: Any, component: str, extent: Extent, what: str) -> list[tuple[str, tuple[int, ...] | None]]:
    """Names and tokens (None: all)."""
    if isinstance(given, Mapping):
        return [(name, _several(tokens, "token", what)) for name, tokens in given.items()]
    if not isinstance(given, str):
        return [(f"region {k}", tuple(patches)) for k, patches in enumerate(regions(extent, given))]
    if given == "all":
        return [("all", None)]
    if given == "each":
        return [(str(token), (token,)) for token in range(extent.tokens(component))]
    roles: dict[str, list[int]] = {}
    for token, role in enumerate(extent.roles):
        if role:
            roles.setdefault(role, []).append(token)
    if not roles:
        raise SiteError(
            f"{what} {given!r}: the roles of the question's tokens are not known here; expected 'all' or 'each'"
        )
    if given == "roles":
        return [(role, tuple(tokens)) for role, tokens in roles.items()]
    if given not in roles:
        raise SiteError(
            f"{what} {given!r}: no token has that role; there are {', '.join(roles)}, or 'all', 'each', 'roles'"
        )
    return [(given, tuple(roles[given]))]
