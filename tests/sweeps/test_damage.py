"""Honest about what failed, what could not be written and what is damaged."""

from __future__ import annotations

import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.sweeps import FEW, Scenes, same_arrays, same_as_trace, status, traced_ids

import nnblip
from nnblip.command.cli import main
from nnblip.errors import NnblipError, NnblipWarning, ResultError
from nnblip.sweeps import agenda
from nnblip.sweeps.store import Store
from nnblip.sweeps.verify import check_stored

# --- failures ------------------------------------------------------------------------------


@pytest.mark.slow
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
    assert "not an image" in tree.error.values[0] and str(broken) in tree.error.values[0]
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


@pytest.mark.slow
def test_a_write_that_fails_stops_it_and_it_goes_on(model, tmp_path, monkeypatch):
    """A limit on the size of files, which needs no rights; full disks are in tests/adversary."""
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


@pytest.mark.slow
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
    assert "/clean/probability, examples 0 to 1: it is not there" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nothing.zarr")]) == 2
    estimate = nnblip.attribution_trace(model, Scenes.of(2), nu=5.0, draws=1)
    assert main(["check", str(nnblip.results.save(estimate, tmp_path / "estimate.zarr"))]) == 0
    (tmp_path / "odd.zarr").mkdir()
    assert main(["check", str(tmp_path / "odd.zarr")]) == 1


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


#: What all examples share: coordinates, attributes and metadata.
SHARED = [
    "nu/0",
    "draw/0",
    "question_encoder/layer/0",
    "question_encoder/kind/0",
    "answer_decoder/token/0",
    "answer_decoder/.zgroup",
    "clean/probability/.zarray",
    "question_encoder/token_text/.zattrs",
    ".zattrs",
    ".zgroup",
    ".zmetadata",
]


@pytest.mark.slow
@pytest.mark.parametrize("file", SHARED)
@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip, replace_by_folder])
def test_damage_to_what_all_examples_share_is_named_and_mended(model, small, tmp_path, capsys, monkeypatch, file, harm):
    out = shutil.copytree(small, tmp_path / "results.zarr")
    harm(out / file)
    assert main(["check", str(out)]) == 1
    told = capsys.readouterr().out
    if "names the codec" in told:  # the bit was in a codec's name: such a store is not opened at all
        assert "Move it away" in told
        return
    assert f"/{file.removesuffix('/0')}, all examples: " in told
    ids = traced_ids(monkeypatch)
    with pytest.warns(NnblipWarning, match=r"is damaged, 0 examples are done again"):
        tree = nnblip.sweep(model, Scenes.of(4), out, **FEW)
    assert ids in ([], ["q0"]), "at most one is traced for what a store looks like"
    same_arrays(out, small)
    assert tree.attrs == xr.open_datatree(small).attrs and check_stored(out, print)


def test_nothing_is_consolidated_away(model, small, tmp_path):
    """In stores of before there were lists of checksums too."""
    for lists in (True, False):
        out = shutil.copytree(small, tmp_path / f"{lists}.zarr")
        if not lists:
            shutil.rmtree(out / ".checksums")
        (out / "answer_decoder" / ".zgroup").unlink()
        (out / "question_encoder" / "probability" / ".zarray").unlink()
        with pytest.warns(NnblipWarning, match=r"/answer_decoder/.zgroup, all examples: it is not there"):
            nnblip.sweep(model, Scenes.of(4), out, **FEW)
        same_arrays(out, small)


def test_a_store_without_lists_of_checksums_opens_and_is_gone_on_with(model, small, tmp_path, monkeypatch):
    out = shutil.copytree(small, tmp_path / "results.zarr")
    shutil.rmtree(out / ".checksums")
    ids = traced_ids(monkeypatch)
    nnblip.sweep(model, Scenes.of(4), out, **FEW)
    assert ids == [] and check_stored(out, print) and not (out / ".checksums").exists(), "nothing is written"
    (out / "nu" / "0").unlink()
    assert not check_stored(out, print), "NaN is no ν"
    with pytest.warns(NnblipWarning, match="/nu, all examples: values are missing"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)
    same_arrays(out, small)
    assert (out / ".checksums" / "all").exists()


def test_chunks_that_are_swapped_are_done_again(model, small, tmp_path, monkeypatch):
    out = shutil.copytree(small, tmp_path / "results.zarr")
    chunks = [out / "question_encoder" / "probability" / f"{block}.0.0.0.0.0" for block in (1, 2)]
    first, second = (chunk.read_bytes() for chunk in chunks)
    assert first != second
    chunks[0].write_bytes(second)
    chunks[1].write_bytes(first)
    ids = traced_ids(monkeypatch)
    with pytest.warns(NnblipWarning, match="damaged, 2 examples are done again"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)
    assert ids == ["q1", "q2"]
    same_arrays(out, small)


@pytest.mark.slow
def test_the_list_itself_is_checked_and_made_again(model, small, tmp_path, capsys):
    out = shutil.copytree(small, tmp_path / "results.zarr")
    for harm in (flip, truncate, Path.unlink):
        harm(out / ".checksums" / "all")
        assert main(["check", str(out)]) == 1
        assert "/.checksums/all, all examples: the list of checksums is itself damaged" in capsys.readouterr().out
        with pytest.warns(NnblipWarning, match="0 examples are done again"):
            nnblip.sweep(model, Scenes.of(4), out, **FEW)
        assert check_stored(out, print)
    same_arrays(out, small)


def test_the_list_is_one_that_sha256sum_reads(small):
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "--check", ".checksums/all"], cwd=small, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) > 150 and all(line.endswith(": OK") for line in lines), done


def test_what_cannot_be_mended_is_refused_with_a_remedy(model, small, tmp_path):
    def planted(out):
        (out / "zarr.json").write_text("{}")

    def full_folder(out):
        replace_by_folder(out / "nu" / "0")
        (out / "nu" / "0" / "thesis.txt").write_text("precious")

    def all_attributes(out):
        truncate(out / ".zattrs")
        truncate(out / ".zmetadata")

    for harm, said in [
        (planted, r"zarr\.json' is not of this sweep: move it out of the store"),
        (full_folder, r"nu/0' is a folder where nnblip writes a file, and not empty: move it away"),
        (all_attributes, r"are damaged \(.zattrs, .zmetadata\): move it away and start anew"),
    ]:
        out = shutil.copytree(small, tmp_path / f"{harm.__name__}.zarr")
        harm(out)
        assert not check_stored(out, print)
        with pytest.raises(ResultError, match=said):
            nnblip.sweep(model, Scenes.of(4), out, **FEW)


def test_a_plot_of_numbers_under_a_label_that_is_lost_is_refused(model, tmp_path):
    path = nnblip.results.save(nnblip.causal_trace(model, Scenes.of(2), nu=[1, 5], draws=1), tmp_path / "r.zarr")
    (path / "nu" / "0").unlink()
    with pytest.raises(ResultError, match=r"r\.zarr': /nu/0: it is not there; `nnblip check` names all"):
        nnblip.results.open_result(path)
