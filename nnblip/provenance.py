"""By which code, model and settings a result was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = ("nnblip", "nnsight", "torch", "transformers", "xarray")
#: Files and folders of the package that no number of a trace depends on. A file that is new counts.
NO_NUMBERS = (
    "__init__", "__main__", "agenda", "attribution", "averages", "cli", "datasets", "demo", "doctor", "effects",
    "envelope", "errors", "faults", "flight", "jobs", "packing", "plot", "printing", "processes", "provenance",
    "reading", "remote", "serving", "store", "sweeping", "verify",
)  # fmt: skip


@lru_cache
def code() -> dict[str, str]:
    """Package versions and, in a checkout, the git commit ("+" if files are changed)."""
    versions = {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES}
    here = Path(__file__).parent
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


def attributes(model: Any, **settings: Any) -> dict[str, Any]:
    """Attributes of a result's root: model, code, settings, time (UTC)."""
    where = sorted({str(parameter.device) for parameter in model._module.parameters()})
    return {
        "model": model.name,
        "revision": str(model.revision or ""),
        "model_commit": str(getattr(model.config, "_commit_hash", None) or ""),
        "dtype": str(model._module.dtype).removeprefix("torch."),
        "device": "remote" if getattr(model, "remote", False) else ", ".join(where),
        **settings,
        **code(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def digest(parts: Iterable[bytes | memoryview | str]) -> str:
    """A short hash of bytes and texts, in their order; where one ends and the next begins counts."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf8", "backslashreplace") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.hexdigest()


@lru_cache
def source_hash() -> str:
    """Hash of the package's files that numbers depend on."""
    here = Path(__file__).parent
    files = sorted(path.relative_to(here) for path in here.rglob("*.py"))
    counted = [path for path in files if path.parts[0].removesuffix(".py") not in NO_NUMBERS]
    return digest(part for path in counted for part in (path.as_posix(), (here / path).read_bytes()))


def weights_hash(model: Any) -> str:
    """Hash of all weights, 1 to 2 s for each GB. Of those that accelerate has moved to disk, only the shapes count."""
    import torch

    def parts() -> Any:
        for name, weight in (*model._module.named_parameters(), *model._module.named_buffers()):
            yield f"{name} {tuple(weight.shape)} {weight.dtype}"
            if weight.device.type != "meta":
                yield weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return digest(parts())


def fingerprint(model: Any) -> dict[str, str]:
    """What decides about the numbers of a trace besides its settings and examples: model and code.

    Raises:
        RemoteError: if the model is remote, and its server cannot be asked.
    """
    if model.remote:
        from nnblip.remote import ask

        weights = ask(model, "weights")
    else:
        weights = weights_hash(model)
    known = attributes(model)
    kept = {name: known[name] for name in ("model", "revision", "model_commit", "dtype")}
    return {
        **kept,
        "device": ", ".join(sorted({part.partition(":")[0] for part in known["device"].split(", ")})),
        "weights": weights,
        "source": source_hash(),
        **{f"version_{name}": known[f"version_{name}"] for name in ("nnblip", "nnsight", "torch", "transformers")},
    }
