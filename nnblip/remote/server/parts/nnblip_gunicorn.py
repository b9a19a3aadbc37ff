"""gunicorn's settings for NDIF's API: NDIF's own, on loopback only, and without starting the dispatcher."""

# First of all: nnsight mounts `.save` on `object`, and an anyio backend that is imported
# after that takes uploads above 1 MiB for something else; they end in HTTP 400.
import anyio._backends._asyncio  # noqa: F401, I001
import os

from ndif.services.api.gunicorn_conf import post_fork, timeout, worker_class, workers  # noqa: F401

bind = f"127.0.0.1:{os.environ['NDIF_API_PORT']}"
graceful_timeout = 2
