"""Which weights are these? One short text for all of a model's, the same here and on a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch


def digest(parts: Iterable[bytes | memoryview | str]) -> str:
    """A short hash of bytes and texts, in their order; where one ends and the next begins counts."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf8", "backslashreplace") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.hexdigest()


def weights_hash(module: torch.nn.Module) -> str:
    """Hash of all weights, 1 to 2 s for each GB. Of those that accelerate has moved to disk, only the shapes count."""

    def parts() -> Iterator[memoryview | str]:
        for name, weight in (*module.named_parameters(), *module.named_buffers()):
            yield f"{name} {tuple(weight.shape)} {weight.dtype}"
            if weight.device.type != "meta":
                yield weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return digest(parts())
