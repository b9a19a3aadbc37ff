"""Whatever goes wrong with a server becomes a `RemoteError` with its remedy, without the API key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnblip.blip.upstream import CONFIG, ServerSays
from nnblip.errors import NnblipError, RemoteError

SERVE = "start one with `nnblip serve` and export NDIF_HOST as it says"
AGAIN = "start it again (`nnblip serve`) and send the request again: nothing of it is kept"


@contextmanager
def faults(where: str) -> Iterator[None]:
    """Around all that talks to the server `where`. Raises `RemoteError`."""
    import httpx
    import websocket

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
