"""What a request brings: the block as nnsight packs it, and nnblip itself, see `nnblip.remote.arrival`."""

from __future__ import annotations

import hashlib
import json
import linecache
import operator
import pickle
import sys
import zlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nnblip.blip import upstream
from nnblip.blip.network import Blip
from nnblip.remote import errand
from nnblip.remote.sources import needed
from nnblip.remote.turns import TURN


class _Arrival:
    """Pickled, it is the call that makes nnblip importable where it is read."""

    def __reduce__(self) -> Any:
        packed, digest = packed_sources()
        text = (Path(__file__).parent / "arrival.py").read_text(encoding="utf-8")
        return exec, (text, {"packed": packed, "digest": digest, "__name__": "nnblip_arrival"})


class _After:
    """Pickled, it is `value`, read after the arrival and before what `last` is."""

    def __init__(self, value: Any, last: Any = None) -> None:
        self.value, self.last = value, last

    def __reduce__(self) -> Any:
        return operator.getitem, ([_Arrival(), self.value, self.last], 1)


class Processor:
    """Pickled, it gives the model there its processor, for images and questions inside the user's own block."""

    def __init__(self, model: Blip) -> None:
        self.model = model

    def __reduce__(self) -> Any:
        return errand.equip, (self.model, pickle.dumps(self.model.processor))


@lru_cache
def packed_sources() -> tuple[bytes, str]:
    """The modules that a request brings, and their digest: the errands, the model, and what these import."""
    packed = zlib.compress(json.dumps(needed("nnblip.remote.errand", "nnblip.model")).encode(), 9)
    return packed, hashlib.blake2b(packed, digest_size=16).hexdigest()


def payload(tracer: Any, compress: bool, last: Any = None) -> bytes:
    """A traced block as nnsight sends it, behind the arrival of nnblip and before what `last` is."""
    with TURN.taken():  # what travels by value is noted in one place for all threads
        blob = upstream.pack(partial(_After, last=last), tracer, not_by_value="nnblip")
    if compress:
        import zstandard

        blob = zstandard.ZstdCompressor(level=6).compress(blob)
    return blob


class Rehearsal(upstream.LocalSimulationBackend):
    """nnsight's `remote="local"`: a block is packed and, with what a server lacks hidden, unpacked; then run here."""

    def __call__(self, tracer: Any) -> None:
        blob, finders, lines = payload(tracer, False), list(sys.meta_path), dict(linecache.cache)
        hidden = self._hide_local_modules()
        try:
            tracer.info.code = upstream.unpack(blob, self.model, False).info.code
        finally:
            sys.meta_path[:] = finders
            linecache.cache.clear()
            linecache.cache.update(lines)
            for name in [name for name in sys.modules if name.partition(".")[0] == "nnblip"]:
                del sys.modules[name]  # those that were sent
            self._restore(hidden)
        tracer.execute(tracer.info.code)
