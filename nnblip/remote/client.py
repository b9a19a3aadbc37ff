"""Requests to an NDIF server: sent and waited for.

nnsight's own backend does the talking. Added here: a deadline to every wait, and a look at
the server when it is silent.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import nnsight

from nnblip.blip import upstream
from nnblip.blip.network import Blip
from nnblip.errors import RemoteError, visible
from nnblip.remote import errand
from nnblip.remote.faults import AGAIN, faults, without_key
from nnblip.remote.packing import Processor, payload
from nnblip.remote.trust import check_address, read, read_status, shown
from nnblip.remote.turns import TURN
from nnblip.runs.envelope import opened, sealed
from nnblip.runs.run import BROUGHT, Run

#: Seconds: for a whole request, to connect, and of silence before the server is asked whether it lives.
TIMEOUT, CONNECT, SILENCE = 1800.0, 10.0, 5.0
#: How often in a row a server that is silent may fail to say that it lives.
PATIENCE = 4
#: Bytes: more than this is not sent. A request of nnblip's has some hundred kilobytes.
LARGEST = 256 * 2**20


class Backend(upstream.RemoteBackend):
    """nnsight's backend, with nnblip in its luggage and a deadline.

    Args:
        model: the model.
        timeout: seconds for a request; `TIMEOUT` if None.
        by_hand: whether the block is the user's own, and so are its results.
        **options: of nnsight's backend; `host` is NDIF_HOST if not given.

    Attributes:
        sent, received: bytes of the last request.
    """

    def __init__(self, model: Blip, timeout: float | None = None, by_hand: bool = False, **options: Any) -> None:
        host = str(options.pop("host", None) or upstream.CONFIG.API.HOST).rstrip("/")
        super().__init__(model.to_model_key(), check_address(host), env=model._remoteable_get_env(), **options)
        self.timeout = timeout or TIMEOUT
        # a block written by hand may read images and questions, may save anything, and may take long
        self.last, self.trusting = Processor(model) if by_hand else None, by_hand
        self.sent = self.received = 0
        if not by_hand:
            self.display.enabled = False

    def __call__(self, tracer: Any = None) -> Any:
        with TURN.given():
            check(self.host)
        return super().__call__(tracer)

    def _push(self, result: Any, tracer: Any) -> None:
        brought = result.pop(BROUGHT, None)
        super()._push(result, tracer)
        if isinstance(tracer, Run):
            tracer.arrived(brought)

    def _serialize(self, tracer: Any) -> bytes:
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
        with TURN.taken():
            return super().finalize(content) if self.trusting else unpacked(content, self.compress)

    @staticmethod
    def parse(message: str | bytes) -> upstream.ResponseModel:
        with TURN.taken():
            if isinstance(message, bytes | bytearray):
                return read_status(bytes(message))
            return upstream.RemoteBackend.parse(message)

    def request(self, request: Any, tracer: Any) -> Any:
        """As nnsight's, which waits for ever."""
        blob = self._serialize(tracer)  # what fails here is the block's own fault
        with TURN.given(), faults(self.host):
            return self._answer_to(request, blob)

    def _post(self, request: Any, blob: bytes) -> Any:
        with faults(self.host):
            return _plain_status(super()._post(request, blob))

    def note(self, response: upstream.ResponseModel) -> bool:
        return super().note(_plain_status(response))

    def poll(self, tracer: Any = None) -> Any:
        with faults(self.host):
            return super().poll(tracer)

    def _answer_to(self, request: Any, blob: bytes) -> Any:
        import websocket

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
                        raise RemoteError(
                            f"the server {shown(self.host)} is gone or has lost its stores or its Ray; {AGAIN}"
                        )
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
                if response.status == upstream.Status.COMPLETED:
                    return result
        finally:
            connection.close()


def unpacked(content: bytes, compressed: bool) -> Any:
    """A result of nnblip's own as it came, see `nnblip.remote.trust`."""
    if compressed:
        import zstandard

        content = zstandard.ZstdDecompressor().decompress(content)
    return read(content)


def _plain_status(response: upstream.ResponseModel) -> upstream.ResponseModel:
    """What a server says of a request, as nnsight may draw it on a terminal."""
    return response.model_copy(
        update={name: visible(text) for name in ("id", "description") if (text := getattr(response, name))}
    )


def ask(model: Blip, name: str, *args: Any, timeout: float | None = None, **options: Any) -> Any:
    """Run a function of `nnblip.remote.errand` on the server.

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


def for_blocks(model: Blip, **options: Any) -> Backend:
    """For a block of the user's own, after a look at what the server serves under the model's name."""
    backend = Backend(model, by_hand=True, **options)
    if backend.job_id is None and (known := (backend.host, model.to_model_key(), model.dtype)) not in _SERVED:
        ask(model, "nothing", host=backend.host)
        _SERVED.add(known)
    return backend


def downloaded(host: str, where: Any) -> Any:
    """The result of a job of nnblip's own, from what its status carried: the result, or where it is."""
    backend = _Download("", check_address(host))
    backend.display.enabled = False
    return backend.download_result(where)


class _Download(upstream.RemoteBackend):
    def finalize(self, content: bytes) -> Any:
        return unpacked(content, self.compress)


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

    where = shown(server)
    with faults(server):
        answer = httpx.get(f"{server}/env", timeout=httpx.Timeout(CONNECT, read=90.0))
        if answer.status_code == 404:
            return  # a server that does not say
        if answer.status_code != 200:
            raise RemoteError(
                f"the server {where} is not ready (HTTP {answer.status_code}: {without_key(answer.text)[:200]!r});"
                " wait until `nnblip serve` says that it is, then try again"
            )
        there = answer.json().get("packages", {})
    for package, parts in (("nnsight", 2), ("transformers", 1)):
        theirs, ours = str(there.get(package, "")), importlib.metadata.version(package)
        if theirs and theirs.split(".")[:parts] != ours.split(".")[:parts]:
            raise RemoteError(
                f"the server {where} has {package} {theirs}, this client {ours}: they cannot talk;"
                f" install {package} {'.'.join(theirs.split('.')[:parts])} here, or another server"
            )
