"""Faults that a server survives: each a `RemoteError` with its remedy, in time."""

import json
import shutil
import time
from pathlib import Path

import pytest
from helpers.slow import Slow, over
from helpers.trees import said
from nnsight.schema.config import CONFIG

import nnblip
from nnblip.errors import RemoteError
from nnblip.noise import Multiplicative

EXAMPLE = nnblip.demo.examples()[0]


def ask(far, **settings):
    return nnblip.causal_trace(far, [EXAMPLE], draws=1, progress=False, **settings)


def ends_with_error(far, match, **settings):
    with pytest.raises(RemoteError, match=match):
        ask(far, **settings)


def recovers(far):
    deadline = time.monotonic() + 600
    while True:
        try:
            assert float(ask(far, timeout=120)["clean"].probability[0]) > 0.9
            return
        except RemoteError:
            assert time.monotonic() < deadline


def test_the_deadline(far, tmp_path):
    ends_with_error(far, "deadline of 3 s passed", noise=Slow(begun := tmp_path / "begun"), timeout=3)
    over(begun).touch()
    ask(far)  # the server still works after that


def test_a_body_that_raises_shows_the_line(far):
    class Broken(Multiplicative):
        def unit(self, shape, rng):
            return 1 / (shape[0] - 1)  # the user's own line, 401 or not

    ends_with_error(far, r"raised an error on the server(.|\n)*1 / \(shape\[0\] - 1\)", noise=Broken())


def test_an_unknown_model(server, tmp_path):
    folder = tmp_path / "gone"
    shutil.copytree(nnblip.demo.MODEL, folder)
    far = nnblip.BlipVQA(folder, remote=True)
    shutil.rmtree(folder)
    ends_with_error(far, "cannot serve this model", timeout=300)


def test_another_tree(server, tmp_path):
    """A client that believes in one layer more."""
    folder = tmp_path / "deeper"
    shutil.copytree(nnblip.demo.MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    far = nnblip.BlipVQA(folder, remote=True)
    far.repo_id = str(nnblip.demo.MODEL)
    ends_with_error(far, "not the one that this client knows")


def test_the_key_is_in_no_result(server, far):
    assert server.key == CONFIG.API.APIKEY
    assert server.key not in said(ask(far))


@pytest.mark.parametrize("part", ["ray::ModelActor", "ray::Controller"])
def test_an_actor_dies(server, far, tmp_path, part):
    """Ray starts it again. NDIF says that the job failed, or it ends as it should: from the start if it must."""
    begun = tmp_path / "begun"
    with server.killed_when(begun, part, goes_on=True):
        try:
            tree = ask(far, noise=Slow(begun), timeout=300)
        except RemoteError as error:
            assert "send the request again" in str(error) or "deadline" in str(error)
        else:
            assert float(tree["clean"].probability[0]) > 0.9
    assert begun.exists()
    recovers(far)


def test_the_web_worker_dies(server, far, tmp_path):
    """gunicorn starts it again; its connections are gone."""
    begun = tmp_path / "begun"
    (worker,) = (pid for pid in server.processes("gunicorn") if parent(pid) in server.processes("gunicorn"))
    with server.killed_when(begun, worker, goes_on=True):
        ends_with_error(far, "gone in the middle", noise=Slow(begun), timeout=300)
    recovers(far)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
