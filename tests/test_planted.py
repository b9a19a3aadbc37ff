"""A planted circuit: a model whose answer provably travels one path, which the maps must find.

image → cross-attention of layer A at token T → attention of layer B at token U → answer
decoder. Everything else that could carry the image is set to zero: the contributions of
cross-attention elsewhere, those of attention after layer A (except layer B at token U), and
what the last layer hands over at other tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
from scenes_helper import Truth, question_of

import nnblip
from nnblip.sites import WHOLE_KINDS

A, T, B, U = 2, 7, 4, 8
#: How much louder the path is than in the bundled model, so that the answer hears it.
GAIN = 20.0


def only_at(*tokens, gain=1.0):
    """A forward hook: zero at all tokens but these."""

    def hook(_module, _inputs, output):
        kept = output.clone()
        kept[:, [t for t in range(output.shape[1]) if t not in tokens]] = 0
        return gain * kept

    return hook


@pytest.fixture(scope="module")
def planted():
    model = nnblip.BlipVQA()
    layers = model._module.text_encoder.encoder.layer
    for number, layer in enumerate(layers):
        layer.crossattention.output.dense.register_forward_hook(only_at(*[T] if number == A else [], gain=GAIN))
        if number > A:
            layer.attention.output.dense.register_forward_hook(only_at(*[U] if number == B else [], gain=GAIN))
    layers[-1].register_forward_hook(only_at(U))
    return model


def on_the_path(kind: str, layer: int, token: int) -> bool:
    """Whether a state of the question encoder carries all that the answer knows of the image."""
    if kind == "attention_out":
        return (layer, token) == (B, U)
    if kind == "crossattention_out":
        return (layer, token) == (A, T)
    if kind == "mlp_out":
        return False  # the residual beside it carries the image too
    carries_t = layer < B and (layer > A or (layer == A and kind != "attention"))
    carries_u = layer >= B
    return (carries_t and token == T) or (carries_u and token == U)


def test_the_planted_states_come_first_and_nothing_else_matters(planted):
    seen = 0
    for index in range(200):
        if (pair := question_of(index, "color")) is None:
            continue
        truth = Truth(planted, *pair)
        if truth.clean.probability - truth.restored(truth.noisy(5.0)).probability < 0.1:
            continue
        tree = nnblip.causal_trace(planted, [pair], draws=1, kinds=WHOLE_KINDS)
        share = nnblip.relevance(tree)["question_encoder"].probability.isel(example=0, nu=0, draw=0)
        for kind in WHOLE_KINDS:
            path = np.array([[on_the_path(kind, layer, token) for token in range(9)] for layer in range(6)])
            found = share.sel(kind=kind).values
            if kind != "mlp_out":
                assert found[~path].max() == 0 and found[~path].min() == 0, "off the path, exactly nothing"
                assert found[path] == pytest.approx(1, abs=1e-4), "on it, the whole answer (AUROC 1)"
            else:
                carriers = np.array([[on_the_path("block", layer, token) for token in range(9)] for layer in range(6)])
                assert (found[~carriers] == 0).all() and np.abs(found[carriers]).max() > 0
        seen += 1
        if seen == 3:
            return
    raise AssertionError("too few scenes on which the planted circuit answers by the image")
