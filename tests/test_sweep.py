"""sweep: equal to causal_trace, resumed wherever it was stopped, honest about what failed."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from sweep_helper import Scenes, command, environment, same_arrays, same_as_trace, start

import nnblip
from nnblip.command.cli import main
from nnblip.errors import InputError, NnblipError, NnblipWarning, ResultError
from nnblip.sites import Site, all_tokens, windows
from nnblip.sweeps import agenda, fingerprint
from nnblip.sweeps import sweep as sweeping
from nnblip.sweeps.processes import Lock
from nnblip.sweeps.store import Store
from nnblip.sweeps.verify import check_stored

FEW = dict(nu=[5.0], draws=1)


def status(path):
    return Store(path).status()


def traced_ids(monkeypatch):
    """The ids of what is traced from now on, the probe for the layout left out."""
    ids = []
    trace = agenda.trace_example

    def noted(model, settings, example, tick):
        ids.append(example.id)
        return trace(model, settings, example, tick)

    monkeypatch.setattr(agenda, "trace_example", noted)
    return ids


# --- the numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        dict(nu=[1, 5], draws=2),
        dict(FEW, kinds=["block", "crossattention_head"], cells=windows([1, 3]), direction="noising"),
        dict(FEW, components=["question_encoder"], noise="scale", freeze=["crossattention"], seed=3, max_rows=40),
        dict(FEW, cells=[Site("answer_decoder", layer=1, token=0)]),
        dict(
            FEW,
            components=["image_encoder"],
            regions=2,
            noise_at="pixels",
            knock_out=nnblip.knock_out("image_to_question", [4, 5]),
        ),
    ],
    ids=["plain", "heads and cells", "one component", "cells only", "image regions"],
)
def test_its_numbers_are_those_of_causal_trace_bit_for_bit(model, tmp_path, asked):
    examples = Scenes.of(6)
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **asked)
    same_as_trace(tree, nnblip.causal_trace(model, examples, **asked))
    assert set(tree.status.values) == {"done"} and set(tree.error.values) == {""}
    assert tree["index"].values.tolist() == [str(example.extra["index"]) for example in examples]
    nnblip.results.save(tree, tmp_path / "copy.zarr")
    same_as_trace(nnblip.results.open_result(tmp_path / "copy.zarr"), nnblip.causal_trace(model, examples, **asked))
    assert check_stored(tmp_path / "results.zarr", print) and check_stored(tmp_path / "copy.zarr", print)


def test_cells_of_the_answer_decoder_have_room_for_any_answer_and_keep_only_what_occurs(model, tmp_path):
    examples = Scenes.of(9)
    asked = dict(FEW, cells=all_tokens(component="answer_decoder"))
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **asked)
    plain = nnblip.causal_trace(model, examples, **asked)
    lengths = {len(answer.split()) for answer in plain.answer.values.tolist()}
    assert lengths == {1, 2}, "answers of one and two words are needed here"
    ours, theirs = tree["cells"], plain["cells"]
    assert sorted(ours.cell.values.tolist()) == sorted(theirs.cell.values.tolist())
    for cell in theirs.cell.values.tolist():
        np.testing.assert_array_equal(ours.probability.sel(cell=cell), theirs.probability.sel(cell=cell))


def test_examples_without_ids_are_called_after_their_content_as_in_causal_trace(model, tmp_path):
    examples = [(example.image, example.question) for example in Scenes.of(3)]
    tree = nnblip.sweep(model, examples, tmp_path / "results.zarr", **FEW)
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))


# --- stopping and going on -----------------------------------------------------------------


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


def test_twenty_kills_at_random_moments_leave_no_trace(tmp_path):
    """Real processes, real SIGKILL; the moments cover start, creation, tracing and writing."""
    out, whole, rng = tmp_path / "results.zarr", tmp_path / "whole.zarr", random.Random(1)
    assert start(command(whole), stdout=subprocess.DEVNULL).wait(120) == 0
    kills, seen = 0, []
    while kills < 20:
        process = start(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment() | SLOW)
        before = written(out)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:  # then at least one example is at work
            if kills % 5 == 0 or written(out) > before:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL, "it was still at work"
        kills += 1
        seen.append(status(out).count("done") if out.exists() else 0)
    assert seen == sorted(seen) and 5 < seen[-1] < 40, f"each run goes on where the last was killed: {seen}"
    assert not [line for line in _said(out) if "damaged" in line]
    assert start(command(out), stdout=subprocess.DEVNULL).wait(120) == 0
    same_arrays(out, whole)
    assert not [*out.rglob("*.partial")]


#: So that twenty kills fit into forty examples.
SLOW = {"SLOWER": "0.1"}


def written(out):
    """When an example was last written; a kill in the middle leaves it to be written again."""
    chunks = (out / "error").glob("[0-9]*") if out.exists() else ()
    return max((path.stat().st_mtime_ns for path in chunks), default=0)


def _said(out):
    lines = []
    check_stored(out, lines.append)
    return lines


# --- refusals ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """A finished sweep of four examples; copy it before changing it."""
    out = tmp_path_factory.mktemp("small") / "results.zarr"
    nnblip.sweep(model, Scenes.of(4), out, **FEW)
    return out


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (dict(draws=2), "setting draws: 1 -> 2"),
        (dict(nu=[3.0]), r"setting nu: \[5.0\] -> \[3.0\]"),
        (dict(seed=1), "setting seed: 0 -> 1"),
        (dict(kinds=["mlp_out"]), "setting kinds"),
        (dict(noise="additive"), r"setting noise: 'Multiplicative\(\)' -> 'Additive\(\)'"),
        (dict(cells=windows(2)), "setting cells"),
        (dict(freeze=["attention"]), "setting freeze"),
    ],
)
def test_other_settings_are_refused_with_the_difference(model, small, change, shown):
    with pytest.raises(ResultError, match=shown):
        nnblip.sweep(model, Scenes.of(4), small, **(FEW | change))


def test_other_examples_model_and_code_are_refused_with_the_difference(model, small, monkeypatch):
    with pytest.raises(ResultError, match="data set: examples: 4 -> 5"):
        nnblip.sweep(model, Scenes.of(5), small, **FEW)
    with pytest.raises(ResultError, match="data set: hash"):
        nnblip.sweep(model, Scenes.of(4, answer="red"), small, **FEW)
    with pytest.raises(ResultError, match="data set: name: 'test scenes' -> ''"):
        nnblip.sweep(model, list(Scenes.of(4)), small, **FEW)
    other = nnblip.BlipVQA()
    with torch.no_grad():  # one weight of four million
        other._module.text_encoder.encoder.layer[3].output.dense.weight[5, 7] += 1e-6
    with pytest.raises(ResultError, match="model and code: weights"):
        nnblip.sweep(other, Scenes.of(4), small, **FEW)
    monkeypatch.setattr(fingerprint, "source_hash", lambda: "changed")
    with pytest.raises(ResultError, match=r"model and code: source: 'code \w+' -> 'changed'"):
        nnblip.sweep(model, Scenes.of(4), small, **FEW)


def test_what_is_no_store_of_a_sweep_is_left_alone(model, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").write_text("precious")
    plain = nnblip.results.save(nnblip.causal_trace(model, Scenes.of(1), **FEW), tmp_path / "plain.zarr")
    for there in (tmp_path / "mine.zarr", plain):
        before = sorted(there.rglob("*"))
        with pytest.raises(ResultError, match="not the store of a sweep"):
            nnblip.sweep(model, Scenes.of(1), there, **FEW)
        assert sorted(there.rglob("*")) == before
    with pytest.raises(ResultError, match=r"ends in \.zarr"):
        nnblip.sweep(model, Scenes.of(1), tmp_path / "results", **FEW)


def test_ids_must_differ(model, tmp_path):
    with pytest.raises(InputError, match="examples 0 and 1 have the same id 'twin'"):
        nnblip.sweep(model, Scenes.of(2, id="twin"), tmp_path / "results.zarr", **FEW)
    assert not (tmp_path / "results.zarr").exists()


def test_settings_are_checked_before_anything_is_written(model, tmp_path):
    for wrong in (dict(nu=-1), dict(kinds=["blocks"]), dict(cells=[Site("question_encoder", layer=77, token=0)])):
        with pytest.raises(NnblipError):
            nnblip.sweep(model, Scenes.of(2), tmp_path / "results.zarr", **(FEW | wrong))
    assert not (tmp_path / "results.zarr").exists()


# --- failures ------------------------------------------------------------------------------


def test_an_unreadable_image_among_good_ones_is_recorded_and_the_rest_goes_on(model, tmp_path, monkeypatch):
    examples, out = Scenes.of(5), tmp_path / "results.zarr"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    examples[0] = nnblip.Example(broken, "what is the color of the star", id="bad", question_type="color")
    ids = traced_ids(monkeypatch)
    noted = agenda.trace_example

    def short_of_memory(*args):
        traced = noted(*args)
        if args[2].id == "q3":
            raise MemoryError("too little")
        return traced

    monkeypatch.setattr(agenda, "trace_example", short_of_memory)
    tree = nnblip.sweep(model, examples, out, **FEW)
    assert tree.status.values.tolist() == ["failed", "done", "done", "failed", "done"]
    assert "Pillow" in tree.error.values[0] and str(broken) in tree.error.values[0]
    assert tree.error.values[3] == "MemoryError: too little"
    assert tree.question.values[0] == "what is the color of the star" and tree.question_type.values[0] == "color"
    assert tree["image"].values[0] == str(broken) and tree.example.values[0] == "bad"
    for node in tree.children.values():
        assert np.isnan(node.to_dataset().probability.values[[0, 3]]).all()
    good = [examples[i] for i in (1, 2, 4)]
    same_as_trace(tree.isel(example=[1, 2, 4]), nnblip.causal_trace(model, good, **FEW))
    assert check_stored(out, print), "a failed example is no damage"

    ids.clear()
    nnblip.sweep(model, examples, out, **FEW)
    assert ids == [], "nothing is tried again unless asked for"
    monkeypatch.undo()
    examples[1].image.save(broken)
    ids = traced_ids(monkeypatch)
    tree = nnblip.sweep(model, examples, out, **FEW, retry_failed=True)
    assert ids == ["bad", "q3"] and set(tree.status.values) == {"done"} and set(tree.error.values) == {""}
    same_as_trace(tree, nnblip.causal_trace(model, examples, **FEW))


def test_numbers_that_are_nan_are_a_failure_and_not_a_result(model, tmp_path, monkeypatch):
    trace = agenda.trace_example

    def overflows(model, settings, example, tick):
        traced = trace(model, settings, example, tick)
        if example.id == "q1":
            traced.restored["question_encoder"][0, 0, 0, 0, 2, 3] = np.nan
        return traced

    monkeypatch.setattr(agenda, "trace_example", overflows)
    tree = nnblip.sweep(model, Scenes.of(3), tmp_path / "results.zarr", **FEW)
    assert tree.status.values.tolist() == ["done", "failed", "done"] and "NaN" in tree.error.values[1]


def test_if_no_example_can_be_traced_that_is_an_error_and_nothing_is_written(model, tmp_path):
    with pytest.raises(NnblipError, match=r"none of the 2 examples can be traced; example 0: .*no such file"):
        nnblip.sweep(model, [("a.png", "what is this"), ("b.png", "what is this")], tmp_path / "r.zarr", **FEW)
    assert not (tmp_path / "r.zarr").exists()


def test_a_stop_without_a_word_is_still_said(capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnblip.sweeps.verify.check_stored", stopped)
    assert main(["check", "results.zarr"]) == 130 and capsys.readouterr().err == "nnblip: stopped\n"


@pytest.fixture
def little_disk(tmp_path):
    """A file system of 1200 kB, where it can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here; the limit on files' sizes below stands for it")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_it_with_a_reason_and_it_goes_on_when_there_is_room(model, little_disk, tmp_path):
    out, examples = little_disk / "results.zarr", Scenes.of(16)
    with pytest.raises(ResultError, match=r"No space left.*the same command goes on"):
        nnblip.sweep(model, examples, out, **FEW)
    done = status(out).count("done")
    assert 0 < done < 16
    with pytest.raises(ResultError, match="No space left"):
        nnblip.sweep(model, examples, out, **FEW)
    assert status(out).count("done") >= done
    subprocess.run(["mount", "-o", "remount,size=20m", little_disk], check=True)
    nnblip.sweep(model, examples, out, **FEW)
    nnblip.sweep(model, examples, tmp_path / "whole.zarr", **FEW)
    same_arrays(out, tmp_path / "whole.zarr")


