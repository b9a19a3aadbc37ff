"""A stand-in for a server: errands done in this process, each when a test lets it.

Run as a program it sweeps scenes "on a server" whose answers stop at some point, see `main`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from nnblip.remote import client, errand
from nnblip.remote.turns import TURN
from nnblip.runs import envelope


class Server:
    """Does errands one at a time, in the thread that asks and in its turn: nobody works when the process ends.

    Attributes:
        before: called with a request's number before it is worked on, in the thread that asks; it may wait or raise.
        asked, most: how many requests there have been, and how many at a time.
        answered: their numbers, in the order of the answers.
        threads: those that asked, by the number of the request.
    """

    def __init__(self, model, before: Callable[[int], object] = lambda number: None) -> None:
        self.model, self.before = model, before
        self.changed, self.closed = threading.Condition(), False
        self.asked = self.now = self.most = 0
        self.answered: list[int] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, model, name, *args, timeout=0.0):
        with self.changed:
            assert not self.closed, "too late: another test has the model now"
            number, self.asked, self.now = self.asked, self.asked + 1, self.now + 1
            self.most = max(self.most, self.now)
            self.threads.append(threading.current_thread())
            self.changed.notify_all()
        try:
            with TURN.given():
                self.before(number)
            with TURN.taken():
                found = envelope.opened(envelope.sealed(self.model, getattr(errand, name), *args))
            self.answered.append(number)
            return found
        finally:
            with self.changed:
                self.now -= 1
                self.changed.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        """Hold a request until something is so, or the server is closed."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.closed or until(), 120), "nothing happens"
        assert not self.closed, "this request was never to be answered"

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()


def main(out: str, folder: str) -> int:
    """Sweep sixteen scenes, three in flight. Two are answered; the others say in the folder that they are asked, and
    are answered once SIGTERM was heard."""
    import nnblip
    from helpers.sweeps import Scenes

    told, listen = threading.Event(), signal.signal

    def noted(number, handler):
        return listen(number, (lambda *args: (handler(*args), told.set())) if callable(handler) else handler)

    def before(number):
        if number > 3:  # 0 is the hash of the weights, 1 the probe for the layout
            (Path(folder) / f"asked-{number}").touch()
            told.wait()

    signal.signal = noted
    client.ask = Server(nnblip.BlipVQA(), before)
    far = nnblip.BlipVQA(remote=True)
    try:
        nnblip.sweep(far, Scenes.of(16), out, nu=[5.0], draws=1, progress=False, in_flight=3)
    except KeyboardInterrupt as stop:
        print(stop, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    sys.exit(main(*sys.argv[1:]))
