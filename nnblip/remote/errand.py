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
from nnblip.passes.reading import Attended, Lensed, Maps, attend, lens
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


def attends(
    model: Blip, components: Sequence[str], kinds: Sequence[str], grad_cam: bool, asked: Sequence[Asked]
) -> list[dict[str, Any]]:
    """On the server: the attention of examples."""
    found = [attend(model, components, kinds, grad_cam, one) for one in asked]
    return [vars(one) | {name: _flat(getattr(one, name)) for name in ("weights", "grad_cam")} for one in found]


def attended(found: dict[str, Any]) -> Attended:
    """Here: the attention of an example."""
    weights, cams = (
        {tuple(key.split("/")): one.numpy() for key, one in found[name].items()} for name in ("weights", "grad_cam")
    )
    return Attended(found["answer_ids"], found["predicted"], weights, cams)


def _flat(maps: Maps) -> dict[str, torch.Tensor]:
    return {"/".join(key): torch.from_numpy(one) for key, one in maps.items()}


def lenses(model: Blip, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """On the server: what the layers of examples would say."""
    return [_packed(lens(model, one)) for one in asked]


def lensed(found: dict[str, Any]) -> Lensed:
    """Here: what the layers of an example would say."""
    numbers: dict[str, Any] = {
        name: one.numpy() if isinstance(one, torch.Tensor) else one for name, one in found.items()
    }
    return Lensed(**numbers)


def _packed(numbers: Measured | Lensed) -> dict[str, Any]:
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
