"""What a request asks of the server: functions that take a model and plain data, and return builtins and tensors."""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from nnblip import provenance
from nnblip.measure import Asked, Measured, measure
from nnblip.settings import Settings

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

_ARRAYS = ("clean", "corrupted", "restored")


def traces(model: BlipVQA, settings: Settings, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """On the server: the numbers of examples."""
    found = [vars(measure(model, settings, one)) for one in asked]
    return [{name: _tensor(value) for name, value in one.items()} for one in found]


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if hasattr(value, "dtype") else value


def measured(found: dict[str, Any]) -> Measured:
    """Here: the numbers of an example."""
    return Measured(**{name: value.numpy() if name in _ARRAYS else value for name, value in found.items()})


def equip(model: BlipVQA, processor: bytes) -> None:
    """On the server: the model reads images and questions as it does here, if what that needs is there."""
    with contextlib.suppress(ImportError):
        importlib.import_module("PIL.Image")
        model.processor = pickle.loads(processor)


def nothing(model: BlipVQA) -> None:
    """On the server: only what `nnblip.envelope` checks before any errand."""


def weights(model: BlipVQA) -> str:
    """On the server: a hash of the weights that it has."""
    return provenance.weights_hash(model)
