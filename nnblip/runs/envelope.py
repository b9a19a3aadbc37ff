"""Around what runs on a server: is it the model that is meant, and what of its results, errors and warnings comes back.

Builtins and tensors come back, no instances of nnblip's classes: who reads a result may
have another nnblip. An error of nnblip's own comes back as its name and text, and is
raised again as what it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from nnblip import errors
from nnblip.blip.network import Blip
from nnblip.errors import NnblipError, NnblipWarning, RemoteError


def sealed(model: Blip, errand: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """On the server: what `errand(model, *args)` gives, or its error, and what was warned of."""
    served, expected = type(model._module).__name__, model.task.architecture
    if served != expected:
        return {"error": ("ModelError", f"the server serves {served} under this name; expected {expected}")}
    if (dtype := model._module.dtype) != model.dtype:
        names = [str(one).removeprefix("torch.") for one in (dtype, model.dtype)]
        return {
            "error": (
                "ModelError",
                f"the server holds the model in {names[0]}, {names[1]} is asked for: the numbers would be others;"
                f" Blip(..., dtype={names[0]!r}, remote=True) takes them, or start the server with {names[1]}",
            )
        }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NnblipWarning)
        try:
            result = {"result": errand(model, *args)}
        except NnblipError as error:
            result = {"error": (type(error).__name__, str(error))}
    told = [str(one.message) for one in said if issubclass(one.category, NnblipWarning)]
    return {**result, "warnings": told}


def opened(answer: Any) -> Any:
    """Here: what `sealed` brought back. Raises the error that it brought instead."""
    if not isinstance(answer, dict) or not {"result", "error"} & set(answer):
        raise RemoteError("the server sent back something else than a result of nnblip; send the request again")
    for text in answer.get("warnings", ()):
        warnings.warn(text, NnblipWarning, stacklevel=3)
    if "error" in answer:
        name, text = answer["error"]
        known = getattr(errors, name, NnblipError)
        raise (known if issubclass(known, NnblipError) else NnblipError)(text)
    return answer["result"]
