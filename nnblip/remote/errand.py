"""What a request asks of the server: functions that take a model and plain data, and return builtins and tensors."""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.weights import weights_hash
from nnblip.passes.gradients import Estimated, estimate
from nnblip.passes.measure import Asked, Measured, measure
from nnblip.passes.settings import Settings


def traces(model: Blip, settings: Settings, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """On the server: the numbers of examples."""
    return [_packed(measure(model, settings, one)) for one in asked]


def measured(found: dict[str, Any]) -> Measured:
    """Here: the numbers of an example."""
    arrays = (found[name].numpy() for name in ("clean", "corrupted", "restored", "damage", "cut"))
    return Measured(found["answer_ids"], found["predicted"], found["rival"], *arrays)


def estimates(model: Blip, settings: Settings, asked: Sequence[Asked], steps: int, sample: int) -> list[dict[str, Any]]:
    """On the server: the estimated numbers of examples."""
    found = [estimate(model, settings, one, steps, sample) for one in asked]
    return [
        {
            "measured": _packed(one.measured),
            "pairs": torch.from_numpy(one.pairs),
            "summed": torch.from_numpy(one.summed),
        }
        for one in found
    ]


def estimated(found: dict[str, Any]) -> Estimated:
    """Here: the estimated numbers of an example."""
    return Estimated(measured(found["measured"]), found["pairs"].numpy(), found["summed"].numpy())


def _packed(numbers: Measured) -> dict[str, Any]:
    """Arrays as tensors, which a result may have."""
    return {name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for name, one in vars(numbers).items()}


def own_answers(model: Blip, asked: Sequence[Encoded]) -> list[list[int]]:
    """On the server: the model's own answers, [SEP] left out; an empty list where it answers nothing."""
    return [model.own_answer(one, model.image_embeds(one), empty=True) for one in asked]


def equip(model: Blip, processor: bytes) -> None:
    """On the server: the model reads images and questions as it does here, if what that needs is there."""
    with contextlib.suppress(ImportError):
        importlib.import_module("PIL.Image")
        model.processor = pickle.loads(processor)


def nothing(model: Blip) -> None:
    """On the server: only what `nnblip.runs.envelope` checks before any errand."""


def weights(model: Blip) -> str:
    """On the server: a hash of the weights that it has."""
    return weights_hash(model._module)
