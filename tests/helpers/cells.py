"""The numbers of one cell of a traced example, against those of the oracle."""

import pytest

from nnblip.results import VARIABLES


def numbers(tree, component, **where):
    return [float(tree[component][name].isel(example=0).sel(where)) for name in VARIABLES]


def agree(found, expected):
    """Probability within 1e-4, its logarithm and the logits within 3e-3: a single row goes through other matrix
    kernels than many, and float32 then differs by up to 2e-5 (AVX-512)."""
    assert found[0] == pytest.approx(expected.probability, abs=1e-4)
    assert found[1:] == pytest.approx([expected.log_probability, expected.logit_difference], abs=3e-3)