def test_a_write_that_fails_stops_it_and_it_goes_on(model, tmp_path, monkeypatch):
    """The same with a limit on the size of files, which needs no rights."""
    out, examples = tmp_path / "results.zarr", Scenes.of(6)
    write = Store.write
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, index, row):
        if index == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, allowed[1]))
        return write(self, index, row)

    monkeypatch.setattr(Store, "write", limited)
    try:
        with pytest.raises(ResultError, match="File too large"):
            nnblip.sweep(model, examples, out, **FEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    monkeypatch.undo()
    assert status(out) == ["done"] * 3 + ["pending"] * 3
    nnblip.sweep(model, examples, out, **FEW)
    nnblip.sweep(model, examples, tmp_path / "whole.zarr", **FEW)
    same_arrays(out, tmp_path / "whole.zarr")


# --- damage --------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("chunk", ["question_encoder/probability/2.0.0.0.0.0", "status/2", "example/2", "error/2"])
@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_chunk_is_found_by_check_and_done_again(model, small, tmp_path, monkeypatch, capsys, chunk, harm):
    out = tmp_path / "results.zarr"
    shutil.copytree(small, out)
    assert main(["check", str(out)]) == 0
    assert "all is well (4 examples, 4 done, 0 failed, 0 pending)" in capsys.readouterr().out
    harm(out / chunk)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["check", str(out)]) == 1
    assert f"/{chunk.rpartition('/')[0]}, examples 2 to 2" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}, "check changes nothing"
    ids = traced_ids(monkeypatch)
    with pytest.warns(NnblipWarning, match=f"damaged, 1 examples are done again: /{chunk.rpartition('/')[0]}"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)
    assert ids == ["q2"]
    same_arrays(out, small)


