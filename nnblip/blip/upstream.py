"""All that nnblip takes from nnsight beyond its documented names, in this one file.

nnsight is young and changes. Whatever here is taken or overridden by name has a test in
tests/test_upstream.py that says what broke; nothing else of nnblip imports these names.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nnsight.intervention.backends.local import LocalSimulationBackend as LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend as RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as ServerSays
from nnsight.intervention.envoy import Envoy as Envoy
from nnsight.intervention.envoy import traceable as traceable
from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.serialization import dumps, reduce_block
from nnsight.intervention.serialization import loads as loads
from nnsight.intervention.tracer import InterleavingTracer as InterleavingTracer
from nnsight.intervention.util import clear_shared_locals
from nnsight.modeling.huggingface import HuggingFaceModel as HuggingFaceModel
from nnsight.modeling.mixins.meta import MetaDevice
from nnsight.schema.config import CONFIG as CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel as ResponseModel
from nnsight.schema.response import Status as Status
from nnsight.tracing.tracer import push_result, save
from nnsight.tracing.util import push

from nnblip.errors import SettingError

__all__ = [
    "CONFIG", "Envoy", "HuggingFaceModel", "InterleavingTracer", "LocalSimulationBackend", "RemoteBackend",
    "ResponseModel", "ServerSays", "Status", "bring_back", "dumps", "edits_of", "edits_served", "is_edited",
    "lines_kept", "loads", "pack", "real_device", "run_beside", "served_class", "skip", "status_code",
    "traceable", "unpack",
]  # fmt: skip

# --- a pass --------------------------------------------------------------------------


class Worker(Mediator):
    """Intervention code of nnblip's own, a function, that runs beside a traced body."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(None, {}, {})
        self.work = work

    def _run(self) -> None:
        self.work()
        self.flush()


def run_beside(
    tracer: InterleavingTracer, model: Any, code: Any, inputs: dict[str, Any], before: Callable[[], None],
    after: Callable[[], None],
) -> None:  # fmt: skip
    """One forward pass with a tracer's body in it, as nnsight executes it, between two functions of intervention code.

    Args:
        tracer: whose block it is.
        model: the nnsight model.
        code: the body, compiled.
        inputs: arguments of the model's forward.
        before: comes before the body's code at every place of the model.
        after: comes after it.
    """
    frame, interleaver = tracer.info.frame, model.interleaver
    tracer.batcher = model._batcher_class(model, inputs)
    body = Mediator(code, frame.f_globals, dict(frame.f_locals), node=tracer.node)
    body.batch_group = tracer.batcher.add(**inputs)
    interleaver.mediators = [Worker(before), body, Worker(after)]
    try:
        model.interleave(tracer.fn, batcher=tracer.batcher)
        push_result(frame, body.lcls.writes())
    finally:
        interleaver.cancel()
        clear_shared_locals()


def skip(module: Any, value: Any) -> None:
    """Inside a trace: this value in place of what the module's forward would give."""
    module.skip(value)


def is_edited(model: Any) -> bool:
    """Whether interventions are stored on a model, which every run of it then has (`model.edit()`)."""
    return bool(model._edits)


def edits_of(model: Any) -> list[tuple[str, dict[str, Any]]]:
    """The source of each block that `model.edit()` stored, and the values that it refers to by name."""
    found = []
    for edit in model._edits:
        source, globals_, locals_ = reduce_block(edit.node, edit.glbls, edit.lcls)
        found.append((source.strip(), {**globals_, **locals_}))
    return found


@contextmanager
def edits_served(model: Any) -> Iterator[None]:
    """Around a pass in which some modules do not run as they would: an edit there would have no effect.

    Raises:
        SettingError: if an edit waits for such a module.
    """
    try:
        yield
    except OutOfOrderError as error:
        if not is_edited(model):
            raise
        raise SettingError(
            f"an edit of this model is at a place that a trace of many cells does not run ({error}); edit what its"
            " sublayer gives instead, such as crossattention.output"
        ) from error


def bring_back(tracer: InterleavingTracer, name: str, value: Any) -> None:
    """On a server: a value that goes back as a variable of the tracer's frame."""
    push(tracer.info.frame, {name: save(value)})


def served_class() -> type:
    """The class under which a stock NDIF server has a model of transformers."""
    from nnsight.modeling.transformers import TransformersModel

    return TransformersModel


@contextmanager
def real_device() -> Iterator[None]:
    """Inside a model's `_load_meta`: tensors that are made have numbers."""
    with MetaDevice.real():
        yield


# --- a request -----------------------------------------------------------------------


def pack(wrap: Callable[[Any], Any], tracer: InterleavingTracer, not_by_value: str) -> bytes:
    """A block as nnsight sends it; of the user's own modules, functions and classes travel by value.

    Args:
        wrap: what is packed in place of the tracer.
        tracer: whose block it is.
        not_by_value: a package that travels in another way.
    """
    import importlib

    import cloudpickle
    from nnsight.ndif import pull_env

    pull_env()
    if not_by_value in cloudpickle.list_registry_pickle_by_value():  # an editable installation
        cloudpickle.unregister_pickle_by_value(importlib.import_module(not_by_value))
    frame = tracer.info.frame
    return dumps((wrap(tracer), reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))))


def unpack(blob: bytes, model: Any, compressed: bool) -> Any:
    """A packed tracer, whose block then stands in `linecache` under the name of its file."""
    return RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compressed)


@contextmanager
def lines_kept() -> Iterator[None]:
    """After this, `linecache` has again what it had of the files that an unpacked block replaced."""
    lines = dict(linecache.cache)
    try:
        yield
    finally:
        linecache.cache.update(lines)


def status_code(error: ServerSays) -> int | None:
    """The HTTP status with which a server refused a request, None if it said something else."""
    answer = getattr(error.__cause__, "response", None)
    return getattr(answer, "status_code", None)
