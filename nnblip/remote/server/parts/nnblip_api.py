"""NDIF's API for those who have the key of this server.

Without a database of keys NDIF serves everyone who reaches its port, and a request is a program:
on a machine with other users that is all of them. Who asks only how the server is needs no key.
"""

from __future__ import annotations

import hmac
import json
import os
from typing import Any

from ndif.services.api.app import app as ndif

OPEN = ("/ping", "/status", "/env", "/connected")
KEY = os.environ.get("NNBLIP_SERVE_KEY", "").encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: 401 to requests without the key, and subscriptions without it are not accepted."""
    given = dict(scope.get("headers", ())).get(b"ndif-api-key", b"")
    if not KEY or scope["type"] == "lifespan" or scope["path"] in OPEN or hmac.compare_digest(given, KEY):
        await ndif(scope, receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        detail = "this server has a key: export NDIF_API_KEY as `nnblip serve` printed it"
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
