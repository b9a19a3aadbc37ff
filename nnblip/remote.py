"""Requests to an NDIF server: sent, waited for, and every fault of theirs a `RemoteError` with its remedy.

nnsight's own backend does the talking. Added here: what a request brings with it (see
`nnblip.arrival`), a deadline to every wait, and a look at the server when it is silent.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import linecache
import operator
import pickle
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nnsight
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as ServerSays
from nnsight.intervention.serialization import dumps, reduce_block
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import Status

from nnblip import errand
from nnblip.envelope import opened, sealed
from nnblip.errors import NnblipError, RemoteError
from nnblip.runs import BROUGHT, Run

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: The modules that a request brings, in an order in which they can be imported.
MODULES = (
    "", "errors", "sites", "noise", "roles", "edges", "inputs", "plan", "outcome", "interventions", "engine", "vision",
    "envelope", "runs", "contexts", "decoding", "loading", "model", "settings", "measure", "gradients", "provenance",
    "errand",
)  # fmt: skip
#: Seconds: for a whole request, to connect, and of silence before the server is asked whether it lives.
TIMEOUT, CONNECT, SILENCE = 1800.0, 10.0, 5.0
#: How often in a row a server that is silent may fail to say that it lives.
PATIENCE = 4
#: Bytes: more than this is not sent. A request of nnblip's has some hundred kilobytes.
LARGEST = 256 * 2**20
#: What travels by value is noted in one place for all threads, so they pack their requests one after the other.
_packing = threading.Lock()
SERVE = "start one with `nnblip serve` and export NDIF_HOST as it says"


def host() -> str:
    """The server: nnsight's configuration, or NDIF_HOST."""
    return str(CONFIG.API.HOST).rstrip("/")


# --- what a request brings ----------------------------------------------------------------


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


class _Processor:
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


# --- sending and waiting ------------------------------------------------------------------


class Backend(RemoteBackend):
    """nnsight's backend, with nnblip in its luggage and a deadline.

    Attributes:
        sent, received: bytes of the last request.
    """

    def __init__(
        self, model: BlipVQA, timeout: float | None = None, quiet: bool = True, processor: bool = False, **options: Any
    ) -> None:
        super().__init__(model.to_model_key(), env=model._remoteable_get_env(), **options)
        self.timeout = timeout or TIMEOUT
        self.last = _Processor(model) if processor else None
        self.sent = self.received = 0
        if quiet:
            self.display.enabled = False

    def __call__(self, tracer: Any = None) -> Any:
        check(self.host)
        with faults(self):
            return super().__call__(tracer)

    def _push(self, result: Any, tracer: Any) -> None:
        brought = result.pop(BROUGHT, None)
        super()._push(result, tracer)
        if isinstance(tracer, Run):
            tracer.arrived(brought)

    def _serialize(self, tracer: Any) -> bytes:
        with _packing:
            blob = payload(tracer, self.compress, self.last)
        self.sent = len(blob)
        if isinstance(tracer, Run):
            tracer.sent = blob, self.compress
        if self.sent > LARGEST:
            raise RemoteError(
                f"the request has {self.sent / 2**20:.0f} MiB, at most {LARGEST / 2**20:.0f} are sent: its block refers"
                " to something large, which belongs on the server or into several requests"
            )
        return blob

    def finalize(self, content: bytes) -> Any:
        self.received = len(content)
        return super().finalize(content)

    def request(self, request: Any, tracer: Any) -> Any:
        """As nnsight's, which waits for ever."""
        import websocket

        blob = self._serialize(tracer)
        deadline = time.monotonic() + self.timeout
        key = {"ndif-api-key": self.api_key} if self.api_key else None
        connection = websocket.create_connection(f"{self.ws_host}/subscribe", header=key, timeout=CONNECT)
        try:
            request.session_id = json.loads(connection.recv())["session_id"]
            self.send(request, blob)
            heard, failed = time.monotonic(), 0
            while True:
                now = time.monotonic()
                if now > deadline:
                    raise RemoteError(
                        f"the deadline of {self.timeout:.0f} s passed while the server worked; give timeout= more"
                        " seconds, or submit the job with blocking=False"
                    )
                if now - heard > SILENCE:
                    heard, failed = now, 0 if lives(self.host) else failed + 1
                    if failed >= PATIENCE:
                        raise RemoteError(f"the server {self.host} is gone or has lost its stores or its Ray; {AGAIN}")
                connection.settimeout(max(0.05, min(SILENCE, deadline - now)))
                try:
                    message = connection.recv()
                except websocket.WebSocketTimeoutException:
                    self.display.refresh()
                    continue
                if not message:
                    raise websocket.WebSocketConnectionClosedException("closed")
                heard, failed = time.monotonic(), 0
                response = self.parse(message)
                result = self.handle(response)
                if response.status == Status.COMPLETED:
                    return result
        finally:
            connection.close()


AGAIN = "start it again (`nnblip serve`) and send the request again: nothing of it is kept"


def ask(model: BlipVQA, name: str, *args: Any, timeout: float | None = None, **options: Any) -> Any:
    """Run a function of `nnblip.errand` on the server.

    Returns:
        Its result; of a request that is not blocking, the backend, with the job's id.

    Raises:
        RemoteError: for any fault of the server or on the way.
        NnblipError: what the errand raised.
    """
    backend = Backend(model, timeout, **options)
    found: Any = None
    function: Callable[..., Any] = getattr(errand, name)
    send = sealed
    with model.session(backend=backend):
        found = nnsight.save(send(model, function, *args))
    return opened(found) if backend.blocking else backend


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


