"""A stand-in for a server: errands done in this process."""

import threading
import time

from nnblip.remote import errand
from nnblip.runs import envelope


class Server:
    """Does errands in this process, one at a time, each after a while: `seconds` by the number of the request."""

    def __init__(self, model, seconds=lambda number: 0.05):
        self.model, self.seconds = model, seconds
        self.works, self.counts = threading.Lock(), threading.Lock()
        self.asked = self.now = self.most = 0
        self.answered = []

    def __call__(self, model, name, *args, timeout=0.0):
        with self.counts:
            number, self.asked, self.now = self.asked, self.asked + 1, self.now + 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(self.seconds(number))
            with self.works:
                found = envelope.opened(envelope.sealed(self.model, getattr(errand, name), *args))
            self.answered.append(number)
            return found
        finally:
            with self.counts:
                self.now -= 1