def test_check_finds_damage_in_plain_results_too(model, tmp_path, capsys):
    path = nnblip.results.save(nnblip.causal_trace(model, Scenes.of(2), **FEW), tmp_path / "r.zarr")
    assert main(["check", str(path)]) == 0
    (path / "clean" / "probability" / "0").unlink()
    assert main(["check", str(path)]) == 1
    assert "/clean/probability, examples 0 to 1: numbers are missing" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nothing.zarr")]) == 2
    estimate = nnblip.attribution_trace(model, Scenes.of(2), nu=5.0, draws=1)
    assert main(["check", str(nnblip.results.save(estimate, tmp_path / "estimate.zarr"))]) == 0
    (tmp_path / "odd.zarr").mkdir()
    assert main(["check", str(tmp_path / "odd.zarr")]) == 1


def test_damage_that_no_example_can_mend_is_refused(model, small, tmp_path):
    out = tmp_path / "results.zarr"
    shutil.copytree(small, out)
    truncate(out / "question_encoder" / "layer" / "0")
    with pytest.raises(ResultError, match=r"/question_encoder/layer, all examples: .*move the store away"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)


# --- several writers -----------------------------------------------------------------------


def test_a_second_writer_is_refused_at_once_and_told_who_the_first_is(model, small, tmp_path):
    out = tmp_path / "results.zarr"
    first = start(command(out, 40), env=environment() | {"SLOWER": "0.3"}, stdout=subprocess.DEVNULL)
    try:
        while not out.exists():
            assert first.poll() is None
            time.sleep(0.02)
        began = time.monotonic()
        with pytest.raises(ResultError, match=f"being written by process {first.pid} on "):
            nnblip.sweep(model, Scenes.of(40), out, **FEW)
        assert time.monotonic() - began < 10
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


