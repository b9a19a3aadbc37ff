"""Deferred jobs: submitted here, picked up by another process, twice, with the same result."""

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from helpers.slow import Slow, over

import nnblip
from nnblip.errors import RemoteError
from nnblip.tracing.jobs import known


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_job_is_fetched_by_another_process_twice(far, local, server, tmp_path):
    examples = nnblip.demo.examples()[:2]
    asked = dict(nu=[1, 5], draws=2, cells=nnblip.sites.windows(3), progress=False)
    job = nnblip.causal_trace(far, examples, blocking=False, **asked)
    assert job.status in ("UNKNOWN", "RECEIVED", "QUEUED", "DISPATCHED", "RUNNING", "COMPLETED")
    assert [one.id for one in known()] == [job.id]
    here = nnblip.causal_trace(local, examples, **asked)
    for name in ("first.zarr", "second.zarr"):
        done = subprocess.run(
            [sys.executable, "-m", "nnblip", "jobs", "fetch", job.id, "--out", tmp_path / name],
            env=os.environ | {"NDIF_HOST": server.url}, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        there = xr.open_datatree(tmp_path / name, engine="zarr")
        for path in ("clean", "corrupted", "cells"):
            np.testing.assert_allclose(there[path].log_probability, here[path].log_probability, atol=5e-5)
        assert list(there.question.values) == list(here.question.values)
        assert list(there["cells"].cell.values) == list(here["cells"].cell.values)
    assert job.status == "COMPLETED"


def test_the_list(far, server):
    job = nnblip.causal_trace(far, nnblip.demo.examples()[:1], draws=1, blocking=False)
    job.result(600)
    done = subprocess.run(
        [sys.executable, "-m", "nnblip", "jobs"], env=os.environ | {"NDIF_HOST": server.url},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert job.id in done.stdout and "COMPLETED" in done.stdout, done.stderr


def test_an_error_on_the_server(far):
    example = nnblip.demo.examples()[0]
    given = nnblip.Example(example.image, example.question, partner=example.image)
    job = nnblip.causal_trace(far, [given], noise="swap", draws=1, blocking=False)
    with pytest.raises(nnblip.NnblipError, match="nothing to trace"):
        job.result(600)


def test_a_job_that_the_server_does_not_know(far, monkeypatch):
    from nnblip.tracing import jobs

    job = nnblip.causal_trace(far, nnblip.demo.examples()[:1], draws=1, blocking=False)
    monkeypatch.setattr(jobs, "UNKNOWN", 2.0)
    job.id = "0" * 32
    with pytest.raises(RemoteError, match="does not know job"):
        job.result(600)


def test_the_deadline_of_a_job(far, tmp_path):
    noise = Slow(begun := tmp_path / "begun")
    job = nnblip.causal_trace(far, nnblip.demo.examples()[:4], draws=1, noise=noise, blocking=False)
    with pytest.raises(RemoteError, match="nnblip jobs fetch"):
        job.result(0)
    over(begun).touch()
    assert job.result(600)["clean"].probability.shape == (4,)
