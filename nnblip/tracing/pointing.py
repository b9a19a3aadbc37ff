"""pointing: where in the picture is what the answer needs?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr

from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.tracing.trace import causal_trace

#: The finest grid that is laid over a picture by itself: single patches of many are too small to be missed.
FINEST = 12
#: What points best at the object that is asked for, as measured (docs/pointing.md).
NOISE, NOISE_AT = "mean", "image_embeds"


def pointing(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    regions: int | tuple[int, int] | None = None,
    **trace: Any,
) -> xr.DataTree:
    """Damage one region of the picture at a time in the clean run, and measure what the answer loses.

    It is `causal_trace` with `components=["image_encoder"]` and `direction="noising"`, each region's embeddings
    replaced by the mean over the picture's, which has no randomness. By the logit difference such a map falls on what
    the question asks for (docs/pointing.md), where restoring regions of a damaged picture shows scatter;
    `nnblip.plot.picture` draws it.

    Args:
        model: a `BlipVQA`.
        examples: as for `causal_trace`.
        regions: grid of the regions; by default the finest of at most 12 by 12 that divides the patches.
        trace: other settings of `causal_trace`, such as `noise="shuffle"`, `noise_at="pixels"` with `draws=10`,
            `knock_out` or `rival`.

    Returns:
        A result with `/image_encoder`.

    Raises:
        NnblipError: as `causal_trace`.
    """
    side = as_model(model).extent(1, 1).side
    finest = max(size for size in range(1, FINEST + 1) if side % size == 0)
    settings: dict[str, Any] = {"nu": 1.0, "draws": 1, "noise": NOISE, "noise_at": NOISE_AT}
    settings |= {"components": ["image_encoder"], "direction": "noising", "regions": regions or finest}
    result: xr.DataTree = causal_trace(model, examples, **settings | trace)
    return result
