"""Where a store lies: removed or moved while it is written, reached through links, or where nothing can be written."""

from __future__ import annotations

import errno
import fcntl
import shutil
import subprocess

import pytest
from helpers.sweeps import FEW, Scenes, files, same_arrays, status

import nnblip
from nnblip.command.cli import main
from nnblip.errors import ResultError
from nnblip.sweeps import agenda
from nnblip.sweeps.processes import Lock
from nnblip.sweeps.store import Store


@pytest.mark.slow
@pytest.mark.parametrize("what", ["removed", "moved", "replaced"])
def test_a_store_that_goes_while_it_is_written_stops_the_sweep_and_leaves_no_orphans(
    model, small, tmp_path, monkeypatch, what
):
    out, away, trace = tmp_path / "results.zarr", tmp_path / "away.zarr", agenda.trace_example

    def meanwhile(*args):
        if args[2].id == "q2":
            if what == "removed":
                shutil.rmtree(out)
            else:
                out.rename(away)
            if what == "replaced":
                shutil.copytree(small, out)
        return trace(*args)

    monkeypatch.setattr(agenda, "trace_example", meanwhile)
    with pytest.raises(ResultError, match=r"removed or moved while this sweep wrote to it.*put it back"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)
    if what == "replaced":
        assert files(out) == files(small)
    else:
        assert not out.exists()
    if what != "removed":
        assert status(away) == ["done", "done", "pending", "pending"]
        shutil.rmtree(out, ignore_errors=True)
        away.rename(out)
    monkeypatch.undo()
    nnblip.sweep(model, Scenes.of(4), out, **FEW)
    same_arrays(out, small)


def test_a_folder_that_goes_between_two_files_is_not_made_again(model, small, tmp_path, monkeypatch):
    """As when it is removed in the very moment in which an example is written."""
    out, write = shutil.copytree(small, tmp_path / "results.zarr"), nnblip.storage.checksums.write_whole

    def meanwhile(file, data):
        if "corrupted" in file.parts:
            shutil.rmtree(out, ignore_errors=True)
        write(file, data)

    store = Store(out)
    monkeypatch.setattr(nnblip.storage.checksums, "write_whole", meanwhile)
    with pytest.raises(ResultError, match="removed or moved"):
        store.reset(["q0"], [0])
    assert not out.exists()


@pytest.mark.parametrize("link", ["folder", "store"])
def test_a_store_has_one_writer_through_whichever_link_it_is_reached(model, tmp_path, link):
    real = tmp_path / "real" / "results.zarr"
    real.parent.mkdir()
    if link == "folder":
        (tmp_path / "link").symlink_to(real.parent)
        reached = tmp_path / "link" / "results.zarr"
    else:
        reached = tmp_path / "link.zarr"
        reached.symlink_to(real)
    lock = Lock(real, 0)
    with pytest.raises(ResultError, match="is being written by process"):
        nnblip.sweep(model, Scenes.of(1), reached, **FEW)
    lock.release()
    nnblip.sweep(model, Scenes.of(1), reached, **FEW)
    assert status(real) == ["done"] and reached.samefile(real)


def test_links_that_someone_has_planted_are_not_followed(model, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("precious")
    for name, target, said in [
        (".one.zarr.new", victim, r"\.one\.zarr\.new' is a link, which nnblip never makes: remove it"),
        (".two.zarr.lock-0", victim / "thesis.txt", r"its lock '.*lock-0' cannot be taken"),
    ]:
        (tmp_path / name).symlink_to(target)
        with pytest.raises(ResultError, match=said):
            nnblip.sweep(model, Scenes.of(1), tmp_path / name[1:9], **FEW)
        assert files(victim) == {"thesis.txt": b"precious"}


def test_a_link_in_the_place_of_a_chunk_about_to_be_written_is_not_followed(model, small, tmp_path):
    out, victim = shutil.copytree(small, tmp_path / "results.zarr"), tmp_path / "thesis.txt"
    victim.write_text("precious")
    for name in ("0", "0.partial"):
        path = out / "clean" / "probability" / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    with pytest.warns(nnblip.errors.NnblipWarning, match="1 examples are done again"):
        nnblip.sweep(model, Scenes.of(4), out, **FEW)
    assert victim.read_text() == "precious"
    same_arrays(out, small)


@pytest.fixture
def read_only(small, tmp_path):
    """A finished store in a folder in which nothing can be written, by root neither."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    shutil.copytree(small, folder / "results.zarr")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    yield folder / "results.zarr"
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_finished_store_that_cannot_be_written_is_read(model, small, read_only, capsys):
    before = files(read_only.parent)
    assert main(["check", str(read_only)]) == 0 and "all is well" in capsys.readouterr().out
    tree = nnblip.sweep(model, Scenes.of(4), read_only, **FEW)
    assert tree.status.values.tolist() == ["done"] * 4
    same_arrays(read_only, small)
    assert files(read_only.parent) == before


def test_what_would_have_to_be_written_there_is_refused_with_a_remedy(model, read_only):
    with pytest.raises(
        ResultError, match=r"its lock .* cannot be taken \(.*Read-only file system.*choose another --out"
    ):
        nnblip.sweep(model, Scenes.of(4), read_only.with_name("new.zarr"), **FEW)
    subprocess.run(["mount", "-o", "remount,rw", read_only.parent], check=True)
    (read_only / "nu" / "0").unlink()
    subprocess.run(["mount", "-o", "remount,ro", read_only.parent], check=True)
    with pytest.raises(ResultError, match=r"its lock .* cannot be taken .*choose another --out"):
        nnblip.sweep(model, Scenes.of(4), read_only, **FEW)


def test_a_finished_store_is_read_while_another_process_has_its_lock(model, small, tmp_path):
    out = shutil.copytree(small, tmp_path / "results.zarr")
    lock = Lock(out, 0)
    assert nnblip.sweep(model, Scenes.of(4), out, **FEW).sizes["example"] == 4
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_refused_with_a_remedy(model, tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, "no locks here")

    def link(*_, **__):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("os.link", link)
    with pytest.raises(ResultError, match=r"its lock .*lock-0' cannot be taken \(.*choose another --out, on a disk"):
        nnblip.sweep(model, Scenes.of(1), tmp_path / "results.zarr", **FEW)


def test_no_hard_links_are_needed(model, small, tmp_path, monkeypatch):
    def link(*_, **__):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("os.link", link)
    nnblip.sweep(model, Scenes.of(4), tmp_path / "results.zarr", **FEW)
    same_arrays(tmp_path / "results.zarr", small)
