"""What a request brings: the block as nnsight packs it, and nnblip itself, see `nnblip.arrival`."""

from __future__ import annotations

import hashlib
import json
import linecache
import operator
import pickle
import sys
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.serialization import dumps, reduce_block
from nnsight.schema.request import RequestModel

from nnblip import errand

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: The modules that a request brings, in an order in which they can be imported.
MODULES = (
    "", "errors", "sites", "noise", "roles", "edges", "inputs", "plan", "outcome", "interventions", "engine", "vision",
    "envelope", "runs", "contexts", "decoding", "loading", "model", "settings", "measure", "gradients", "provenance",
    "errand",
)  # fmt: skip
#: What travels by value is noted in one place for all threads, so they pack their requests one after the other.
_packing = threading.Lock()


class _Arrival:
    """Pickled, it is the call that makes nnblip importable where it is read."""

    def __reduce__(self) -> Any:
        packed, digest = luggage()
        text = (Path(__file__).parent / "arrival.py").read_text()
        return exec, (text, {"packed": packed, "digest": digest, "__name__": "nnblip_arrival"})


class _After:
    """Pickled, it is `value`, read after the arrival and before what `last` is."""

    def __init__(self, value: Any, last: Any = None) -> None:
        self.value, self.last = value, last

    def __reduce__(self) -> Any:
        return operator.getitem, ([_Arrival(), self.value, self.last], 1)


class Processor:
    """Pickled, it gives the model there its processor, for images and questions inside the user's own block."""

    def __init__(self, model: BlipVQA) -> None:
        self.model = model

    def __reduce__(self) -> Any:
        return errand.equip, (self.model, pickle.dumps(self.model.processor))


@lru_cache
def luggage() -> tuple[bytes, str]:
    """The packed modules, and their digest."""
    here = Path(__file__).parent
    sources = {
        f"nnblip.{name}" if name else "nnblip": (here / f"{name or '__init__'}.py").read_text() for name in MODULES
    }
    packed = zlib.compress(json.dumps(sources).encode(), 9)
    return packed, hashlib.blake2b(packed, digest_size=16).hexdigest()


def payload(tracer: Any, compress: bool, last: Any = None) -> bytes:
    """A traced block as nnsight sends it, behind the arrival of nnblip and before what `last` is."""
    with _packing:
        return _payload(tracer, compress, last)


def _payload(tracer: Any, compress: bool, last: Any) -> bytes:
    import cloudpickle
    from nnsight.ndif import pull_env

    pull_env()  # the user's own modules travel by value, as nnsight does it
    by_value = cloudpickle.list_registry_pickle_by_value()
    import nnblip

    if "nnblip" in by_value:  # an editable installation
        cloudpickle.unregister_pickle_by_value(nnblip)
    frame = tracer.info.frame
    blob = dumps((_After(tracer, last), reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))))
    if compress:
        import zstandard

        blob = zstandard.ZstdCompressor(level=6).compress(blob)
    return blob


class Rehearsal(LocalSimulationBackend):
    """nnsight's `remote="local"`: a block is packed and, with what a server lacks hidden, unpacked; then run here."""

    def __call__(self, tracer: Any) -> None:
        blob, finders, lines = payload(tracer, False), list(sys.meta_path), dict(linecache.cache)
        hidden = self._hide_local_modules()
        try:
            tracer.info.code = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects()).info.code
        finally:
            sys.meta_path[:] = finders
            linecache.cache.clear()
            linecache.cache.update(lines)
            for name in [name for name in sys.modules if name.partition(".")[0] == "nnblip"]:
                del sys.modules[name]  # those that were sent
            self._restore(hidden)
        tracer.execute(tracer.info.code)
