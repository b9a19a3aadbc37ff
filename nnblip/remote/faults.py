"""Whatever goes wrong with a server becomes a `RemoteError` with its remedy, without the API key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnblip.blip.upstream import CONFIG, ServerSays, status_code
from nnblip.errors import NnblipError, RemoteError, visible
from nnblip.remote.trust import password_in, shown

SERVE = "start one with `nnblip serve` and export NDIF_HOST as it says"
#: HTTP: credentials are missing, or not those of someone who may.
REFUSED = (401, 403)
AGAIN = "start it again (`nnblip serve`) and send the request again: nothing of it is kept"


@contextmanager
def faults(where: str) -> Iterator[None]:
    """Around a call over the network to the server `where`, and nothing else. Raises `RemoteError`."""
    import httpx
    import websocket

    where = shown(where)
    try:
        yield
    except NnblipError:
        raise
    except ServerSays as error:
        raise _fault(explained(str(error), where, status_code(error)), error) from error
    except websocket.WebSocketBadStatusException as error:
        if error.status_code in REFUSED:
            raise _fault(explained(str(error), where, error.status_code), error) from error
        raise _fault(f"{where} is not an NDIF server, or not ready ({_short(error)}); {SERVE}", error) from error
    except (ConnectionRefusedError, httpx.ConnectError, httpx.ConnectTimeout, TimeoutError) as error:
        raise _fault(f"no server answers at {where} ({_short(error)}); {SERVE}", error) from error
    except (websocket.WebSocketException, httpx.HTTPError, ConnectionError) as error:
        raise _fault(
            f"the server {where} is gone in the middle of the request ({_short(error)}); {AGAIN}", error
        ) from error
    except (OSError, ValueError) as error:
        raise _fault(
            f"the server {where} cannot be understood ({_short(error)}); is NDIF_HOST right?", error
        ) from error


def _fault(text: str, error: BaseException) -> RemoteError:
    """The error to raise from another one; the key is taken out of that one too, since a traceback shows it."""
    cause: BaseException | None = error
    while cause is not None:
        cause.args = tuple(visible(without_key(one)) if isinstance(one, str) else one for one in cause.args)
        cause = cause.__cause__ or cause.__context__
    return RemoteError(without_key(text))


def without_key(text: str) -> str:
    """A text in which neither the API key nor a password in NDIF_HOST is readable."""
    text = text.replace(CONFIG.API.HOST, shown(CONFIG.API.HOST))
    password = password_in(CONFIG.API.HOST)
    for secret, name in ((CONFIG.API.APIKEY, "(API key)"), (password, "(password)")):
        text = text.replace(secret, name) if secret else text
    return text


def _short(error: BaseException) -> str:
    return without_key(f"{type(error).__name__}: {error}"[:300])


def explained(text: str, where: str, status: int | None = None) -> str:
    """What the server says, with what to do about it.

    Args:
        text: its own words.
        where: its address.
        status: of HTTP, if it refused the request with one.
    """
    low = text.lower()
    if "could not deploy this model" in low:
        line = next(line for line in text.splitlines() if "deploy" in line.lower())
        return f"the server {where} cannot serve this model: {line[:500]}\nIs its name right? Try `nnblip serve MODEL`"
    if "botocore" in low and "traceback" in low:
        line = text.strip().splitlines()[-1]
        return f"the server {where} could not put the result into its object store, which is gone ({line}); {AGAIN}"
    if "traceback" in low:  # before all that looks for a word, which may be anywhere in one
        return f"the block raised an error on the server:\n{text}"
    if status in REFUSED or "api key" in low:
        said = text.split(" -+-+- ")[0]  # of a handshake, without its headers
        remedy = "set NDIF_API_KEY, as `nnblip serve` printed it where that is yours, or `nnsight login`"
        return f"the server {where} refuses the credentials ({said}); {remedy}"
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
    if status == 413 or "too large" in low:
        return f"the request is too large for the server {where}: {text}; trace fewer cells or images at a time"
    if "failed to send request" in low and ("refused" in low or "disconnected" in low):
        return f"the server {where} is gone ({text}); {AGAIN}"
    return (
        f"the server {where} says: {text}\nIs the model's name right, does the server have it (`nnblip serve MODEL`)?"
    )
