"""Sweeps that are killed at any moment, by one process or two, and started again: nothing is lost and nothing left.

`python -m pytest tests/adversary/test_kills.py --kills 500 --seed 7` kills more often, and at other moments.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from adversary.victims import EXAMPLES, Kill, Victims
from helpers.sweeps import same_files, status

from nnblip.sweeps.processes import held_by_others
from nnblip.sweeps.verify import check_stored


def a_kill(rng: random.Random, processes: int, begun: bool, whole: float) -> Kill:
    """At some file (a thousand moments make a store, some two hundred go on in one) or some time of a whole sweep."""
    if rng.random() < 0.7:
        when = {"moment": rng.randint(1, rng.choice([60, 250] if begun else [60, 1300]))}
    else:
        when = {"seconds": rng.uniform(0, whole / 3)}
    return Kill(processes, rng.randrange(processes), others=rng.choice(["killed", "terminated", "left"]), **when)


def check(out: Path) -> list[str]:
    said = list[str]()
    return said if check_stored(out, said.append) else [*said, "damaged"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_any_moment_ends_as_one_that_is_not(tmp_path, pytestconfig, figures):
    wanted, seed = pytestconfig.getoption("kills"), pytestconfig.getoption("seed")
    rng, victims = random.Random(f"kills {seed}"), Victims(tmp_path / "said.txt")
    began = time.monotonic()
    assert victims.run(tmp_path / "whole.zarr", Kill()) == [0]
    seconds = time.monotonic() - began
    kills, sweeps, launches, again = [0, 0], 0, 0, 0
    while sum(kills) < wanted:
        out, done, before = tmp_path / f"{sweeps}" / "results.zarr", 0, sum(kills)
        while True:
            processes, launches = launches % 2 + 1, launches + 1
            kill = a_kill(rng, processes, out.exists(), seconds) if sum(kills) < wanted else Kill(processes)
            codes = victims.run(out, kill)
            if codes == [0] * processes:
                break
            told = f"seed {seed}, launch {launches}, {kill}: {codes}\n{(tmp_path / 'said.txt').read_text()[-3000:]}"
            assert codes[kill.victim] == -signal.SIGKILL, told
            kills[processes - 1] += 1
            if out.exists():
                assert not [line for line in check(out) if "damaged" in line], told
                assert done <= (done := status(out).count("done")), told
            assert not held_by_others(out, lambda rank: True), told
        sweeps += 1
        again += sum(kills) > before
        assert check(out) == [f"{out}: all is well ({EXAMPLES} examples, {EXAMPLES} done, 0 failed, 0 pending)"]
        same_files(out, tmp_path / "whole.zarr")
        assert {path.name for path in out.parent.iterdir()} <= {out.name, *(f".{out.name}.lock-{n}" for n in (0, 1))}
    victims.close()
    figures(
        f"kills: {sum(kills)} of seed {seed} ({kills[0]} of one process, {kills[1]} of two) in {launches} launches of"
        f" {sweeps} sweeps, {again} of them killed: each ends as one that is not, byte for byte"
    )
    assert again
