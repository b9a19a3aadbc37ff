"""Of the threads that wait for a server one at a time does anything else, and at its end the process does.

Whatever else they do is torch: tensors are packed, read and freed. A thread that is inside
torch when the process ends would abort it ("terminate called without an active exception").
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """A lock that its holder can take again, and give away for a while."""

    def __init__(self) -> None:
        self._lock, self._holder = threading.Lock(), 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """In here a thread is the only one to work."""
        if self._holder == threading.get_ident():
            yield
            return
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def given(self) -> Iterator[None]:
        """In here a thread waits, and others work."""
        if self._holder != threading.get_ident():
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._take()

    def end(self) -> None:
        """Wait for who works; nobody does after that."""
        self._lock.acquire(timeout=60)

    def _take(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()

    def _give(self) -> None:
        self._holder = 0
        self._lock.release()


TURN = Turn()
atexit.register(TURN.end)
