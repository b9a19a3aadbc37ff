"""nnblip: where inside the vision-language model BLIP the answer to a visual question comes from.

The names below load what they need when they are first used, so that `import nnblip`
and `nnblip --help` are quick.
"""

from __future__ import annotations

import importlib as _importlib
import importlib.util as _util
import sys as _sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import xarray

    from nnblip import datasets, demo, effects, noise, plot, report, results, sites
    from nnblip.diagnosis import diagnose
    from nnblip.edges import knock_out
    from nnblip.effects import gamma, indirect_effect, relevance, total_effect
    from nnblip.errors import NnblipError, NnblipWarning, RemoteError
    from nnblip.examples import Example
    from nnblip.model import BlipVQA
    from nnblip.paths import Edge
    from nnblip.plants import planted
    from nnblip.results import open_result as open
    from nnblip.sites import Site
    from nnblip.sweeps.sweep import sweep
    from nnblip.tracing.attention import attention
    from nnblip.tracing.attribution import attribution_trace
    from nnblip.tracing.circuits import circuit_scores, circuit_trace
    from nnblip.tracing.jobs import Job
    from nnblip.tracing.lens import lens
    from nnblip.tracing.pointing import pointing
    from nnblip.tracing.trace import causal_trace
    from nnblip.version import __version__ as __version__

_MODULES = ("datasets", "demo", "effects", "noise", "plot", "report", "results", "sites")
_NAMES = {
    "__version__": "version",
    "BlipVQA": "model",
    "Edge": "paths",
    "Example": "examples",
    "Job": "tracing.jobs",
    "NnblipError": "errors",
    "NnblipWarning": "errors",
    "RemoteError": "errors",
    "Site": "sites",
    "attention": "tracing.attention",
    "attribution_trace": "tracing.attribution",
    "causal_trace": "tracing.trace",
    "circuit_scores": "tracing.circuits",
    "circuit_trace": "tracing.circuits",
    "diagnose": "diagnosis",
    "gamma": "effects",
    "indirect_effect": "effects",
    "knock_out": "edges",
    "planted": "plants",
    "lens": "tracing.lens",
    "open": "results",
    "pointing": "tracing.pointing",
    "relevance": "effects",
    "sweep": "sweeps.sweep",
    "total_effect": "effects",
}
#: Public names that are called otherwise where they are made.
_ORIGINALS = {"open": "open_result"}
__all__ = [
    "BlipVQA", "Edge", "Example", "Job", "NnblipError", "NnblipWarning", "RemoteError", "Site", "attention",
    "attribution_trace", "causal_trace", "circuit_scores", "circuit_trace", "datasets", "demo", "diagnose", "effects",
    "gamma", "indirect_effect", "knock_out", "lens", "noise", "open", "planted", "plot", "pointing", "relevance",
    "report", "results", "save", "sites", "sweep", "total_effect",
]  # fmt: skip


def save(tree: xarray.DataTree, path: str | Path, overwrite: bool = False) -> Path:
    """Store a result, see `nnblip.results.save`.

    (No name that is handed on at first use: nnsight gives every object a method `save`, modules too.)
    """
    from nnblip import results

    return results.save(tree, path, overwrite)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        found: object = _importlib.import_module(f"nnblip.{name}")
    elif name in _NAMES:
        found = getattr(_importlib.import_module(f"nnblip.{_NAMES[name]}"), _ORIGINALS.get(name, name))
    else:
        raise AttributeError(f"module 'nnblip' has no attribute {name!r}")
    _give_accessors()
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _give_accessors() -> None:
    """`result.nnblip`, once xarray is there: importing it takes ten times as long as all of this file.

    (A server has neither results nor the file.)
    """
    if "xarray" in _sys.modules and _util.find_spec("nnblip.accessors"):
        _importlib.import_module("nnblip.accessors")


_give_accessors()
