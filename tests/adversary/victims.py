"""Processes that sweep and are killed at a moment of it: forks of one that has loaded all that they need.

A moment is counted, each time that a file or folder of the store is about to be made, renamed or removed, or it is a
time on the clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers.sweeps import FEW, Scenes, start

import nnblip
from nnblip.sweeps import store

EXAMPLES = 8


@dataclass(frozen=True)
class Kill:
    """One launch of a sweep, and how it ends before its time.

    Attributes:
        processes: one or two.
        victim: the rank that is killed.
        moment: how many files it may touch before that; 0 for no end of them.
        seconds: how long it may live, if not for ever.
        others: what becomes of the other then: it is "killed" too, "terminated" as by launchers, or "left" alone.
    """

    processes: int = 1
    victim: int = 0
    moment: int = 0
    seconds: float | None = None
    others: str = "left"


class Victims:
    """The process from which they are forked."""

    def __init__(self, said: Path) -> None:
        """What they print goes into a file."""
        self.process = start(["-m", "adversary.victims", str(said)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def run(self, out: Path, kill: Kill) -> list[int]:
        """Launch them. Gives their exit codes, by rank: -SIGKILL of one that was still at work."""
        self.process.stdin.write(json.dumps([str(out), asdict(kill)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def main(said: str) -> None:
    import accelerate.utils  # noqa: F401 - so that no fork has to
    from torch.distributed import TCPStore

    model = nnblip.BlipVQA()
    store.LEAST_CHUNKS = EXAMPLES // 2  # blocks of two examples
    answers = os.fdopen(os.dup(1), "w")
    for descriptor in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    with tempfile.TemporaryDirectory() as folder:
        nnblip.sweep(model, Scenes.of(1), Path(folder, "first.zarr"), **FEW, progress=False)  # all is loaded now
    for line in sys.stdin:
        out, given = json.loads(line)
        meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        print(json.dumps(launch(model, out, Kill(**given), meeting.port)), file=answers, flush=True)


def launch(model: nnblip.BlipVQA, out: str, kill: Kill, port: int) -> list[int]:
    """Fork them, kill, and see how each has ended."""
    pids = []
    for rank in range(kill.processes):
        if pid := os.fork():
            pids.append(pid)
            continue
        if kill.processes > 1:  # as launchers tell it
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(kill.processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        if kill.moment and rank == kill.victim:
            kill_at(kill.moment, Path(out).name)
        os._exit(sweep(model, out))
    if kill.seconds is not None:
        time.sleep(kill.seconds)
        os.kill(pids[kill.victim], signal.SIGKILL)  # nothing happens if it is done
    codes = {kill.victim: ended(pids[kill.victim])}
    for rank, pid in enumerate(pids):
        if rank != kill.victim:
            if codes[kill.victim] == -signal.SIGKILL and kill.others != "left":
                os.kill(pid, signal.SIGKILL if kill.others == "killed" else signal.SIGTERM)
            codes[rank] = ended(pid)
    return [codes[rank] for rank in range(kill.processes)]


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sweep(model: nnblip.BlipVQA, out: str) -> int:
    try:
        nnblip.sweep(model, Scenes.of(EXAMPLES), out, **FEW, progress=False)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def kill_at(moment: int, name: str) -> None:
    """SIGKILL this process before it does something for the so many-th time to a path with this name in it."""
    left = moment

    def noticed(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and name in str(args[0]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(noticed)


if __name__ == "__main__":
    main(*sys.argv[1:])