def test_two_processes_give_the_store_of_one_and_one_that_is_killed_loses_its_example_only(tmp_path):
    out, whole = tmp_path / "results.zarr", tmp_path / "whole.zarr"
    assert start(command(whole, 12), stdout=subprocess.DEVNULL).wait(120) == 0
    launcher = launch(out, 12, env=environment() | {"SLOWER": "0.5"})
    owner = tmp_path / ".results.zarr.lock-1"
    while not out.exists() or status(out).count("done") < 3:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.05)
    before = status(out).count("done")
    os.kill(int(owner.read_text().split()[1]), signal.SIGKILL)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and "the same command goes on" in said
    done = status(out).count("done")
    assert before <= done < 12

    launcher = launch(out, 12)
    printed, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, said
    assert printed.count("12 examples done, 0 failed, 1 rows of the data set left out") == 1
    same_arrays(out, whole)


# --- the command ---------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path, capsys, monkeypatch):
    import nnblip.datasets

    asked = {}
    monkeypatch.setattr(
        nnblip.datasets, "open_dataset", lambda spec, **options: asked.update(options, spec=spec) or Scenes.of(40),
        raising=False,
    )  # fmt: skip
    out = tmp_path / "results.zarr"
    words = ["sweep", "cocoqa:there", "--images", "pictures", "--n", "6", "--draws", "2", "--nu", "1", "5"]
    assert main([*words, "--out", str(out)]) == 0
    assert asked == {"spec": "cocoqa:there", "images": "pictures", "strict": False}
    printed = capsys.readouterr().out
    assert "6 examples done, 0 failed, 1 rows of the data set left out" in printed and "row 7: no picture" in printed
    assert "This run: 6 examples, 24 passes" in printed and str(out) in printed
    tree = xr.open_datatree(out)
    effect = (tree["clean"].probability - tree["corrupted"].probability).mean("draw").sel(nu=5)
    for kind in set(tree.question_type.values.tolist()):
        assert f"{float(effect[(tree.question_type == kind).values].mean()):+.4f}" in printed
    stored = json.loads(tree.attrs["sweep"])
    assert stored["setting nu"] == [1.0, 5.0] and stored["data set: name"] == "test scenes"
    assert main([*words, "--out", str(out), "--seed", "1"]) == 2
    assert "setting seed: 0 -> 1" in capsys.readouterr().err


def test_the_command_reads_data_sets_and_chooses_among_them(model, tmp_path, capsys):
    out = tmp_path / "results.zarr"
    words = ["sweep", "scenes", "--n", "12", "--type", "location", "--draws", "1", "--correct-only"]
    assert main([*words, "--out", str(out)]) == 0
    tree = xr.open_datatree(out)
    kept = tree.sizes["example"]
    assert f"kept {kept} of 12 ({12 - kept} left out)" in capsys.readouterr().out and kept > 6
    assert set(tree.question_type.values.tolist()) == {"location"}
    assert tree.answer.values.tolist() == tree.predicted.values.tolist()
    with pytest.raises(InputError, match="did you mean 'scenes'"):
        nnblip.sweep(model, "scene", out)


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


def test_sigterm_finishes_the_example_at_hand(tmp_path):
    out = tmp_path / "results.zarr"
    process = start(command(out, 20), env=environment() | {"SLOWER": "0.3"})
    while not out.exists() or status(out).count("done") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    assert sys.executable and 2 <= status(out).count("done") < 20
