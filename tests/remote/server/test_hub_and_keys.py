"""A server that serves a hub id, and asks a real Postgres whose API keys it may accept."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.servers import Server, nowhere, running, server_python
from helpers.trees import said
from nnsight.schema.config import CONFIG

import nnblip
from nnblip.command.trace import SCENE
from nnblip.errors import RemoteError
from nnblip.remote.server.stack import free_port

NAME, KEY = "somebody/blip-of-theirs", str(uuid.uuid4())
EXAMPLES = nnblip.demo.examples()[:1]
TABLES = f"""
CREATE TABLE users (user_id int, email text);
CREATE TABLE keys (key_id uuid, user_id int);
CREATE TABLE user_tags (user_tag_id int, name text);
CREATE TABLE key_user_tag_assignments (key_id uuid, user_tag_id int);
INSERT INTO users VALUES (1, 'somebody@example.org');
INSERT INTO keys VALUES ('{KEY}', 1);
"""


class Postgres:
    """A database server out of the package pgserver, whose own start would change permissions of this machine."""

    def __init__(self) -> None:
        where = "import importlib.util; print(importlib.util.find_spec('pgserver').submodule_search_locations[0])"
        found = subprocess.run([server_python(), "-c", where], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip("keys are NOT TESTED: the server's Python has no pgserver (there is one for Python 3.12)")
        # Postgres refuses to be root, and who is not root may not read root's folders
        self.home, self.who = Path(tempfile.mkdtemp(prefix="pg-")), {}
        self.home.chmod(0o755)
        package = Path(found.stdout.strip())
        for part in (package, package.with_name("pgserver.libs")):
            shutil.copytree(part, self.home / part.name)
        self.programs = self.home / "pgserver" / "pginstall" / "bin"
        self.data = self.home / "data"
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, "nobody")
            self.who = {"user": "nobody"}
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()
        self._run("psql", self.url, "-v", "ON_ERROR_STOP=1", "-c", TABLES)

    def _run(self, program, *arguments):
        command = [self.programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/", **self.who)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        command = [self.programs / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self.who)
        deadline = time.monotonic() + 300
        while subprocess.run([self.programs / "pg_isready", "-q", "-d", self.url], check=False).returncode:
            assert time.monotonic() < deadline, (self.home / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once
        self.process.wait(20)


@pytest.fixture(scope="module")
def postgres():
    found = Postgres()
    yield found
    found.stop()
    shutil.rmtree(found.home)


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """Of a machine on which the hub's cache has the small model under another name, and that is offline."""
    home = tmp_path_factory.mktemp("huggingface")
    cache = home / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(nnblip.demo.MODEL, cache / "snapshots" / "0123abcd")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory, variables, postgres):
    log = tmp_path_factory.mktemp("strict") / "log"
    with running(Server(log, NAME, **variables, NDIF_POSTGRES_URL=postgres.url)) as found:
        yield found


@pytest.fixture
def bundled(strict, monkeypatch):
    """In this process, which may ask the hub, the bundled model under its folder's name."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    return nnblip.BlipVQA(remote=True)


def command(server, variables, *arguments, key=KEY):
    environment = {**os.environ, **variables, "NDIF_HOST": server.url, "NDIF_API_KEY": key}
    return subprocess.run(
        [sys.executable, "-m", "nnblip", *arguments], env=environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_a_hub_id_with_an_accepted_key(strict, variables, local, tmp_path):
    state, out = tmp_path / "state", tmp_path / "out"
    asked = ["--model", NAME, "--remote", "--nu", "5", "--draws", "2", "--out", out]
    done = command(strict, variables | {"XDG_STATE_HOME": str(state)}, "trace", *asked)
    assert done.returncode == 0, done.stderr
    there = xr.open_datatree(out / "result.zarr", engine="zarr")
    here = nnblip.causal_trace(local, nnblip.demo.examples()[SCENE], nu=5, draws=2, progress=False)
    for node in here.subtree:
        for name, values in node.data_vars.items():
            np.testing.assert_allclose(there[node.path][name], values, atol=5e-5, err_msg=f"{node.path} {name}")
    assert KEY not in done.stdout + done.stderr
    assert KEY not in said(there)
    nowhere(KEY, out)


def test_an_accepted_key_is_in_no_record_and_no_result(bundled, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    job = nnblip.causal_trace(bundled, EXAMPLES, draws=1, blocking=False)
    tree = job.result(600)
    nnblip.results.save(tree, tmp_path / "result.zarr")
    assert KEY not in said(tree)
    assert (tmp_path / "state" / "nnblip" / "jobs").stat().st_mode & 0o777 == 0o700
    nowhere(KEY, tmp_path)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "Missing or invalid API key"),  # 401
        ("not-of-their-form", "Invalid API key format"),  # 400
        ("01234567-89ab-cdef-0123-456789abcdef", "Invalid API key"),  # 403
    ],
)
@pytest.mark.parametrize("blocking", [True, False])
def test_refused(bundled, monkeypatch, tmp_path, key, says, blocking):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(CONFIG.API, "APIKEY", key or None)
    with pytest.raises(RemoteError, match=f"refuses the credentials.*{says}.*NDIF_API_KEY") as caught:
        nnblip.causal_trace(bundled, EXAMPLES, draws=1, blocking=blocking)
    assert not key or key not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_refused_on_the_command_line(strict, variables, tmp_path):
    key = "01234567-89ab-cdef-0123-456789abcdef"
    done = command(strict, variables, "trace", "--model", NAME, "--remote", "--out", tmp_path / "out", key=key)
    assert done.returncode == 2 and "set NDIF_API_KEY" in done.stderr
    assert key not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_database_is_gone(bundled, postgres):
    postgres.stop()
    try:
        with pytest.raises(RemoteError, match=r"cannot check the credentials.*NDIF_POSTGRES_URL"):
            nnblip.causal_trace(bundled, EXAMPLES, draws=1, progress=False)
    finally:
        postgres.start()
    deadline = time.monotonic() + 300
    while True:
        with contextlib.suppress(RemoteError):
            nnblip.causal_trace(bundled, EXAMPLES, draws=1, progress=False)
            break
        assert time.monotonic() < deadline


def test_the_key_is_in_no_log_of_ours(strict):
    assert KEY not in strict.log.read_text()
