"""`nnblip serve`: what the command does."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from nnblip import demo
from nnblip.blip.loading import served_name
from nnblip.remote.server.stack import PORT, Stack, check_installed


def model_key(model: str | None) -> str:
    """The name under which clients ask for a hub id, a folder, or (None) the bundled model."""
    name = served_name(str(demo.MODEL if model is None else model), None)
    return f"nnsight.modeling.transformers.TransformersModel:{name}"


def serve(model: str | None, port: int = PORT, dtype: str = "float32") -> int:
    """Serve until Ctrl-C or SIGTERM; 1 if a process of the server ended by itself.

    Raises:
        RemoteError: if it cannot start.
    """
    check_installed()
    began = time.monotonic()
    stack = Stack([model_key(model)], port, dtype, say=lambda text: print(f"  {text}", flush=True))

    def stop(number: int, frame: FrameType | None) -> None:
        stack.stopped = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        print(f"Starting NDIF with {model or 'the bundled model'} on {stack.url}", flush=True)
        try:
            stack.start()
            asked = repr(model) + ", " if model else ""
            print(
                f"Ready after {time.monotonic() - began:.0f} s. For clients on this machine:\n\n"
                f"    export NDIF_HOST={stack.url}\n"
                f"{_key_line(stack.key)}\n"
                f"and in Python: nnblip.BlipVQA({asked}remote=True). Ctrl-C stops it.",
                flush=True,
            )
            while (dead := stack.dead()) is None:
                if stack.stopped:
                    return 0
                time.sleep(0.5)
            print(f"{dead} has ended by itself; stopping the rest. The next start begins anew.", flush=True)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            for number in before:
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not leave half of it running
            stack.stop()
            print("Stopped." if not stack.left() else f"Still running: {stack.left()}", flush=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _key_line(key: str | None) -> str:
    """What a client needs besides the address. A key that was given is not repeated: logs are read by others."""
    if key is None:
        return "    export NDIF_API_KEY=(a key of the database that NDIF_POSTGRES_URL names)\n"
    if key == os.environ.get("NDIF_API_KEY"):
        return "    (and NDIF_API_KEY as it is here)\n"
    return f"    export NDIF_API_KEY={key}\n"
