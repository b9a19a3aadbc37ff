"""What a request asks of the server: functions that take a model and plain data, and return builtins and tensors.

Instances of nnblip's classes do not come back: who reads a result may have another nnblip.
An error of nnblip's own comes back as its name and text, and is raised again as what it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nnblip import errors, provenance
from nnblip.contexts import CleanRun
from nnblip.errors import NnblipError, RemoteError
from nnblip.gradients import Estimated, estimate
from nnblip.inputs import Encoded
from nnblip.measure import Asked, Measured, measure
from nnblip.settings import Settings

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

ARCHITECTURE = "BlipForQuestionAnswering"
_ARRAYS = ("clean", "corrupted", "restored")


def run(model: BlipVQA, errand: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """On the server: an errand's result, or its error, and what was warned of."""
    served = type(model._module).__name__
    if served != ARCHITECTURE:
        return {"error": ("ModelError", f"the server serves {served} under this name; expected {ARCHITECTURE}")}
    if (dtype := model._module.dtype) != model.dtype:
        names = [str(one).removeprefix("torch.") for one in (dtype, model.dtype)]
        return {
            "error": (
                "ModelError",
                f"the server holds the model in {names[0]}, {names[1]} is asked for: the numbers would be others;"
                f" BlipVQA(..., dtype={names[0]!r}, remote=True) takes them, or start the server with {names[1]}",
            )
        }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", errors.NnblipWarning)
        try:
            result = {"result": errand(model, *args)}
        except NnblipError as error:
            result = {"error": (type(error).__name__, str(error))}
    told = [str(one.message) for one in said if issubclass(one.category, errors.NnblipWarning)]
    return {**result, "warnings": told}


def opened(answer: Any) -> Any:
    """Here: what `run` brought back. Raises the error that it brought instead."""
    if not isinstance(answer, dict) or not {"result", "error"} & set(answer):
        raise RemoteError("the server sent back something else than a result of nnblip; send the request again")
    for text in answer.get("warnings", ()):
        warnings.warn(text, errors.NnblipWarning, stacklevel=3)
    if "error" in answer:
        name, text = answer["error"]
        known = getattr(errors, name, NnblipError)
        raise (known if issubclass(known, NnblipError) else NnblipError)(text)
    return answer["result"]


def traces(model: BlipVQA, settings: Settings, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """On the server: the numbers of examples."""
    found = [vars(measure(model, settings, one)) for one in asked]
    return [{name: _tensor(value) for name, value in one.items()} for one in found]


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if hasattr(value, "dtype") else value


def measured(found: dict[str, Any]) -> Measured:
    """Here: the numbers of an example."""
    return Measured(**{name: value.numpy() if name in _ARRAYS else value for name, value in found.items()})


def estimates(
    model: BlipVQA, settings: Settings, asked: Sequence[Asked], steps: int, sample: int
) -> list[dict[str, Any]]:
    """On the server: the estimated numbers of examples."""
    found = [estimate(model, settings, one, steps, sample) for one in asked]
    return [
        {name: _tensor(value) for name, value in {**vars(one.measured), "pairs": one.pairs}.items()} for one in found
    ]


def estimated(found: dict[str, Any]) -> Estimated:
    """Here: the estimated numbers of an example."""
    numbers = dict(found)
    pairs = numbers.pop("pairs").numpy()
    return Estimated(measured(numbers), pairs)


def own_answers(model: BlipVQA, asked: Sequence[Encoded]) -> list[list[int]]:
    """On the server: the model's own answers, [SEP] left out; an empty list where it answers nothing."""
    return [model.own_answer(one, model.image_embeds(one), empty=True) for one in asked]


def answer(model: BlipVQA, encoded: Encoded) -> tuple[list[int], float, float]:
    """On the server: the model's own answer, its probability and log-probability."""
    clean = CleanRun(model, encoded, model.own_answer(encoded, model.image_embeds(encoded)))
    with torch.no_grad(), clean:
        pass
    return clean.answer_ids, clean.probability, clean.log_probability


def weights(model: BlipVQA) -> str:
    """On the server: a hash of the weights that it has."""
    return provenance.weights_hash(model)
