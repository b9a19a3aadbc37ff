"""Parts without which a server cannot go on are killed: a `RemoteError` in time, and `nnblip serve` ends the rest."""

import pytest
from helpers.slow import Slow, weights

import nnblip
from nnblip.errors import RemoteError
from nnblip.remote import client, errand
from nnblip.tracing import jobs

EXAMPLES = nnblip.demo.examples()


def ask(far, **settings):
    return nnblip.causal_trace(far, EXAMPLES[:1], draws=1, progress=False, **settings)


def fails(call, match):
    """No deadline passes: that says another thing."""
    with pytest.raises(RemoteError, match=match) as caught:
        call()
    assert "deadline" not in str(caught.value)


@pytest.fixture(autouse=True, scope="module")
def records(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def job(far):
    """One that is done."""
    found = ask(far, blocking=False)
    found.result(300)
    return found


def ends(server, *parts):
    """`nnblip serve` notices and stops the rest."""
    assert server.ended() == 1
    said = server.log.read_text()
    assert any(f"{part} has ended by itself" in said for part in parts), said


def test_redis(server, far, job, tmp_path):
    begun = tmp_path / "begun"
    redis = "redis-server" if server.processes("redis-server") else "fakeredis"
    with server.unwatched():
        with server.killed_when(begun, redis):
            fails(lambda: ask(far, noise=Slow(begun), timeout=300), "gone")
        fails(lambda: ask(far), "a part of the server .* is gone")
    ends(server, "redis", "dispatcher", "api")


def test_no_server_any_more(server, far, job):
    for call in (lambda: ask(far), lambda: job.status, lambda: job.result(300)):
        fails(call, "no server answers.*nnblip serve")
    client.check.cache_clear()
    fails(lambda: ask(far), "no server answers.*nnblip serve")


def test_a_job_of_a_server_that_was_started_anew(server, far, job, monkeypatch):
    server.start_again()
    assert job.status == "UNKNOWN"
    monkeypatch.setattr(jobs, "UNKNOWN", 5.0)  # it is older than that
    fails(lambda: job.result(300), "does not know job .* started anew.* submit the job again")


def test_the_object_store(server, far, tmp_path, monkeypatch):
    monkeypatch.setattr(errand, "weights", weights)
    job, begun = ask(far, blocking=False), tmp_path / "begun"
    job.result(300)
    with server.unwatched():
        with server.killed_when(begun, "moto_server", goes_on=True):
            fails(lambda: client.ask(far, "weights", str(begun), timeout=300), "object store")
        fails(lambda: job.status, "object store")
        fails(lambda: job.result(300), "object store")
        fails(lambda: ask(far, blocking=False).result(30), "object store|not done")
        ask(far)  # small results need none
    ends(server, "object store")


@pytest.mark.parametrize(
    ("part", "name"), [("gunicorn", "api"), ("dispatcher", "dispatcher"), ("raylet/raylet", "ray")]
)
def test_a_part_that_is_watched(server, far, tmp_path, part, name):
    server.start_again()
    begun = tmp_path / "begun"
    with server.killed_when(begun, part):
        fails(lambda: ask(far, noise=Slow(begun), timeout=300), "gone|lost")
    ends(server, name)


def test_ray(server, far, tmp_path):
    server.start_again()
    begun = tmp_path / "begun"
    with server.unwatched():
        with server.killed_when(begun, "gcs_server"):
            fails(lambda: ask(far, noise=Slow(begun), timeout=300), "Ray")
        fails(lambda: ask(far, timeout=300), "Ray")
    ends(server, "ray")
