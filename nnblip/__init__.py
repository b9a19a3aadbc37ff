"""nnblip: where inside the vision-language model BLIP the answer to a visual question comes from.

The names below load what they need when they are first used, so that `import nnblip`
and `nnblip --help` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnblip import datasets, demo, effects, noise, plot, report, results, sites
    from nnblip.diagnosis import diagnose
    from nnblip.edges import knock_out
    from nnblip.effects import gamma, indirect_effect, relevance, total_effect
    from nnblip.errors import NnblipError, NnblipWarning, RemoteError
    from nnblip.examples import Example
    from nnblip.model import BlipVQA
    from nnblip.paths import Edge
    from nnblip.plants import planted
    from nnblip.sites import Site
    from nnblip.sweeps.sweep import sweep
    from nnblip.tracing.attention import attention
    from nnblip.tracing.attribution import attribution_trace
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
    "diagnose": "diagnosis",
    "gamma": "effects",
    "indirect_effect": "effects",
    "knock_out": "edges",
    "planted": "plants",
    "lens": "tracing.lens",
    "pointing": "tracing.pointing",
    "relevance": "effects",
    "sweep": "sweeps.sweep",
    "total_effect": "effects",
}
__all__ = [
    "BlipVQA", "Edge", "Example", "Job", "NnblipError", "NnblipWarning", "RemoteError", "Site", "attention",
    "attribution_trace", "causal_trace", "datasets", "demo", "diagnose", "effects", "gamma", "indirect_effect",
    "knock_out", "lens", "noise", "planted", "plot", "pointing", "relevance", "report", "results", "sites", "sweep",
    "total_effect",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nnblip.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"nnblip.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'nnblip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
