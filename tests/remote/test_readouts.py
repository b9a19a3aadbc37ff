"""States of many questions come from a server as they are here."""

from dataclasses import replace

import numpy as np
import pytest

import nnblip
from nnblip.experiments.readouts import readouts


@pytest.mark.slow
def test_readouts(model, there, stock):
    first, second = nnblip.demo.examples()[:2]
    given = [replace(first, id="a"), replace(second, id="b")]
    here, away = (readouts(where, given, 3.0, "multiplicative", progress=False) for where in (model, there))
    assert abs(here.states.sel(run="clean") - here.states.sel(run="another picture")).max() > 0.5
    for name in ("states", "added"):
        np.testing.assert_allclose(away[name], here[name], atol=1e-4)
