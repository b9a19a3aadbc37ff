"""By which code, model and settings a result was made."""

from __future__ import annotations

import importlib.metadata
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnblip.blip.upstream import edits_of
from nnblip.model import BlipVQA
from nnblip.version import __version__

PACKAGES = ("nnsight", "torch", "transformers", "xarray")


@lru_cache
def code() -> dict[str, str]:
    """Package versions and, in a checkout, the git commit ("+" if files are changed)."""
    versions = {"version_nnblip": __version__}
    versions |= {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES}
    here = Path(__file__).parents[1]
    commit = ""
    if (here.parent / ".git").exists():
        try:
            ask = ["git", "-C", str(here.parent)]
            commit = subprocess.run(
                [*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
            changed = subprocess.run([*ask, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
            commit += "+" if changed.strip() else ""
        except (OSError, subprocess.CalledProcessError):
            commit = ""
    return versions | {"git_commit": commit}


def attributes(model: BlipVQA, **settings: Any) -> dict[str, Any]:
    """Attributes of a result's root: model, code, settings, time (UTC)."""
    where = sorted({str(parameter.device) for parameter in model._module.parameters()})
    return {
        "model": model.name,
        "revision": str(model.revision or ""),
        "model_commit": str(getattr(model.config, "_commit_hash", None) or ""),
        "dtype": str(model._module.dtype).removeprefix("torch."),
        "layers": model.config.text_config.num_hidden_layers,
        "device": "remote" if model.remote else ", ".join(where),
        "edits": "\n".join(source for source, _ in edits_of(model)),
        **settings,
        **code(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
