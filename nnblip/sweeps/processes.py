"""Several processes at work on one thing: who am I, what do the others say, and one writer for each rank.

Under `accelerate launch` or `torchrun` each process is one of several; started plainly it
is alone, and nothing of torch.distributed is loaded.
"""

from __future__ import annotations

import glob
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnblip.errors import ResultError, reason

#: How long processes wait for one another at the start. One that ends is noticed at once.
PATIENCE = timedelta(hours=1)


def launched() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process, 0 if it is alone."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def device(asked: str) -> str:
    """The device of this process, where "auto" is asked and there are several: one GPU each, or the CPU."""
    if asked != "auto" or not launched():
        return asked
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


class Team:
    """The processes that were launched together.

    Attributes:
        rank: number of this one, from 0.
        size: how many they are.
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self._state: Any = None
        if launched():
            import torch
            from accelerate import PartialState

            # a few texts are all that is said: gloo can do that everywhere, and notices at once if one ends
            state: Any = PartialState(cpu=not torch.cuda.is_available(), backend="gloo", timeout=PATIENCE)
            self._state, self.rank, self.size = state, int(state.process_index), int(state.num_processes)

    def gather(self, value: object) -> list[Any]:
        """What each process gives, by rank.

        Raises:
            ResultError: if one of them has ended.
        """
        if self._state is None:
            return [value]
        from accelerate.utils import gather_object

        with _together():
            return list(gather_object([value]))

    def share(self, value: object) -> Any:
        """What rank 0 gives. Raises `ResultError` if it has ended."""
        if self._state is None:
            return value
        from accelerate.utils import broadcast_object_list

        with _together():
            return broadcast_object_list([value])[0]

    def close(self) -> None:
        """Leave; nothing can be shared any more."""
        if self._state is not None:
            with suppress(RuntimeError, OSError):  # the others may have ended
                self._state.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ResultError(
            f"the other processes of this sweep cannot be reached, one may have ended ({error});"
            " the same command goes on where it stopped"
        ) from error


class Lock:
    """The right of one rank to write to a path, held until released or until this process ends, however it ends.

    The file `.NAME.lock-RANK` beside the path stays: deleting a lock file would let two in.
    """

    def __init__(self, path: Path, rank: int) -> None:
        """Take the lock.

        Raises:
            ResultError: if another process has it; says which. Or if no file can be locked there.
        """
        file = _lock_file(path, rank)
        self._lock = FileLock(file, fallback_to_soft=False)  # its substitute outlasts a process that is killed
        try:
            self._lock.acquire(timeout=0)
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout as error:
            raise ResultError(
                f"{str(path)!r} is being written by {_owner(file)}: wait until it is finished, or stop it"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise ResultError(
                f"{str(path)!r} cannot be written, as its lock {str(file)!r} cannot be taken ({reason(error)}): choose"
                " another --out, on a disk that can be written and has locks. (To read a result needs neither.)"
            ) from error

    def release(self) -> None:
        self._lock.release()


def held_by_others(path: Path, ranks: Callable[[int], bool]) -> dict[int, str]:
    """Who holds the locks of these ranks: {rank: "process 123 on host"}. Leftovers of an earlier launch count too."""
    found = {}
    for file in path.parent.glob(f".{glob.escape(path.name)}.lock-*"):
        match = re.fullmatch(r"\d+", file.name.rpartition("-")[2])
        if match and ranks(int(match[0])):
            lock = FileLock(file, fallback_to_soft=False)
            try:
                lock.acquire(timeout=0)
                lock.release()
            except Timeout:
                found[int(match[0])] = _owner(file)
            except OSError:  # a link or a folder: no process of nnblip's
                continue
    return found


def wait_for(path: Path, ranks: Callable[[int], bool], tick: Callable[[], bool]) -> None:
    """Wait until nobody holds the locks of these ranks any more, or `tick`, called meanwhile, is false."""
    while held_by_others(path, ranks) and tick():
        time.sleep(0.2)


def _lock_file(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.lock-{rank}")


def _owner(file: Path) -> str:
    try:
        return file.read_text().strip() or "another process"
    except OSError:
        return "another process"
