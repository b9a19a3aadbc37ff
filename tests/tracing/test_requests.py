"""Several requests in flight: as many as allowed, written as they arrive, stopped and resumed, faults told apart."""

import signal
import subprocess
import sys
import threading

import pytest
from helpers.errands import Server
from helpers.sweeps import Scenes, environment, same_arrays, same_as_trace, status, until

import nnblip
from nnblip.errors import InputError, NnblipError, RemoteError
from nnblip.remote import client
from nnblip.remote.turns import TURN
from nnblip.tracing.requests import Request, concurrently, one_by_one

FEW = dict(nu=[5.0], draws=1, progress=False)


@pytest.fixture
def server(model, monkeypatch):
    one = Server(model)
    monkeypatch.setattr(client, "ask", one)
    yield one
    one.close()


# --- concurrently -------------------------------------------------------------------------------


class Gates(dict[int, threading.Event]):
    """An event for each request, which is answered once it is set."""

    def __init__(self, number):
        super().__init__((key, threading.Event()) for key in range(number))
        self.threads: dict[int, threading.Thread] = {}

    def ask(self, key):
        self.threads[key] = threading.current_thread()
        with TURN.given():
            assert self[key].wait(120), "nobody lets this request be answered"
        return threading.current_thread()


def test_results_come_as_they_arrive_from_threads_and_are_read_in_this_one():
    gates, read = Gates(3), []

    def begin(key):
        return Request(lambda: gates.ask(key), lambda thread: (read.append(threading.current_thread()), thread)[1])

    arrivals, threads = concurrently(range(3), begin, 3), set()
    for expected in (1, 2, 0):
        gates[expected].set()
        key, result = next(arrivals)
        assert key == expected
        threads.add(result())
    assert list(arrivals) == []
    assert len(threads) == 3 and threading.current_thread() not in threads
    assert all(thread.daemon for thread in threads)
    assert set(read) == {threading.current_thread()}


@pytest.mark.parametrize("most", [1, 3])
def test_never_more_than_allowed_and_no_fewer(most):
    together, flying, seen = threading.Barrier(most), set(), []

    def ask():  # none is answered before as many as allowed are sent
        with TURN.given():
            return together.wait(120)

    def begin(key):
        flying.add(key)
        seen.append(len(flying))
        return Request(ask, bool)

    for key, result in concurrently(range(9), begin, most):
        flying.remove(key)
        result()
    assert len(seen) == 9 and max(seen) == most


def test_who_says_stop_gets_what_is_in_flight_and_nothing_else():
    gates, begun, go = Gates(9), [], True

    def begin(key):
        begun.append(key)
        return Request(lambda: gates.ask(key), bool)

    arrivals = concurrently(range(9), begin, 3, lambda: go)
    for key in range(3):
        gates[key].set()
        assert next(arrivals)[0] == key
        go = False
    assert list(arrivals) == [] and begun == [0, 1, 2]
    assert list(one_by_one(range(3), lambda key: int, lambda: False)) == []


def test_errors_belong_to_their_key_and_faults_of_the_server_come_last():
    gates = Gates(4)

    def gone():
        gates.ask(1)
        raise RemoteError("gone")

    def begin(key):
        if key == 0:
            raise InputError("no image")
        return Request(gone if key == 1 else lambda: gates.ask(key), bool)

    gates[2].set()
    results = []
    for key, result in concurrently(range(4), begin, 4):
        try:
            result()
            results.append((key, ""))
        except NnblipError as error:
            results.append((key, str(error)))
        if key == 2:  # the others arrive meanwhile
            gates[1].set()
            gates[3].set()
            until(lambda: len(gates.threads) == 3)
            for thread in gates.threads.values():
                thread.join()
    assert results == [(0, "no image"), (2, ""), (3, ""), (1, "gone")]


