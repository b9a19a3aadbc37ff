"""What is asked of a trace, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnblip.edges import KnockOut, as_knock_outs
from nnblip.errors import SettingError, SiteError, one_of, told, whole
from nnblip.noise import Multiplicative, Noise, Shuffle, check_nu, get_noise
from nnblip.paths import Edge
from nnblip.roles import Rules
from nnblip.sites import (
    CELLS_NODE,
    COMPONENTS,
    EDGES_NODE,
    HEAD_KINDS,
    HEADS_NODE,
    KINDS,
    KNOCK_OUTS_NODE,
    PLACES,
    SUBLAYERS,
    TEXT_COMPONENTS,
    WHOLE_KINDS,
    WITHIN,
    CellsLike,
    Extent,
    gather,
    grid_of,
    heatmap,
)

#: What a restored node shows: states put back in a corrupted run, or damaged in a clean one.
DIRECTIONS = ("denoising", "noising")


#: The most draws and noise factors. Each takes a pass, of milliseconds at least, so that what lies beyond would be days
#: of one example; and a mean over so many draws is more exact than float32.
MOST_DRAWS, MOST_FACTORS = 100_000, 1000
#: With as many draws as the wished reliability takes: so many at a time, and never more than so many.
AUTO, BATCH, MOST_AUTO = "auto", 10, 100

#: So many requests are in flight at a time. A server works on one of them, while the others are on their way.
#: Measured with a server on the same machine: 4 are 1.4 to 1.6 times as fast as 1, and 8 no faster than 4.
IN_FLIGHT = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of a trace: the arguments of `causal_trace`, checked and brought to one form.

    Every default stands here; `causal_trace`, `sweep`, `attribution_trace` and the command take
    theirs from it. The types are those of the one form.

    Raises:
        NnblipError: for what cannot be used.
    """

    nu: tuple[float, ...] = (5.0,)
    draws: int | str = 10
    reliability: float = 0.9
    noise: Noise = Multiplicative()
    seed: int = 0
    kinds: tuple[str, ...] = ("block",)
    components: tuple[str, ...] = TEXT_COMPONENTS
    cells: CellsLike | None = None
    direction: str = "denoising"
    freeze: tuple[str, ...] = ()
    noise_at: str = "image_embeds"
    regions: int | tuple[int, int] | None = None
    knock_out: tuple[KnockOut, ...] = ()
    roles: Rules = Rules()
    rival: str | int | None = None
    max_rows: int | None = None

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """From arguments as users give them: one ν or several, a name or an object, None for what is left out."""
        if given.get("kinds") is None:
            given["kinds"] = cls.kinds if given.get("cells") is None else ()
        return cls(**given)

    def __post_init__(self) -> None:
        several = self.kinds or self.cells is None  # no kind at all is right beside cells
        one_form = {
            "nu": _ladder(self.nu),
            "draws": _draws(self.draws),
            "reliability": _share(self.reliability),
            "noise": get_noise(self.noise),
            "seed": whole(self.seed, "seed", 0),
            "kinds": names_of(self.kinds, KINDS, "kind") if several else (),
            "components": names_of(self.components, COMPONENTS, "component"),
            # they are asked for more than once
            "cells": list(self.cells) if isinstance(self.cells, Iterator) else self.cells,
            "direction": one_of(self.direction, DIRECTIONS, "direction"),
            "freeze": tuple(sorted(names_of(self.freeze, SUBLAYERS, "sublayer"))) if self.freeze else (),
            "noise_at": one_of(self.noise_at, PLACES, "noise_at"),
            "regions": _grid(self.regions),
            "knock_out": as_knock_outs(self.knock_out),
            "roles": Rules.of(self.roles),
            "rival": _rival(self.rival),
            "max_rows": None if self.max_rows is None else whole(self.max_rows, "max_rows", 2),
        }
        for name, value in one_form.items():
            object.__setattr__(self, name, value)
        self._acts()

    def _acts(self) -> None:
        """Raise `SettingError` for damage that cannot act, however the model is built of BLIP's parts.

        Cross-attention does not see the order of image embeddings, and the image encoder that of its patch embeddings,
        which have their position in them: all of them shuffled are the same to it. What stays is a single state taken
        from another place, or a cut that tells places apart.
        """
        single = self.direction == "noising" and ("image_encoder" in self.components or self.cells is not None)
        told_apart = any(cut.edges == "image_to_question" and cut.source is not None for cut in self.knock_out)
        shuffled = isinstance(self.noise, Shuffle) and 1.0 in self.nu and self.noise_at != "pixels"
        if isinstance(self.noise, Shuffle) and self.noise_at == "question":
            raise SettingError(
                "noise 'shuffle' of the question: it is for the patches of a picture; expected another noise, such as"
                " 'multiplicative', or 'swap' with other_question="
            )
        if shuffled and not (single or told_apart):
            raise SettingError(
                f"noise 'shuffle' of {self.noise_at} at nu 1: BLIP does not see their order, so the total effect is"
                " 0 by construction; expected noise_at='pixels', or nu=0.5, which mixes each with another"
            )

    @property
    def most_draws(self) -> int:
        """How many draws an example has, or at most has."""
        return MOST_AUTO if isinstance(self.draws, str) else self.draws

    def sent(self) -> Settings:
        """What a server is told: all but what only labels the numbers, such as a function of the user's."""
        return replace(self, roles=Rules())

    def nodes(self, extent: Extent) -> dict[str, list[Any]]:
        """The cells of each node of the result, edges and knock-outs last, for a question and answer of some length."""
        whole_kinds = [kind for kind in self.kinds if kind in WHOLE_KINDS]
        head_kinds = [kind for kind in self.kinds if kind in HEAD_KINDS]
        texts = [name for name in self.components if name != "image_encoder"]
        if self.regions is not None and (len(texts) == len(self.components) or not self.kinds):
            raise SiteError("regions: they part the map of image_encoder; name it in components")
        if texts != list(self.components) and self.kinds and "block" not in self.kinds:
            raise SiteError(f"kinds {', '.join(self.kinds)}: image_encoder has the kind block only; name it too")
        nodes: dict[str, list[Any]] = {
            name: heatmap(extent, name, whole_kinds, self.regions) for name in self.components if self.kinds
        }
        nodes |= {name + HEADS_NODE: heatmap(extent, name, head_kinds) for name in texts}
        given = [] if self.cells is None else gather(self.cells, extent)
        nodes[CELLS_NODE] = [cell for cell in given if isinstance(cell, tuple)]
        nodes[EDGES_NODE] = [cell for cell in given if isinstance(cell, Edge)]
        nodes[KNOCK_OUTS_NODE] = [cell for cell in given if isinstance(cell, KnockOut)]
        if self.freeze and (nodes[EDGES_NODE] or nodes[KNOCK_OUTS_NODE]):
            raise SettingError(
                "freeze keeps what sublayers add after a restored state; leave it out for edges and knock-outs"
            )
        states = (cell for cells in nodes.values() for cell in cells if isinstance(cell, tuple))
        for site in (site for cell in states for site in cell):
            if WITHIN.get(site.kind) in self.freeze:
                raise SiteError(f"{site}: its own sublayer is frozen, so restoring it would change nothing")
            if site.component == "image_encoder" and "crossattention" in self.freeze:
                raise SiteError(f"{site}: with crossattention frozen nothing of the image reaches the question")
        return {name: cells for name, cells in nodes.items() if cells}


