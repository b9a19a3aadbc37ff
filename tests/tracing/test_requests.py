"""Several requests in flight: as many as allowed, written as they arrive, stopped and resumed, faults told apart."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from helpers.errands import Server
from helpers.sweeps import Scenes, environment, same_arrays, same_as_trace

import nnblip
from nnblip.errors import InputError, NnblipError, RemoteError
from nnblip.remote import client, errand
from nnblip.sweeps.store import Store
from nnblip.tracing.requests import Request, concurrently, one_by_one

FEW = dict(nu=[5.0], draws=1, progress=False)


def status(path):
    return Store(path).status()


@pytest.fixture(scope="module")
def there():
    return nnblip.BlipVQA(remote=True)


@pytest.fixture
def server(model, monkeypatch):
    one = Server(model)
    monkeypatch.setattr(client, "ask", one)
    return one


# --- concurrently -------------------------------------------------------------------------------


def sleeping(seconds):
    return Request(lambda: time.sleep(seconds) or threading.current_thread(), lambda thread: thread)


def test_results_come_as_they_arrive_from_threads_and_are_read_in_this_one():
    seconds, read = [0.4, 0.05, 0.2], []

    def begin(key):
        ask = sleeping(seconds[key]).ask
        return Request(ask, lambda thread: (read.append(threading.current_thread()), thread)[1])

    found = [(key, result()) for key, result in concurrently(range(3), begin, 3)]
    assert [key for key, _ in found] == [1, 2, 0]
    threads = {thread for _, thread in found}
    assert len(threads) == 3 and threading.current_thread() not in threads
    assert all(thread.daemon for thread in threads)
    assert set(read) == {threading.current_thread()}


@pytest.mark.parametrize("most", [1, 3])
def test_never_more_than_allowed_and_no_fewer(most):
    now, seen, lock = [0], [], threading.Lock()

    def ask():
        with lock:
            now[0] += 1
            seen.append(now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    assert len(list(concurrently(range(9), lambda key: Request(ask, bool), most))) == 9
    assert max(seen) == most


def test_who_says_stop_gets_what_is_in_flight_and_nothing_else():
    go = [True]
    got = []
    for key, _ in concurrently(range(9), lambda key: sleeping(0.05 * (key + 1)), 3, lambda: go[0]):
        got.append(key)
        go[0] = False
    assert got == [0, 1, 2]
    assert list(one_by_one(range(3), lambda key: int, lambda: False)) == []


def test_errors_belong_to_their_key_and_faults_of_the_server_come_last():
    def gone():
        time.sleep(0.05)
        raise RemoteError("gone")

    def begin(key):
        if key == 0:
            raise InputError("no image")
        return Request(gone, bool) if key == 1 else sleeping([0, 0, 0, 0.1][key])

    results = []
    for key, result in concurrently(range(4), begin, 4):
        try:
            result()
            results.append((key, ""))
        except NnblipError as error:
            results.append((key, str(error)))
        time.sleep(0.3)  # what is in flight arrives meanwhile
    assert results == [(0, "no image"), (2, ""), (3, ""), (1, "gone")]


def test_sessions_open_in_many_threads_and_each_gets_its_own_answer(there, monkeypatch):
    """nnsight's tracing of the block and the packing of requests, at once in twelve threads."""
    sizes = set()

    def request(self, envelope, tracer):
        text = tracer.info.frame.f_locals["args"][0]
        blob = self._serialize(tracer)
        sizes.add(len(blob) // 10_000)
        time.sleep(0.001)
        return {"found": {"result": f"answer to {text}"}}

    monkeypatch.setattr(client.Backend, "request", request)
    monkeypatch.setattr(client, "check", lambda host: None)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        found = {
            key: result()
            for key, result in concurrently(
                range(150), lambda key: Request(lambda: client.ask(there, "weights", f"question {key}"), str), 12
            )
        }
    finally:
        sys.setswitchinterval(switch)
    assert found == {key: f"answer to question {key}" for key in range(150)}
    assert len(sizes) == 1, "what travels is the same in every request"


# --- traces --------------------------------------------------------------------------------


def test_a_remote_trace_keeps_its_order(model, there, server):
    server.seconds = lambda number: 0.5 if number == 0 else 0.0
    examples = Scenes.of(5)
    found = nnblip.causal_trace(there, examples, **FEW)
    assert server.answered[0] != 0 and server.most == 4
    same_as_trace(found, nnblip.causal_trace(model, examples, **FEW))


def test_an_error_names_its_example(there, server, tmp_path):
    examples = Scenes.of(5)
    examples[3] = nnblip.Example(tmp_path / "none.png", "what is this", id="none")
    with pytest.raises(InputError, match="example 3: "):
        nnblip.causal_trace(there, examples, **FEW)


# --- sweeps --------------------------------------------------------------------------------


def test_a_sweep_keeps_several_in_flight_and_ends_in_the_same_numbers(model, there, server, tmp_path):
    server.seconds = lambda number: 0.3 if number % 3 == 0 else 0.02
    examples = Scenes.of(8)
    tree = nnblip.sweep(there, examples, tmp_path / "there.zarr", **FEW, in_flight=3)
    assert server.most == 3 and server.answered != sorted(server.answered)
    effect = nnblip.causal_trace(model, examples, **FEW)
    assert float(abs(effect["clean"].probability - effect["corrupted"].probability).max()) > 0.1
    same_as_trace(tree, effect)
    one = Server(model)
    client.ask, before = one, client.ask
    try:
        nnblip.sweep(there, examples, tmp_path / "alone.zarr", **FEW, in_flight=1)
    finally:
        client.ask = before
    assert one.most == 1
    same_arrays(tmp_path / "there.zarr", tmp_path / "alone.zarr")


def test_in_flight_is_checked_and_means_nothing_here(model, tmp_path):
    with pytest.raises(NnblipError, match="in_flight 0"):
        nnblip.sweep(model, Scenes.of(2), tmp_path / "x.zarr", **FEW, in_flight=0)
    threads = threading.active_count()
    nnblip.sweep(model, Scenes.of(2), tmp_path / "x.zarr", **FEW, in_flight=9)
    assert threading.active_count() <= threads


def test_an_example_that_fails_is_marked_and_the_others_are_not(there, server, tmp_path):
    examples = Scenes.of(6)
    examples[2] = nnblip.Example(tmp_path / "none.png", "what is this", id="none")
    examples[4] = nnblip.Example(examples[4].image, examples[4].question, id="long", answer="star " * 600)
    tree = nnblip.sweep(there, examples, tmp_path / "x.zarr", **FEW)
    assert tree.status.values.tolist() == ["done", "done", "failed", "done", "failed", "done"]
    assert "none.png" in tree.error.values[2] and tree.error.values[4]


def test_a_fault_of_the_server_writes_what_has_arrived_and_marks_nothing(model, there, server, monkeypatch, tmp_path):
    examples, out = Scenes.of(8), tmp_path / "x.zarr"

    def falls(*args, **options):
        # 0 is the probe; 1 and 2 answer, then the server is gone
        if server.asked == 4:
            server.asked += 1
            time.sleep(0.4)
            raise RemoteError("the server is gone")
        return server(*args, **options)

    hashed = errand.weights(model)
    monkeypatch.setattr(
        client, "ask", lambda m, name, *a, **o: hashed if name == "weights" else falls(m, name, *a, **o)
    )
    server.seconds = lambda number: 5.0 if number > 4 else 0.0
    began = time.monotonic()
    with pytest.raises(RemoteError, match="the server is gone"):
        nnblip.sweep(there, examples, out, **FEW, in_flight=4)
    assert time.monotonic() - began < 4, "what is not there yet is not waited for"
    found = status(out)
    assert "failed" not in found and found.count("done") == 3
    server.seconds = lambda number: 0.0
    monkeypatch.setattr(client, "ask", server)
    tree = nnblip.sweep(there, examples, out, **FEW)
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))