def test_sessions_open_in_many_threads_and_each_gets_its_own_answer(there, monkeypatch):
    """nnsight's tracing of the block and the packing of requests, at once in twelve threads."""
    sizes = set()

    def request(self, envelope, tracer):
        text = tracer.info.frame.f_locals["args"][0]
        blob = self._serialize(tracer)
        sizes.add(len(blob))
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
    assert max(sizes) < 1.5 * min(sizes), f"no request brings modules by value that others do not: {sorted(sizes)}"


# --- traces --------------------------------------------------------------------------------


def test_a_remote_trace_keeps_its_order(model, there, server):
    server.before = lambda number: server.wait(
        lambda: server.asked >= 4 if number else len(server.answered) == 4  # all are sent, and the first comes last
    )
    examples = Scenes.of(5)
    found = nnblip.causal_trace(there, examples, **FEW)
    assert server.answered[-1] == 0 and server.most == 4
    same_as_trace(found, nnblip.causal_trace(model, examples, **FEW))


def test_an_error_names_its_example(there, server, tmp_path):
    examples = Scenes.of(5)
    examples[3] = nnblip.Example(tmp_path / "none.png", "what is this", id="none")
    with pytest.raises(InputError, match="example 3: "):
        nnblip.causal_trace(there, examples, **FEW)


# --- sweeps --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_keeps_several_in_flight_and_ends_in_the_same_numbers(model, there, server, monkeypatch, tmp_path):
    def before(number):  # 0 is the hash of the weights, 1 the probe for the layout; 2, 3 and 4 go together
        if number in (2, 3, 4):
            server.wait(lambda: server.asked >= 5 if number > 2 else len(server.answered) == 9)

    server.before = before
    examples = Scenes.of(8)
    tree = nnblip.sweep(there, examples, tmp_path / "there.zarr", **FEW, in_flight=3)
    assert server.most == 3 and server.answered[-1] == 2
    effect = nnblip.causal_trace(model, examples, **FEW)
    assert float(abs(effect["clean"].probability - effect["corrupted"].probability).max()) > 0.1
    same_as_trace(tree, effect)
    one = Server(model)
    monkeypatch.setattr(client, "ask", one)
    nnblip.sweep(there, examples, tmp_path / "alone.zarr", **FEW, in_flight=1)
    one.close()
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


@pytest.mark.slow
def test_a_fault_of_the_server_writes_what_has_arrived_and_marks_nothing(model, there, server, monkeypatch, tmp_path):
    examples, out = Scenes.of(8), tmp_path / "x.zarr"

    def before(number):  # 0 is the hash of the weights, 1 the probe; 2, 3 and 4 answer, then the server is gone
        if number == 5:
            for thread in server.threads[2:5]:
                thread.join()
            raise RemoteError("the server is gone")
        if number > 5:
            server.wait(lambda: False)

    server.before = before
    with pytest.raises(RemoteError, match="the server is gone"):
        nnblip.sweep(there, examples, out, **FEW, in_flight=4)
    assert not server.closed and server.now > 0, "what is not there yet is not waited for"
    found = status(out)
    assert "failed" not in found and found.count("done") == 3
    one = Server(model)
    monkeypatch.setattr(client, "ask", one)
    tree = nnblip.sweep(there, examples, out, **FEW)
    one.close()
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


@pytest.mark.slow
@pytest.mark.parametrize(("how", "done"), [(signal.SIGTERM, 5), (signal.SIGINT, 2)], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_sweep_goes_on(model, there, server, tmp_path, how, done):
    """SIGTERM waits for what is in flight and writes it; Ctrl-C does not, and the process ends at once."""
    out = tmp_path / "x.zarr"
    command = [sys.executable, "-m", "helpers.errands", str(out), str(tmp_path)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    until(lambda: len(list(tmp_path.glob("asked-*"))) == 3, process)
    process.send_signal(how)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"stopped with {done} of 16 examples finished; the same command goes on" in said
    assert status(out) == ["done"] * done + ["pending"] * (16 - done)
    examples = Scenes.of(16)
    tree = nnblip.sweep(there, examples, out, **FEW)
    assert len(server.answered) == 16 - done + 1  # and the hash of the weights
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))
