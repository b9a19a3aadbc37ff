"""Real parts of a real server are killed: each time a `RemoteError` with its remedy, in time. Runs last."""

import os
import signal
import threading
import time

import pytest
from nnsight.schema.config import CONFIG

import nnblip
from nnblip import remote
from nnblip.errors import RemoteError
from nnblip.noise import Multiplicative

EXAMPLE = nnblip.demo.examples()[0]


class Slow(Multiplicative):
    """Noise that takes its time, so that there is a middle of the request."""

    def unit(self, shape, rng):
        import time

        time.sleep(20)
        return super().unit(shape, rng)


def ask(far, **settings):
    return nnblip.causal_trace(far, [EXAMPLE], draws=1, progress=False, **settings)


def ends_with_error(far, match, within, **settings):
    began = time.monotonic()
    with pytest.raises(RemoteError, match=match):
        ask(far, **settings)
    assert time.monotonic() - began < within


def test_the_deadline(far):
    ends_with_error(far, "deadline of 3 s passed", 15, noise=Slow(), timeout=3)
    ask(far)  # the server still works after that


def test_a_body_that_raises_shows_the_line(far):
    class Broken(Multiplicative):
        def unit(self, shape, rng):
            return 1 / (shape[0] - 1)  # the user's own line

    ends_with_error(far, r"1 / \(shape\[0\] - 1\)", 30, noise=Broken())


def test_an_unknown_model(server, tmp_path):
    import shutil

    folder = tmp_path / "gone"
    shutil.copytree(nnblip.demo.MODEL, folder)
    far = nnblip.BlipVQA(folder, remote=True)
    shutil.rmtree(folder)
    ends_with_error(far, "cannot serve this model", 120, timeout=100)


def test_another_tree(server, tmp_path):
    """A client that believes in one layer more."""
    import json
    import shutil

    folder = tmp_path / "deeper"
    shutil.copytree(nnblip.demo.MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    far = nnblip.BlipVQA(folder, remote=True)
    far.repo_id = str(nnblip.demo.MODEL)
    ends_with_error(far, "not the one that this client knows", 60)


def test_the_key_stays_here(far, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "not-a-key-of-theirs")
    tree = ask(far)
    assert "not-a-key-of-theirs" not in str(tree.attrs)


def killed_in_the_middle(server, far, part, match, within=90):
    victims = server.processes(part)
    assert victims, f"no {part} among the server's processes"
    timer = threading.Timer(6, lambda: [os.kill(pid, signal.SIGKILL) for pid in victims])
    timer.start()
    try:
        ends_with_error(far, match, within, noise=Slow(), timeout=80)
    finally:
        timer.cancel()


def test_the_model_actor_dies(server, far):
    """Ray starts it again; NDIF says that the job failed, or queues it anew and it ends as it should."""
    victims = server.processes("ModelActor")
    assert victims
    timer = threading.Timer(6, lambda: [os.kill(pid, signal.SIGKILL) for pid in victims])
    timer.start()
    try:
        tree = ask(far, noise=Slow(), timeout=120)
    except RemoteError as error:
        assert "says" in str(error) or "deadline" in str(error)
    else:
        assert float(tree["clean"].probability[0]) > 0.9
    deadline = time.monotonic() + 120
    while True:  # and the server recovers
        try:
            ask(far, timeout=30)
            return
        except RemoteError:
            assert time.monotonic() < deadline


def test_redis_dies(server, far):
    part = "redis"
    killed_in_the_middle(server, far, part, "gone|says|deadline")
    server.process.wait(90)  # `nnblip serve` notices and stops the rest
    assert "has ended by itself" in server.log.read_text()
    assert not [pid for pid in server.processes() if pid != server.process.pid]


def test_no_server_any_more(server, far):
    ends_with_error(far, "nnblip serve", 40)
    remote.check.cache_clear()
    ends_with_error(far, "nnblip serve", 40)


def test_the_api_dies_on_a_server_that_is_started_again(server, far):
    server.start()
    remote.check.cache_clear()
    ask(far)
    killed_in_the_middle(server, far, "gunicorn", "gone")
    server.process.wait(90)