def for_blocks(model: BlipVQA, **options: Any) -> Backend:
    """For a block of the user's own, after a look at what the server serves under the model's name."""
    backend = Backend(model, quiet=False, processor=True, **options)
    if backend.job_id is None and (known := (backend.host, model.to_model_key(), model.dtype)) not in _SERVED:
        ask(model, "nothing", host=backend.host)
        _SERVED.add(known)
    return backend


_SERVED: set[tuple[Any, ...]] = set()


def lives(server: str) -> bool:
    """Whether the server answers and has its Ray."""
    import httpx

    try:
        return httpx.get(f"{server}/connected", timeout=CONNECT).status_code == 200
    except httpx.HTTPError:
        return False


@lru_cache
def check(server: str) -> None:
    """Before the first request: can this client and that server talk? Raises `RemoteError`."""
    import httpx

    with faults(None):
        answer = httpx.get(f"{server}/env", timeout=httpx.Timeout(CONNECT, read=90.0))
        if answer.status_code == 404:
            return  # a server that does not say
        if answer.status_code != 200:
            raise RemoteError(
                f"the server {server} is not ready (HTTP {answer.status_code}: {answer.text[:200]}); wait until"
                " `nnblip serve` says that it is, then try again"
            )
        there = answer.json().get("packages", {})
    for package, parts in (("nnsight", 2), ("transformers", 1)):
        theirs, ours = str(there.get(package, "")), importlib.metadata.version(package)
        if theirs and theirs.split(".")[:parts] != ours.split(".")[:parts]:
            raise RemoteError(
                f"the server {server} has {package} {theirs}, this client {ours}: they cannot talk;"
                f" install {package} {'.'.join(theirs.split('.')[:parts])} here, or another server"
            )


# --- faults -------------------------------------------------------------------------------


@contextmanager
def faults(backend: RemoteBackend | None) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `RemoteError` with its remedy, without the API key."""
    import httpx
    import websocket

    where = backend.host if backend is not None else host()
    try:
        yield
    except NnblipError:
        raise
    except ServerSays as error:
        raise RemoteError(without_key(explained(str(error), where))) from None
    except (ConnectionRefusedError, httpx.ConnectError, httpx.ConnectTimeout, TimeoutError) as error:
        raise RemoteError(f"no server answers at {where} ({_short(error)}); {SERVE}") from None
    except websocket.WebSocketBadStatusException as error:
        raise RemoteError(f"{where} is not an NDIF server, or not ready ({_short(error)}); {SERVE}") from None
    except (websocket.WebSocketException, httpx.HTTPError, ConnectionError) as error:
        raise RemoteError(
            f"the server {where} is gone in the middle of the request ({_short(error)}); {AGAIN}"
        ) from None
    except (OSError, ValueError) as error:
        raise RemoteError(f"the server {where} cannot be understood ({_short(error)}); is NDIF_HOST right?") from None


def without_key(text: str) -> str:
    """A text in which the API key is not readable."""
    return text.replace(CONFIG.API.APIKEY, "(API key)") if CONFIG.API.APIKEY else text


def _short(error: BaseException) -> str:
    return without_key(f"{type(error).__name__}: {error}"[:300])


def explained(text: str, where: str) -> str:
    """What the server says, with what to do about it."""
    low = text.lower()
    if "could not deploy this model" in low:
        line = next(line for line in text.splitlines() if "deploy" in line.lower())
        return f"the server {where} cannot serve this model: {line[:500]}\nIs its name right? Try `nnblip serve MODEL`"
    if "botocore" in low and "traceback" in low:
        line = text.strip().splitlines()[-1]
        return f"the server {where} could not put the result into its object store, which is gone ({line}); {AGAIN}"
    if "traceback" in low:  # before all that looks for a word, which may be anywhere in one
        return f"the block raised an error on the server:\n{text}"
    if "api key" in low or "401" in low or "403" in low:
        return f"the server {where} refuses the credentials ({text}); set NDIF_API_KEY, or `nnsight login`"
    if "auth backend" in low:
        return (
            f"the server {where} cannot check the credentials ({text}): the database of its keys does not answer; start"
            " that (its address is NDIF_POSTGRES_URL), and send the request again"
        )
    if "reconnecting" in low or "sorry for the inconvenience" in low:
        return (
            f"the server {where} has lost the process of its model, or its Ray ({text}); send the request again, and if"
            " that fails for more than a minute, start the server again (`nnblip serve`)"
        )
    if "internal server error" in low:
        return f"a part of the server {where} is gone, such as its Redis ({text}); {AGAIN}"
    if "no module at" in low:
        return f"the server's model is not the one that this client knows: {text}"
    if "payload could not be read" in low and "no module named 'pil'" in low:
        return f"the server cannot read images, it has no PIL: give the block what model.encode(...) gave ({text})"
    if "payload could not be read" in low:
        return f"the server could not read the request, as happens when versions differ: {text}"
    if "413" in low or "too large" in low:
        return f"the request is too large for the server {where}: {text}; trace fewer cells or images at a time"
    if "failed to send request" in low and ("refused" in low or "disconnected" in low):
        return f"the server {where} is gone ({text}); {AGAIN}"
    return (
        f"the server {where} says: {text}\nIs the model's name right, does the server have it (`nnblip serve MODEL`)?"
    )
