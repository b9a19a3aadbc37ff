"""Of the threads that wait for a server one at a time works, and none when the process ends."""

import subprocess
import sys
import threading

import pytest
from helpers.sweeps import environment

from nnblip.remote.turns import Turn


def test_one_at_a_time_unless_it_gives_its_turn_away():
    turn, inside, go_on = Turn(), [], threading.Event()
    waits, worked = threading.Event(), threading.Event()

    def first():
        with turn.taken(), turn.taken():  # it may take what it has
            inside.append("first")
            with turn.given():
                waits.set()
                assert go_on.wait(60)
            assert turn._lock.locked()
            inside.append("first again")

    def second():
        with turn.taken():
            inside.append("second")
            go_on.set()
            worked.set()

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert waits.wait(60)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    assert worked.wait(60)
    for thread in threads:
        thread.join()
    assert inside == ["first", "second", "first again"] and not turn._lock.locked()


def test_it_is_given_back_by_an_error():
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn.taken(), turn.given():
        raise ZeroDivisionError
    assert not turn._lock.locked()
    with turn.given():  # of who has none, there is nothing to give
        assert not turn._lock.locked()


PROGRAM = """
import json, threading
import torch, websocket
import nnblip
from nnblip.blip.upstream import ResponseModel, Status
from nnblip.remote import client
from nnblip.tracing.requests import Request, concurrently

class Connection:
    def __init__(self, *_, **__): self.says = [json.dumps({"session_id": "1"}), answer]
    def recv(self): return self.says.pop(0)
    def settimeout(self, _): pass
    def close(self): pass

def load(*_, **__):
    print("begins", flush=True)
    reads.set()
    while not ended.is_set():
        torch.zeros(99) + 1
    for _ in range(50_000):
        torch.zeros(99) + 1
    print("is read", flush=True)
    return {"found": {"result": [1]}}

far, reads, ended = nnblip.BlipVQA(remote=True), threading.Event(), threading.Event()
answer = ResponseModel(id="1", data=b"", status=Status.COMPLETED).model_dump_json()
websocket.create_connection, client.check = Connection, lambda host: None
client.Backend.send = lambda self, request, blob: None
client.Backend.handle = lambda self, response: self.finalize(b"")
client.unpacked = load
asked = concurrently(range(9), lambda key: Request(lambda: client.ask(far, "own_answers", []), list), 3)
threading.Thread(target=next, args=(asked,), daemon=True).start()
reads.wait()
print("end", flush=True)
ended.set()
"""


@pytest.mark.slow
def test_no_thread_is_inside_torch_when_the_process_ends():
    """Three answers are there, and one of them is being read when the process ends: none is half read then."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said[:3] == ["begins", "end", "is read"] and said.count("begins") == said.count("is read")
