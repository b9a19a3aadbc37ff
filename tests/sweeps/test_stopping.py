"""A sweep goes on wherever it was stopped, in one process and in several."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from helpers.sweeps import (
    FEW,
    Scenes,
    command,
    environment,
    held,
    same_arrays,
    start,
    status,
    traced_ids,
    until,
)

import nnblip
from nnblip.errors import ResultError
from nnblip.sweeps import agenda
from nnblip.sweeps import sweep as sweeping
from nnblip.sweeps.processes import Lock

# --- stopping and going on -----------------------------------------------------------------


@pytest.mark.slow
def test_what_is_finished_is_never_repeated(model, tmp_path, monkeypatch):
    examples, out = Scenes.of(8), tmp_path / "results.zarr"
    nnblip.sweep(model, examples, tmp_path / "whole.zarr", **FEW)
    ids, trace = traced_ids(monkeypatch), agenda.trace_example

    def stopped(*args):
        if args[2].id == "q5":
            raise KeyboardInterrupt
        return trace(*args)

    monkeypatch.setattr(agenda, "trace_example", stopped)
    noted = agenda.trace_example
    monkeypatch.setattr(agenda, "trace_example", lambda *args: (ids.append(args[2].id), noted(*args))[1])
    with pytest.raises(KeyboardInterrupt, match="5 of 8 examples finished; the same command goes on"):
        nnblip.sweep(model, examples, out, **FEW)
    assert status(out) == ["done"] * 5 + ["pending"] * 3
    monkeypatch.undo()
    ids = traced_ids(monkeypatch)
    nnblip.sweep(model, examples, out, **FEW)
    assert ids == ["q5", "q6", "q7"]
    same_arrays(out, tmp_path / "whole.zarr")
    ids.clear()
    nnblip.sweep(model, examples, out, **FEW)
    assert ids == [], "a finished sweep traces nothing"
    same_arrays(out, tmp_path / "whole.zarr")


# --- several writers -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_writer_is_refused_at_once_and_told_who_the_first_is(model, tmp_path):
    out, go = tmp_path / "results.zarr", tmp_path / "go"
    first = start(command(out, 40), env=environment() | {"HOLD": f"1:{go}"}, stdout=subprocess.DEVNULL)
    try:
        until(lambda: held(go), first)
        with pytest.raises(ResultError, match=f"being written by process {first.pid} on "):
            nnblip.sweep(model, Scenes.of(40), out, **FEW)
        assert first.poll() is None, "it was not waited for"
    finally:
        first.kill()
        first.wait()
    Lock(out, 0).release()  # the lock of a killed process does not block


def test_a_leftover_process_of_an_earlier_launch_is_noticed(model, tmp_path):
    out = tmp_path / "results.zarr"
    left = Lock(out, 3)
    with pytest.raises(ResultError, match=f"process {os.getpid()} on .*, left of an earlier run"):
        nnblip.sweep(model, Scenes.of(2), out, **FEW)
    left.release()
    nnblip.sweep(model, Scenes.of(2), out, **FEW)


def launch(out, *more, **options):
    """As `accelerate launch` with two processes, on CPUs too."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return start([*launcher, *command(out, *more)], **options)


@pytest.mark.slow
def test_two_processes_give_the_store_of_one_and_one_that_is_killed_loses_its_example_only(model, tmp_path):
    out, whole, go = tmp_path / "results.zarr", tmp_path / "whole.zarr", tmp_path / "go"
    nnblip.sweep(model, Scenes.of(12), whole, **FEW)
    launcher = launch(out, 12, env=environment() | {"HOLD": f"4:{go}"})
    until(lambda: len(held(go)) == 2, launcher)
    owner = tmp_path / ".results.zarr.lock-1"
    os.kill(int(owner.read_text().split()[1]), signal.SIGKILL)
    go.touch()
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode != 0 and "the same command goes on" in said
    assert status(out)[:6] == ["done"] * 5 + ["pending"], "what it was at"
    assert status(out).count("pending") >= 4, "and the rest of its share"

    left = status(out).count("pending")
    launcher = launch(out, 12)
    printed, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert printed.count("12 examples done, 0 failed, 1 rows of the data set left out") == 1
    assert f"This run: {left} examples, {left} passes" in printed, "those of both processes"
    same_arrays(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [False, True])
def test_the_process_that_waits_does_not_wait_for_ever(model, tmp_path, monkeypatch, stuck):
    """A rank that ended before its share was done, or that lives and does nothing, is an error and no wait."""
    monkeypatch.setattr(sweeping, "STANDSTILL", 0.5)
    monkeypatch.setattr(sweeping, "LISTEN", 0.2)
    other = Lock(tmp_path / "results.zarr", 1) if stuck else None
    team = type("Team", (), {"rank": 0, "size": 2, "gather": lambda s, v: [v], "share": lambda s, v: v, "close": int})
    monkeypatch.setattr(sweeping, "Team", team)
    with pytest.raises(ResultError, match=r"2 of 4 examples finished.*a process ended or stands still"):
        nnblip.sweep(model, Scenes.of(4), tmp_path / "results.zarr", **FEW)
    if other:
        other.release()


@pytest.mark.slow
def test_sigterm_finishes_the_example_at_hand(tmp_path):
    out, go = tmp_path / "results.zarr", tmp_path / "go"
    process = start(command(out, 20), env=environment() | {"HOLD": f"2:{go}"})
    until(lambda: held(go), process)
    process.terminate()
    go.touch()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    assert status(out) == ["done"] * 3 + ["pending"] * 17
