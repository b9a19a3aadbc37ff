"""A sweep that is done."""

from __future__ import annotations

import pytest
from helpers.sweeps import FEW, Scenes

import nnblip


@pytest.fixture(scope="session")
def small(model, tmp_path_factory):
    """A finished sweep of four examples; copy it before changing it."""
    out = tmp_path_factory.mktemp("small") / "results.zarr"
    nnblip.sweep(model, Scenes.of(4), out, **FEW)
    return out
