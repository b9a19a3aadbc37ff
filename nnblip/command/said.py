"""What the model says when it is damaged: words beside the numbers of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from nnblip.examples import Example
    from nnblip.model import BlipVQA
    from nnblip.passes.settings import Settings

#: Of so many draws at most: an answer that is said takes a run of its own for each.
MOST = 10


def with_said(model: BlipVQA, example: Example, settings: Settings, tree: xr.DataTree) -> xr.DataTree:
    """The result of one example with the coordinate `said` of `/corrupted`: what the model answers in the first draws,
    by the noise and with nothing restored; "" of the draws that it was not asked in.
    """
    draws = min(MOST, tree.sizes["draw"])
    said = np.full((1, tree.sizes["nu"], tree.sizes["draw"]), "", dtype=object)
    with model.clean(example, knock_out=settings.knock_out) as clean:
        pass
    for place, nu in enumerate(settings.nu):
        for draw in range(draws):
            with model.corrupt(
                clean, nu, settings.seed, draw, settings.noise, partner=example.partner,
                other_question=example.other_question, noise_at=settings.noise_at,
            ) as run:  # fmt: skip
                pass
            said[0, place, draw] = run.answer
    found = tree.copy()
    node: Any = found["corrupted"]
    node.dataset = node.to_dataset(inherit=False).assign_coords(said=(("example", "nu", "draw"), said.astype(str)))
    return found
