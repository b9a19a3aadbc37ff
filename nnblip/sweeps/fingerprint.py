"""What decides about the numbers of a sweep besides its settings and examples: the model and the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, ModuleType

import numpy as np
import torch

from nnblip.blip.upstream import Envoy, edits_of
from nnblip.blip.weights import digest, weights_hash
from nnblip.errors import SettingError
from nnblip.model import BlipVQA
from nnblip.remote import client
from nnblip.remote.sources import needed
from nnblip.tracing import provenance

#: Functions of these are known by name: their versions are in the fingerprint.
PACKAGES = ("torch", "nnsight", "nnblip")


def fingerprint(model: BlipVQA) -> dict[str, str]:
    """By name, texts that must be the same for a store to be gone on with.

    Raises:
        SettingError: if the model is edited with something of which it cannot be told whether it stays the same.
        RemoteError: if the model is remote, and its server cannot be asked.
    """
    weights = client.ask(model, "weights") if model.remote else weights_hash(model._module)
    known = provenance.attributes(model)
    kept = {name: known[name] for name in ("model", "revision", "model_commit", "dtype")}
    return {
        **kept,
        "device": ", ".join(sorted({part.partition(":")[0] for part in known["device"].split(", ")})),
        "weights": weights,
        **({"edits": digest(edited)} if (edited := list(_edits(model))) else {}),
        "source": source_hash(),
        **{f"version_{name}": known[f"version_{name}"] for name in ("nnblip", "nnsight", "torch", "transformers")},
    }


def _edits(model: BlipVQA) -> Iterator[str]:
    """What `model.edit()` stored on a model, as texts: the source of each block, and all that it refers to."""
    for source, names in edits_of(model):
        yield meaning(source)
        for name in sorted(names):
            yield from (name, _same(names[name], name))


def _same(value: object, name: str) -> str:
    """A text that is the same for the same value, in another process too."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | range | slice):
        return repr(value)
    if isinstance(value, torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{', '.join(_same(one, name) for one in value)}]"
    if isinstance(value, dict):
        return f"dict[{', '.join(_same(pair, name) for pair in value.items())}]"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy() if value.dtype == torch.bfloat16 else value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape} {digest([np.ascontiguousarray(value).data.cast('B')])}"
    if isinstance(value, Envoy):
        return f"model {value.path}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, FunctionType) and value.__module__.partition(".")[0] in PACKAGES:
        return f"function {value.__module__}.{value.__qualname__}"
    raise SettingError(
        f"a sweep of an edited model: its edit refers to {name} = {value!r:.80}, of which it cannot be told whether it"
        " stays the same; refer to numbers, texts, arrays or tensors, and write functions out in the edit"
    )


@lru_cache
def source_hash() -> str:
    """Hash of what the code of a trace means: of all modules that `nnblip.tracing.trace` needs, wherever it runs."""
    sources = needed("nnblip.tracing.trace", inside_functions=True)
    return "code " + digest(part for name in sorted(sources) for part in (name, meaning(sources[name])))


def meaning(source: str) -> str:
    """A module's syntax tree as a text without comments and docstrings, the same under every version of Python."""
    return " ".join(_said(ast.parse(source)))


def _said(node: object) -> Iterator[str]:
    if isinstance(node, list):
        yield "["
        for one in node:
            yield from _said(one)
        yield "]"
    elif isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value = _without_docstring(node, value)
            # a field that is empty may be one that only later versions of Python have
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment"):
                yield name
                yield from _said(value)
        yield ")"
    else:
        yield repr(node)


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return body[1:] if documented and ast.get_docstring(node) is not None else body  # type: ignore[arg-type]
