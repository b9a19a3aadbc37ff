"""Sweeps for tests: generated scenes as a data set, and a process of its own that sweeps them.

Run as a program it is `nnblip` with this data set in place of the readers, so that what is
killed or launched twice is the real command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import xarray as xr

from nnblip.datasets import scenes
from nnblip.examples import Example
from nnblip.sweeps import agenda
from nnblip.sweeps.store import Store

ROOT = Path(__file__).parents[2]

FEW = dict(nu=[5.0], draws=1)
MADE = re.compile(rb'"created": *"[^"]*"')


class Scenes(list):
    """The first n questions about a series of scenes; every question type, several lengths, answers of two words."""

    name = "test scenes"
    problems = ("row 7: no picture",)

    @classmethod
    def of(cls, n, **changed):
        examples = cls()
        for index in count():
            scene = scenes.scene(55, index)
            for asked in scenes.questions(scene):
                if len(examples) == n:
                    return examples
                fields = {"image": scene.image, "id": f"q{len(examples)}", "extra": {"index": index}} | changed
                examples.append(Example(question=asked.question, question_type=asked.type, **fields))
        raise AssertionError

    def sample(self, n, seed):
        return Scenes.of(n)


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


def same_arrays(one: Path, other: Path) -> None:
    """Every array of two stores is the same, coordinates included."""
    trees = [xr.open_datatree(path, decode_cf=False) for path in (one, other)]
    assert [node.path for node in trees[0].subtree] == [node.path for node in trees[1].subtree]
    for node in trees[0].subtree:
        left, right = node.to_dataset(inherit=False), trees[1][node.path].to_dataset(inherit=False)
        assert set(left.variables) == set(right.variables)
        for name, variable in left.variables.items():
            assert variable.dims == right[name].dims
            np.testing.assert_array_equal(variable.values, right[name].values, err_msg=f"{node.path}/{name}")


def files(folder: Path) -> dict[str, bytes]:
    """All files, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_files(one: Path, other: Path) -> None:
    """Two stores have the same files, byte for byte but for the time when they were made."""
    left, right = ({key: MADE.sub(b"", data) for key, data in files(store).items()} for store in (one, other))
    for lists in (left, right):
        assert len(lists.pop(".checksums/all").splitlines()) == len(lists) + 2  # they are those of the times, too
    assert left == right


def same_as_trace(tree: xr.DataTree, traced: xr.DataTree) -> None:
    """Everything that `causal_trace` gives is in the sweep's tree, bit for bit."""
    assert {node.path for node in traced.subtree} == {node.path for node in tree.subtree}
    for node in traced.subtree:
        mine = tree[node.path].to_dataset()
        for name, variable in node.to_dataset(inherit=False).variables.items():
            assert mine[name].dims == variable.dims, name
            if variable.dtype.kind == "U":
                assert mine[name].values.tolist() == variable.values.tolist(), name
            else:
                assert mine[name].dtype == variable.dtype
                np.testing.assert_array_equal(mine[name].values, variable.values, err_msg=f"{node.path}/{name}")


def command(out: Path, n: int = 40, *more: str) -> list[str]:
    return ["-m", "helpers.sweeps", "sweep", "scenes", "--n", str(n), "--draws", "1", "--out", str(out), *more]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}


def start(arguments: list[str], **options) -> subprocess.Popen:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()} | options
    return subprocess.Popen([sys.executable, *arguments], **options)


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Wait for something that a thread or a process does, for as long as that lives."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


def held(path: Path) -> list[Path]:
    """The processes that wait until there is such a file, see `main`."""
    return list(path.parent.glob(f"{path.name}.held-*"))


def main() -> int:
    """`nnblip`, whose data set these scenes are. Of HOLD=NUMBER:FILE, examples from that number on wait for a file."""
    import nnblip.datasets
    from nnblip.command.cli import main

    nnblip.datasets.open_dataset = lambda *_, **__: Scenes.of(40)  # type: ignore[attr-defined]
    if hold := os.environ.get("HOLD"):
        first, _, file = hold.partition(":")
        trace = agenda.trace_example

        def waits(model, settings, example, tick):
            if int(example.id.removeprefix("q")) >= int(first):
                Path(f"{file}.held-{os.getpid()}").touch()
                until(Path(file).exists)
            return trace(model, settings, example, tick)

        agenda.trace_example = waits
    warnings.simplefilter("default")
    return main()


if __name__ == "__main__":
    sys.exit(main())