def test_a_dead_server_is_not_asked_about_every_example(there, monkeypatch, tmp_path):
    asked = []

    def down(model, name, *args, **options):
        if name == "weights":
            return "hash"
        asked.append(name)
        raise RemoteError("the server is gone")

    monkeypatch.setattr(client, "ask", down)
    with pytest.raises(RemoteError, match="the server is gone"):
        nnblip.sweep(there, Scenes.of(5), tmp_path / "x.zarr", **FEW)
    assert asked == ["traces"] and not (tmp_path / "x.zarr").exists()


PROGRAM = """
    import sys
    import nnblip
    from nnblip.remote import client
    from helpers.sweeps import Scenes
    from helpers.errands import Server

    seconds, few = float(sys.argv[1]), dict(nu=[5.0], draws=1, progress=False)
    client.ask = Server(nnblip.BlipVQA(), lambda number: seconds if number > 3 else 0.0)
    try:
        nnblip.sweep(nnblip.BlipVQA(remote=True), Scenes.of(16), {out!r}, **few, in_flight=3)
    except KeyboardInterrupt as stop:
        print(stop, flush=True)
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("how", "seconds", "least"), [(signal.SIGTERM, 2.0, 5), (signal.SIGINT, 60.0, 2)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_stopped_sweep_goes_on(model, there, server, tmp_path, how, seconds, least):
    """SIGTERM waits for what is in flight and writes it; Ctrl-C does not, and the process ends at once."""
    out, program = tmp_path / "x.zarr", tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(out=str(out))))
    process = subprocess.Popen(
        [sys.executable, program, str(seconds)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    while not out.exists() or status(out).count("done") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(how)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "of 16 examples finished; the same command goes on" in said
    assert how != signal.SIGINT or time.monotonic() - began < 10
    done = status(out).count("done")
    assert f"stopped with {done} of 16" in said and "failed" not in status(out)
    assert least <= done <= 8
    server.seconds = lambda number: 0.0
    examples = Scenes.of(16)
    tree = nnblip.sweep(there, examples, out, **FEW)
    assert len(server.answered) == 16 - done + 1  # and the hash of the weights
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))