def _draws(draws: object) -> int | str:
    if isinstance(draws, str) and draws == AUTO:
        return AUTO
    if isinstance(draws, str):
        raise SettingError(f"draws {told(draws)}: expected a whole number of at least 1 or {AUTO!r}")
    return whole(draws, "draws", 1, most=MOST_DRAWS)


def _share(reliability: object) -> float:
    fits = isinstance(reliability, (int, float, np.number)) and not isinstance(reliability, bool)
    if not fits or not 0 < float(reliability) < 1:  # type: ignore[arg-type]
        raise SettingError(f"reliability {reliability!r}: expected a number between 0 and 1, such as 0.9")
    return float(reliability)  # type: ignore[arg-type]


def _rival(given: object) -> str | int | None:
    if given is None or (isinstance(given, str) and given.strip()):
        return given
    return whole(given, "rival", 0, where=", which is no text")


def _ladder(nu: float | Sequence[float]) -> tuple[float, ...]:
    if isinstance(nu, np.ndarray):
        nu = nu.tolist()  # of an array without dimensions, a number
    several = nu if isinstance(nu, list | tuple | range) else [nu]
    if len(several) > MOST_FACTORS:
        raise SettingError(f"nu of {len(several)} noise factors: expected at most {MOST_FACTORS}")
    ladder = tuple(check_nu(value) for value in several)
    if not ladder or len(set(ladder)) < len(ladder):
        raise SettingError(f"nu {told(nu)}: expected one noise factor or several different ones")
    return ladder


def _grid(regions: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    if regions is not None:
        grid_of(regions)
    return regions


def names_of(given: Iterable[str], allowed: Iterable[str], what: str) -> tuple[str, ...]:
    """One name or several different ones, as they are given. Raises `SiteError` for anything else."""
    if not isinstance(given, Iterable):
        raise SiteError(f"{what}s {told(given)}: expected one or more of {', '.join(allowed)}")
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        one_of(name, allowed, what, SiteError)
    if not names or len(set(names)) < len(names):
        raise SiteError(f"{what}s {told(given)}: expected one or more different ones of {', '.join(allowed)}")
    return names
