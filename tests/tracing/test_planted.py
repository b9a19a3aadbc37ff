"""A planted circuit: a model whose answer provably travels one path, which the maps must find.

image region R → cross-attention of layer A at token T → attention of layer B at token U →
answer decoder. Everything else that could carry the image is set to zero: keys and values of
other patches, the contributions of cross-attention elsewhere, those of attention after layer
A (except layer B at token U), and what the last layer hands over at other tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.scenes import Truth, question_of

import nnblip
from nnblip.sites import WHOLE_KINDS

A, T, B, U = 2, 7, 4, 8
#: Of 2 x 2 regions the last: the patches of the lower right quarter (8 x 8 patches, 0 is [CLS]).
GRID, R = 2, 4
REGION = [1 + 8 * row + column for row in range(4, 8) for column in range(4, 8)]
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
    reader = layers[A].crossattention.self
    for linear in (reader.key, reader.value):
        linear.forward = only_of(REGION, linear.forward)
    return model


def only_of(patches, forward):
    """Keys or values that are zero for all patches but these."""
    kept = torch.zeros(65, 1)
    kept[patches] = 1
    return lambda states: forward(states) * kept.repeat(states.shape[1] // 65, 1)


def shown(model):
    """Three scenes on which the planted circuit answers by the image."""
    seen = 0
    for index in range(400):
        if (pair := question_of(index, "color")) is None:
            continue
        truth = Truth(model, *pair)
        if truth.clean.probability - truth.restored(truth.noisy(5.0)).probability < 0.1:
            continue
        yield pair
        if (seen := seen + 1) == 3:
            return
    raise AssertionError("too few scenes on which the planted circuit answers by the image")


def on_the_path(kind: str, layer: int, token: int) -> bool:
    """Whether a state of the question encoder carries all that the answer knows of the image."""
    if kind in ("attention_out", "attention_value_output"):
        return (layer, token) == (B, U)
    if kind == "crossattention_out":
        return (layer, token) == (A, T)
    if kind == "block_input":
        return on_the_path("block", layer - 1, token)
    if kind in ("mlp_out", "mlp_activation"):
        return False  # the residual beside it carries the image too
    carries_t = layer < B and (layer > A or (layer == A and kind != "attention"))
    carries_u = layer >= B
    return (carries_t and token == T) or (carries_u and token == U)


def test_the_planted_states_come_first_and_nothing_else_matters(planted):
    for pair in shown(planted):
        tree = nnblip.causal_trace(planted, [pair], draws=1, kinds=WHOLE_KINDS)
        share = nnblip.relevance(tree)["question_encoder"].probability.isel(example=0, nu=0)
        for kind in WHOLE_KINDS:
            path = np.array([[on_the_path(kind, layer, token) for token in range(9)] for layer in range(6)])
            found = share.sel(kind=kind).values
            if kind not in ("mlp_out", "mlp_activation"):
                assert found[~path].max() == 0 and found[~path].min() == 0, "off the path, exactly nothing"
                assert found[path] == pytest.approx(1, abs=1e-4), "on it, the whole answer (AUROC 1)"
            else:
                carriers = np.array([[on_the_path("block", layer, token) for token in range(9)] for layer in range(6)])
                assert (found[~carriers] == 0).all() and np.abs(found[carriers]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_planted_region_comes_first(planted, direction):
    for pair in shown(planted):
        tree = nnblip.causal_trace(
            planted, [pair], draws=2, components=["image_encoder"], regions=GRID, direction=direction
        )
        share = nnblip.relevance(tree)["image_encoder"].probability.isel(example=0, nu=0, layer=0, kind=0)
        assert share.sel(token=R).values == pytest.approx(1, abs=1e-4)
        assert share.drop_sel(token=R).values == pytest.approx(0, abs=1e-4), "AUROC 1"


@pytest.mark.slow
def test_cutting_the_planted_edges_cuts_the_answer_and_cutting_all_others_does_not(planted):
    cuts = {
        "planted": [nnblip.knock_out("image_to_question", A, REGION, T)],
        "other": [
            nnblip.knock_out("image_to_question", [n for n in range(6) if n != A]),
            nnblip.knock_out("image_to_question", A, target=[t for t in range(9) if t != T]),
            nnblip.knock_out("question_to_question", [n for n in range(A + 1, 6) if n != B]),
            nnblip.knock_out("question_to_answer", source=[t for t in range(9) if t != U]),
        ],
    }
    for pair in shown(planted):
        effects = {
            name: nnblip.total_effect(nnblip.causal_trace(planted, [pair], draws=2, knock_out=cut))["corrupted"]
            for name, cut in cuts.items()
        }
        # in logarithms: without all else that the question says the answer is improbable
        assert abs(effects["planted"].log_probability).max() < 1e-3
        assert abs(effects["other"].log_probability).max() > 0.1
