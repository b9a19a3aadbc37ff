"""What decides about the numbers of a sweep besides its settings and examples: the model and the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from nnblip.blip.weights import digest, weights_hash
from nnblip.model import BlipVQA
from nnblip.remote import client
from nnblip.remote.sources import needed
from nnblip.tracing import provenance


def fingerprint(model: BlipVQA) -> dict[str, str]:
    """By name, texts that must be the same for a store to be gone on with.

    Raises:
        RemoteError: if the model is remote, and its server cannot be asked.
    """
    weights = client.ask(model, "weights") if model.remote else weights_hash(model._module)
    known = provenance.attributes(model)
    kept = {name: known[name] for name in ("model", "revision", "model_commit", "dtype")}
    return {
        **kept,
        "device": ", ".join(sorted({part.partition(":")[0] for part in known["device"].split(", ")})),
        "weights": weights,
        "source": source_hash(),
        **{f"version_{name}": known[f"version_{name}"] for name in ("nnblip", "nnsight", "torch", "transformers")},
    }


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
