"""Disks full of bytes or of files: what is done is kept, nothing is half written, and with room again it goes on."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from helpers.sweeps import Scenes, files, same_files, status

import nnblip
from nnblip import results
from nnblip.command import cli
from nnblip.errors import ResultError
from nnblip.sweeps import agenda
from nnblip.sweeps.verify import check_stored

PAGE = os.sysconf("SC_PAGE_SIZE")
#: What a disk can be short of, see tmpfs(5): how much of it is plenty.
KINDS = {"bytes": 2**26, "files": 2**14}


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("no tmpfs can be mounted here")

    def give(self, **room: int) -> None:
        """So much room of each kind, plenty where it is not said. It must have room for what is there."""
        room = KINDS | {key: max(least, self.taken()[key]) for key, least in room.items()}
        options = f"remount,size={room['bytes']},nr_inodes={room['files']}"
        subprocess.run(["mount", "-o", options, self.folder], check=True)

    def taken(self) -> dict[str, int]:
        now = os.statvfs(self.folder)
        return {"bytes": (now.f_blocks - now.f_bfree) * PAGE, "files": now.f_files - now.f_ffree}

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    disk.give()
    yield disk
    subprocess.run(["umount", "-l", disk.folder], check=True)


@pytest.fixture(scope="module")
def traced(model):
    return nnblip.causal_trace(model, Scenes.of(1), nu=5.0, draws=1, progress=False)


@pytest.fixture
def quick(model, traced, monkeypatch):
    """The command, with a model that is loaded and numbers that are known."""
    kept, trace = {}, agenda.trace_example

    def once(model, settings, example, tick):
        if example.id not in kept:
            kept[example.id] = trace(model, settings, example, tick)
        return kept[example.id]

    monkeypatch.setattr(agenda, "trace_example", once)
    monkeypatch.setattr("nnblip.tracing.trace.causal_trace", lambda *_, **__: traced)
    monkeypatch.setattr("nnblip.datasets.open_dataset", lambda *_, **__: Scenes.of(8))
    monkeypatch.setattr(cli.Model, "load", lambda self: model)


def refused(capfd, out: Path) -> None:
    """In one line, which says what it was and what to do."""
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("nnblip: ") and str(out) in said, said
    assert "No space left on device" in said and "make room there" in said, said


def sweep(out: Path) -> int:
    return cli.main(["sweep", "scenes", "--nu", "5", "--draws", "1", "--out", str(out)])


@pytest.mark.slow
def test_a_sweep_goes_on_when_there_is_room_again(quick, disk, tmp_path, capfd, pytestconfig, figures):
    whole, seed, wanted = tmp_path / "whole.zarr", pytestconfig.getoption("seed"), pytestconfig.getoption("disks")
    assert sweep(whole) == 0
    told = [fill(disk, kind, whole, capfd, seed, wanted) for kind in KINDS]
    figures(f"full disks: {' and '.join(told)}, of seed {seed}: each ends as one with room, byte for byte")


def fill(disk: Disk, kind: str, whole: Path, capfd, seed: int, wanted: int) -> str:
    """Sweeps on disks that have a bit more room each time: how often they were full, and how many sweeps were done."""
    needs = {"bytes": sum(-(-len(data) // PAGE) * PAGE for data in files(whole).values()), "files": len(files(whole))}
    rng, full, sweeps, parts = random.Random(f"{kind} {seed}"), 0, 0, 0
    while full < wanted:
        out, done = disk.folder / f"{sweeps}.zarr", 0
        room = disk.taken()[kind] + rng.uniform(0, 1.1 * needs[kind])
        disk.give(**{kind: int(room)})
        capfd.readouterr()
        while sweep(out):
            full += 1
            refused(capfd, out)
            assert not [name for name in disk.names() if name.endswith(".partial")]
            if out.exists():
                said = list[str]()
                check_stored(out, said.append)
                assert not [line for line in said if "damaged" in line]
                before, done = done, status(out).count("done")
                assert before <= done
            room += rng.uniform(0, needs[kind] / 8)
            disk.give(**{kind: int(room)})
        same_files(out, whole)
        assert {name.partition("/")[0] for name in disk.names()} <= {out.name, f".{out.name}.lock-0"}
        sweeps, parts = sweeps + 1, parts + (done > 0)
        disk.give()
        subprocess.run(["rm", "-r", out], check=True)
        (disk.folder / f".{out.name}.lock-0").unlink()
    assert parts, "some were full when examples were done"
    return f"{full} of {kind} ({sweeps} sweeps)"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_writes_all_or_nothing(quick, disk, capfd, kind):
    out = disk.folder / "there" / "out"
    command = ["trace", "--nu", "5", "--draws", "1", "--no-where", "--out", str(out)]
    assert cli.main(command) == 0
    needs, before = disk.taken()[kind], files(out)
    for share in (0.97, 0.3):  # what is there stays when it cannot be replaced
        disk.give(**{kind: int((1 + share) * needs)})
        capfd.readouterr()
        assert cli.main([*command, "--overwrite"]) == 2
        refused(capfd, out)
        assert files(out) == before
    subprocess.run(["rm", "-r", out.parent], check=True)
    for share in (0.97, 0.6, 0.05):
        disk.give(**{kind: int(share * needs)})
        capfd.readouterr()
        assert cli.main(command) == 2
        refused(capfd, out)
        assert not disk.names()
    disk.give()
    assert cli.main(command) == 0 and set(files(out)) == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_saved_whole_or_not_at_all(traced, disk, tmp_path, kind):
    results.save(traced, disk.folder / "whole.zarr")
    needs, before = disk.taken()[kind], files(disk.folder)
    for path, overwrite in [("other.zarr", False), ("in/a/folder/other.zarr", False), ("whole.zarr", True)]:
        for share in (0.98, 0.7, 0.3, 0.02):
            disk.give(**{kind: int((1 + share) * needs)})
            with pytest.raises(ResultError, match=rf"^'.*{path}' cannot be written: .*No space left.*make room there"):
                results.save(traced, disk.folder / path, overwrite=overwrite)
            assert files(disk.folder) == before and not list(disk.folder.glob(".*"))
    disk.give()
    results.save(traced, disk.folder / "other.zarr")
    assert files(disk.folder / "other.zarr") == files(disk.folder / "whole.zarr")
