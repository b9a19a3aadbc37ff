"""What is asked of a trace, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnblip.edges import KnockOut, as_knock_outs
from nnblip.errors import NnblipError, SiteError, one_of, whole
from nnblip.noise import Noise, check_nu, get_noise
from nnblip.roles import Rules
from nnblip.sites import (
    CELLS_NODE,
    COMPONENTS,
    HEAD_KINDS,
    HEADS_NODE,
    KINDS,
    PLACES,
    SUBLAYERS,
    WHOLE_KINDS,
    Cell,
    Extent,
    gather,
    heatmap,
)

#: What a restored node shows: states put back in a corrupted run, or damaged in a clean one.
DIRECTIONS = ("denoising", "noising")


@dataclass(frozen=True)
class Settings:
    """What `causal_trace` was asked for, checked; the fields are its arguments."""

    nu: tuple[float, ...]
    draws: int
    noise: Noise
    seed: int
    kinds: tuple[str, ...]
    components: tuple[str, ...]
    cells: Any
    direction: str
    freeze: tuple[str, ...]
    max_rows: int | None
    noise_at: str = "image_embeds"
    regions: int | tuple[int, int] | None = None
    knock_out: tuple[KnockOut, ...] = ()
    roles: Rules = field(default_factory=Rules)

    @classmethod
    def of(
        cls, nu: Any, draws: Any, noise: Any, seed: Any, kinds: Any, components: Any, cells: Any, direction: Any,
        freeze: Any, max_rows: Any, noise_at: Any = "image_embeds", regions: Any = None, knock_out: Any = (),
        roles: Any = None,
    ) -> Settings:  # fmt: skip
        """Raises `NnblipError` for what cannot be used."""
        if kinds is None:
            kinds = ("block",) if cells is None else ()
        return cls(
            _ladder(nu),
            whole(draws, "draws", 1),
            get_noise(noise),
            whole(seed, "seed", 0),
            _names(kinds, KINDS, "kind") if kinds or cells is None else (),
            _names(components, COMPONENTS, "component"),
            list(cells) if isinstance(cells, Iterator) else cells,  # they are asked for more than once
            one_of(direction, DIRECTIONS, "direction"),
            tuple(sorted(_names(freeze, SUBLAYERS, "sublayer"))) if freeze else (),
            None if max_rows is None else whole(max_rows, "max_rows", 2),
            one_of(noise_at, PLACES, "noise_at"),
            regions,
            as_knock_outs(knock_out),
            Rules.of(roles),
        )

    def sent(self) -> Settings:
        """What a server is told: all but what only labels the numbers, such as a function of the user's."""
        return replace(self, roles=Rules())

    def nodes(self, extent: Extent) -> dict[str, list[Cell]]:
        """The cells of each node of the result, for a question and answer of some length."""
        whole_kinds = [kind for kind in self.kinds if kind in WHOLE_KINDS]
        head_kinds = [kind for kind in self.kinds if kind in HEAD_KINDS]
        texts = [name for name in self.components if name != "image_encoder"]
        if self.regions is not None and (len(texts) == len(self.components) or not self.kinds):
            raise SiteError("regions: they part the map of image_encoder; name it in components")
        if texts != list(self.components) and self.kinds and "block" not in self.kinds:
            raise SiteError(f"kinds {', '.join(self.kinds)}: image_encoder has the kind block only; name it too")
        nodes = {name: heatmap(extent, name, whole_kinds, self.regions) for name in self.components if self.kinds}
        nodes |= {name + HEADS_NODE: heatmap(extent, name, head_kinds) for name in texts}
        nodes[CELLS_NODE] = [] if self.cells is None else gather(self.cells, extent)
        for site in (site for cells in nodes.values() for cell in cells for site in cell):
            if site.head is not None and site.kind.removesuffix("_head") in self.freeze:
                raise SiteError(f"{site}: its own sublayer is frozen, so restoring it would change nothing")
            if site.component == "image_encoder" and "crossattention" in self.freeze:
                raise SiteError(f"{site}: with crossattention frozen nothing of the image reaches the question")
        return {name: cells for name, cells in nodes.items() if cells}


def _ladder(nu: float | Sequence[float]) -> tuple[float, ...]:
    several = nu if isinstance(nu, list | tuple | np.ndarray | range) else [nu]
    ladder = tuple(check_nu(value) for value in several)
    if not ladder or len(set(ladder)) < len(ladder):
        raise NnblipError(f"nu {nu!r}: expected one noise factor or several different ones")
    return ladder


def _names(given: Iterable[str], allowed: Iterable[str], what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        one_of(name, allowed, what, SiteError)
    if not names or len(set(names)) < len(names):
        raise SiteError(f"{what}s {given!r}: expected one or more different ones of {', '.join(allowed)}")
    return names
