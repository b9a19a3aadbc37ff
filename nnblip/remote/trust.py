"""What of a server's is believed: nothing that it sends may run code here, and nobody on the line may speak for it.

nnsight reads results with pickle, which runs what it is told to. What nnblip asks for comes
back as tensors, numbers and texts, so that it is read as these and nothing else. Blocks
written by hand (`model.trace(..., remote=True)`) may save anything, and are read as nnsight
reads them: only from servers that one would let run code.
"""

from __future__ import annotations

import io
import ipaddress
import os
import pickle
import zipfile
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import torch

from nnblip.blip import upstream
from nnblip.errors import RemoteError

ALLOW_HTTP = "NNBLIP_ALLOW_HTTP"


def read(content: bytes) -> Any:
    """A result: tensors, numbers, texts, and lists, tuples and dicts of them.

    Raises:
        RemoteError: for anything else.
    """
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise _refused(error) from error


def read_status(content: bytes) -> upstream.ResponseModel:
    """A status that brings a result along as bytes, as nnsight packs it. Raises `RemoteError` for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            (name,) = (name for name in packed.namelist() if name.endswith("/data.pkl"))
            return upstream.ResponseModel(**_Plain(io.BytesIO(packed.read(name))).load())
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise _refused(error) from error


class _Plain(pickle.Unpickler):
    """torch's own reader of plain things does not know bytes as nnsight writes them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (upstream.Status.__module__, upstream.Status.__qualname__):
            return upstream.Status
        raise pickle.UnpicklingError(f"{module}.{name}")


def _refused(error: Exception) -> RemoteError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return RemoteError(
        "the server sent something else than tensors, numbers, texts, lists and dicts, which is not read"
        f" ({first[:200]}); save only these in a block"
    )


def check_address(host: str) -> str:
    """The address, if requests may go there.

    Raises:
        RemoteError: if it is none, or unencrypted and not on this machine.
    """
    try:
        parts = urlsplit(host)
        named = parts.hostname or ""
    except ValueError:
        parts, named = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not named:
        raise RemoteError(
            f"NDIF_HOST {shown(host)!r}: expected an address such as https://server or http://127.0.0.1:8001"
        )
    if parts.scheme == "http" and not _is_here(named) and not os.environ.get(ALLOW_HTTP):
        raise RemoteError(
            f"NDIF_HOST {shown(host)!r} is not encrypted: whoever is on the line could read the API key and change"
            f" results; use https, a tunnel to 127.0.0.1, or set {ALLOW_HTTP}=1 where the network is trusted"
        )
    return host


def shown(host: str) -> str:
    """An address without the password that may be in it."""
    if password_in(host) is None:
        return host
    parts = urlsplit(host)
    return urlunsplit(parts._replace(netloc=f"(password)@{parts.netloc.rpartition('@')[2]}"))


def password_in(host: str) -> str | None:
    """The password in an address, None if there is none or it is no address."""
    try:
        return urlsplit(host).password
    except ValueError:
        return None


def _is_here(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
