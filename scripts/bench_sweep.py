#!/usr/bin/env python
"""What a sweep costs besides its passes, on the small model that ships with nnblip: time, memory, disk, opening.

    python scripts/bench_sweep.py             # a table, a few minutes
    python scripts/bench_sweep.py --n 50      # does it all run?

`bench.py` runs it for its own table. Machines are shared and noisy, so the time of an example in a
large sweep is compared with that in small sweeps which are run in between, within the same minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from bench import peak_memory, show
from bench_tasks import Row, row

import nnblip
from nnblip.datasets import scenes
from nnblip.sweeps import agenda
from nnblip.sweeps.store import DONE, Store, create

SMALL, ROUNDS = 10, 10


def examples() -> Iterator[nnblip.Example]:
    """Questions about generated scenes; pictures are drawn when they are needed, as files are read."""
    for index in count():
        for number, asked in enumerate(scenes.questions(scenes.scene(55, index))):
            image = partial(lambda index: scenes.scene(55, index).image, index)
            yield nnblip.Example(image, asked.question, None, asked.type, f"{index}-{number}")


def resident() -> int:
    """Bytes in use now; where that is not known, the peak."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return peak_memory("cpu")


class Clock:
    """Notes time and memory at the start of every example; every so many of them, a small sweep runs in between."""

    def __init__(self, model: nnblip.BlipVQA, folder: Path, n: int) -> None:
        self.model, self.folder, self.every = model, folder, max(SMALL, n // ROUNDS)
        self.memory: list[int] = []
        self.ratios: list[float] = []
        self.seconds: list[float] = []
        self._starts: list[float] = []
        self._trace, self._inside = agenda.trace_example, False

    def __call__(self, *args: Any) -> Any:
        if not self._inside:
            self.memory.append(resident())
            if len(self.memory) % self.every == 0:
                self._compare()
        self._starts.append(time.perf_counter())
        return self._trace(*args)

    def _compare(self) -> None:
        large = np.median(np.diff(self._starts[-self.every :]))
        self._starts, self._inside = [], True
        out = self.folder / f"small{len(self.ratios)}.zarr"
        nnblip.sweep(self.model, list(islice(examples(), SMALL)), out, draws=1, progress=False)
        small = np.median(np.diff(self._starts[1:]))  # the first call is the probe for the layout
        self._starts, self._inside = [], False
        self.ratios.append(float(large / small))
        self.seconds.append(float(large))


def growing(model: nnblip.BlipVQA, folder: Path, n: int) -> list[Row]:
    clock, out = Clock(model, folder, n), folder / "large.zarr"
    agenda.trace_example = clock  # type: ignore[assignment]
    try:
        tree = nnblip.sweep(model, list(islice(examples(), n)), out, draws=1, progress=False)
    finally:
        agenda.trace_example = clock._trace
    numbers = sum(
        4 * int(np.isfinite(v.values).sum()) for node in tree.children.values() for v in node.data_vars.values()
    )
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    settled = clock.memory[len(clock.memory) // 20 :]  # the first examples fill the caches of torch and zarr
    growth = (max(settled) - settled[0]) / 2**20
    return [
        row("sweep, one example of one pass", clock.seconds, "s"),
        row(f"an example among {n} / among {SMALL}", clock.ratios, "x", "at most", 1.1),
        row(f"resident memory, its growth over {n} examples", growth, "MB", "at most", 50),
        row("store / bytes of its numbers, one pass an example", stored / numbers, "x", "at most", 1.2),
    ]


def opening(model: nnblip.BlipVQA, folder: Path, n: int) -> Row:
    """A store of n examples with random numbers, opened and averaged over the examples of one type."""
    tree = nnblip.causal_trace(model, list(islice(examples(), 4)), draws=10, progress=False)
    out, rng = folder / "many.zarr", np.random.default_rng(0)
    create(out, tree.isel(example=[0]), {"example": np.array([f"e{i}" for i in range(n)], object)}, {}, "{}")
    store, types = Store(out), np.array(scenes.QUESTION_TYPES, object)
    for key, array in store.growing.items():
        if array.dtype.kind == "f":
            array[...] = rng.standard_normal(array.shape, np.float32)
        elif key != "example":
            texts = types[np.arange(n) % 4] if key == "question_type" else np.full(n, DONE, object)
            array[...] = np.broadcast_to(texts.reshape(-1, *[1] * (array.ndim - 1)), array.shape)
    store.finish()

    def average() -> float:
        began = time.perf_counter()
        opened = xr.open_datatree(out)
        chosen = (opened.question_type == "color").values
        opened["question_encoder"].probability.isel(example=chosen).mean(("example", "draw")).load()
        return time.perf_counter() - began

    return row(
        f"opening a store of {n} examples, a map's mean over one type", [average() for _ in range(3)], "s", "at most", 2
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="examples of the large sweep; ten times as many are opened")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    model = nnblip.BlipVQA()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*growing(model, Path(folder), args.n), opening(model, Path(folder), 10 * args.n)]
    if args.json:
        print(json.dumps(rows))
    else:
        show("sweeps, the bundled model", rows)


if __name__ == "__main__":
    main()
