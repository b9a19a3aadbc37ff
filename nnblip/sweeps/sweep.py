"""sweep: `causal_trace` over a whole data set, into one store, stopped and resumed at will, by many processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from nnblip import results
from nnblip.datasets import open_dataset
from nnblip.edges import KnockOutLike
from nnblip.errors import STUMBLES, NnblipError, RemoteError, ResultError, SettingError, reason, whole
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.noise import NoiseLike
from nnblip.passes.settings import AUTO, IN_FLIGHT, Settings
from nnblip.roles import RoleFunction
from nnblip.sites import CellsLike
from nnblip.sweeps.agenda import Agenda
from nnblip.sweeps.prepare import only_writer, prepare, same_everywhere, seems_finished
from nnblip.sweeps.processes import Lock, Team, wait_for
from nnblip.sweeps.store import DONE, FAILED, PENDING, Store
from nnblip.tracing.labels import example_coords
from nnblip.tracing.requests import concurrently, one_by_one, several

#: Seconds between two looks at what other processes have done, and after how long without anything it is an error.
LISTEN, STANDSTILL = 5.0, 6 * 3600.0

GO_ON = "the same command goes on where it stopped"


@dataclass
class Report:
    """What a sweep did.

    Attributes:
        out: where the store is.
        tree: the finished tree, opened lazily.
        status: how many examples are done and failed in all.
        ran: how many examples this call traced, by all of its processes, failures included.
        passes: how many passes of the model that were.
        seconds: how long this call took, and how much of it passed from the first example to the last.
        errors: the failed examples, {id: error}.
        problems: rows that the data set's reader could not use, as it says them.
    """

    out: Path
    tree: xr.DataTree
    status: Counter[str]
    ran: int = 0
    passes: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)
    errors: dict[str, str] = field(default_factory=dict)
    problems: Sequence[Any] = ()


def sweep(
    model: BlipVQA,
    dataset: str | Iterable[ExampleLike] | Example,
    out: str | Path = "results.zarr",
    nu: float | Sequence[float] = Settings.nu,
    draws: int | str = Settings.draws,
    noise: NoiseLike = Settings.noise,
    *,
    seed: int = Settings.seed,
    kinds: Sequence[str] | None = None,
    components: Sequence[str] = Settings.components,
    cells: CellsLike | None = Settings.cells,
    direction: str = Settings.direction,
    freeze: Iterable[str] = Settings.freeze,
    noise_at: str = Settings.noise_at,
    regions: int | tuple[int, int] | None = Settings.regions,
    knock_out: KnockOutLike = Settings.knock_out,
    roles: RoleFunction | None = None,
    rival: str | int | None = Settings.rival,
    max_rows: int | None = Settings.max_rows,
    progress: bool | None = None,
    retry_failed: bool = False,
    remote: bool | None = None,
    in_flight: int = IN_FLIGHT,
    adopt: bool = False,
) -> xr.DataTree:
    """`causal_trace` over a data set, written into one zarr store example by example.

    Stopped at any moment by any means it goes on where it was when called again, loses at most
    the example that it was at (on a server, those in flight), and ends in the arrays that it would
    have had in one go; its numbers are `causal_trace`'s bit for bit. Under `accelerate launch` the
    processes share the examples.

    An example that cannot be traced (an unreadable image, too little memory) has `status` "failed", its
    `error` and NaN for numbers, and does not stop the rest; it is tried again with `retry_failed`.

    Args:
        model: a `BlipVQA`.
        dataset: a data set (see `nnblip.datasets`), what names one on the command line ("scenes",
            "palit:FILE.csv", ...), or whatever else `causal_trace` takes as examples; ids must differ.
            An example without one is called after its content, so its image is read once at the start.
        out: the store, a name that ends in .zarr. One that is there must be this sweep's own.
        nu: see `causal_trace`, as for all arguments up to `max_rows`; `draws` is a number. Of `cells`, the node
            `/cells` has all that occur; where answers are not given, sorted by the answer's length first.
        progress: a bar on the terminal; by default where there is one.
        retry_failed: trace again what failed in an earlier call.
        remote: run on an NDIF server, which has to be said again when it goes on; by default if the model was made so.
        in_flight: of a remote model, how many requests are sent before the first is answered. Each result
            is written when it arrives. Here examples are traced one after the other, whatever it is.
        adopt: go on in a store that another version of nnblip's code has begun, if two of its finished examples,
            traced again, give the same numbers bit for bit.

    Returns:
        The result tree (docs/results.md), opened lazily, with the coordinates `status`
        ("done", "failed") and `error` on `example` besides.

    Raises:
        NnblipError: for a bad setting, or if no example at all can be traced.
        RemoteError: for any fault of the server, after what has arrived is written.
        ResultError: if `out` is something else, is made with other settings, examples, model or code
            (the message shows the difference), is being written by another process, or cannot be written.
    """
    settings = Settings.of(
        nu=nu, draws=draws, noise=noise, seed=seed, kinds=kinds, components=components, cells=cells,
        direction=direction, freeze=freeze, noise_at=noise_at, regions=regions, knock_out=knock_out, roles=roles,
        rival=rival, max_rows=max_rows,
    )  # fmt: skip
    return run_sweep(as_model(model).at(remote), dataset, out, settings, progress, retry_failed, in_flight, adopt).tree


def run_sweep(
    model: BlipVQA,
    dataset: str | Iterable[ExampleLike] | Example,
    out: str | Path,
    settings: Settings,
    progress: bool | None = None,
    retry_failed: bool = False,
    in_flight: int = IN_FLIGHT,
    adopt: bool = False,
) -> Report:
    """`sweep` with settings at hand and a report of what was done. Raises as `sweep` does."""
    results.require_name(out)
    whole(in_flight, "in_flight", 1)
    began = time.perf_counter()
    if settings.draws == AUTO:
        raise SettingError(
            f"draws {AUTO!r}: the examples of a sweep have the same number of draws; trace a few with it, and take what"
            " they need"
        )
    if Path(out).suffix != ".zarr":
        raise ResultError(f"result {str(out)!r}: expected a name that ends in .zarr")
    if isinstance(dataset, str):
        dataset = open_dataset(dataset)
    examples = several(dataset)
    team, lock = Team(), None
    try:
        try:
            path = Path(os.path.realpath(out))  # by whichever links it is reached, it has one writer
            finished = team.share(team.rank == 0 and seems_finished(path))
            lock = None if finished else only_writer(path, team)
            agenda = Agenda.of(model, settings, examples, str(getattr(dataset, "name", "") or ""))
            same_everywhere(team, agenda.fingerprint)
            todo = prepare(team, path, agenda, retry_failed, adopt, locked=lock is not None)
            if todo is None:
                lock = only_writer(path, team)
                todo = prepare(team, path, agenda, retry_failed, adopt)
            if lock is None:
                report = _report(path)
            else:
                with _stoppable() as stopped:
                    report = _work(path, agenda, todo or [], team, lock, progress, stopped, in_flight)
        except OSError as error:
            raise ResultError(
                f"{str(out)!r} cannot be written: {reason(error)}; what is done is kept, and {GO_ON}"
            ) from error
    finally:
        if lock is not None:
            lock.release()
        team.close()
    report.out = Path(out)
    report.problems = list(getattr(dataset, "problems", ()))
    report.seconds = (time.perf_counter() - began, report.seconds[1])
    return report


# --- the work ----------------------------------------------------------------------------


def _work(
    path: Path,
    agenda: Agenda,
    todo: list[int],
    team: Team,
    lock: Lock,
    progress: bool | None,
    stopped: threading.Event,
    in_flight: int,
) -> Report:
    store, total = Store(path), len(agenda.examples)
    blocks = sorted({number // store.block for number in todo})
    dealt = set(blocks[team.rank :: team.size])  # whole blocks, so that no chunk has two writers
    mine = [number for number in todo if number // store.block in dealt]
    failed = 0
    hidden = True if team.rank else None if progress is None else not progress
    began = time.perf_counter()
    heard = moved = time.monotonic()
    finished = total - len(todo)
    with tqdm(total=total, initial=total - len(todo), unit="example", disable=hidden) as bar:

        def hear() -> bool:
            """What all have done, every few seconds; false if it is time to go."""
            nonlocal heard, moved, finished
            now = time.monotonic()
            if team.size > 1 and now - heard > LISTEN:
                heard, before = now, finished
                finished = total - Counter(store.status())[PENDING]
                moved = moved if finished == before else now
                bar.update(finished - bar.n)
            return not stopped.is_set() and now - moved < STANDSTILL

        try:
            for number, traced in _traced(agenda, mine, in_flight, stopped):
                failed += not _one(store, agenda, number, traced)
                bar.update(team.size == 1 or bar.n < total)
                if failed:
                    bar.set_postfix(failed=failed, refresh=False)
                hear()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_stopped(Counter(store.status()), total)) from None
        between = time.perf_counter() - began
        if team.rank:
            lock.release()
            wait_for(path, lambda rank: rank == 0, hear)
        else:
            wait_for(path, lambda rank: rank > 0, hear)
    states = store.status()
    status, now = Counter(states), Counter(states[number] for number in todo)  # of all processes of this launch
    if status[PENDING] and stopped.is_set():
        raise KeyboardInterrupt(_stopped(status, total))
    if status[PENDING]:
        raise ResultError(f"{_stopped(status, total)}: a process ended or stands still")
    if team.rank == 0:
        store.finish()
    report = _report(path)
    report.ran, report.seconds = now[DONE] + now[FAILED], (0.0, between)
    report.passes = now[DONE] * agenda.settings.most_draws * len(agenda.settings.nu)
    return report


def _report(path: Path) -> Report:
    """What a finished store holds."""
    tree = results.open_result(path)
    coords = [tree.coords[name].values.tolist() for name in ("example", "status", "error")]
    errors = {one: error for one, state, error in zip(*coords, strict=True) if state == FAILED}
    return Report(path, tree, Counter(coords[1]), errors=errors)


def _traced(
    agenda: Agenda, numbers: list[int], in_flight: int, stopped: threading.Event
) -> Iterator[tuple[int, Callable[[], xr.DataTree]]]:
    """Examples, each with what gives its tree or raises: in their order, or as a server's answers arrive."""

    def go_on() -> bool:
        return not stopped.is_set()

    if agenda.model.remote:
        return concurrently(numbers, agenda.request, in_flight, go_on)
    return one_by_one(numbers, lambda number: partial(agenda.trace, number), go_on)


def _one(store: Store, agenda: Agenda, number: int, traced: Callable[[], xr.DataTree]) -> bool:
    """Store an example, or why it cannot be traced."""
    try:
        row = store.row(traced())
    except RemoteError:  # the server is no fault of the example's
        raise
    except (NnblipError, *STUMBLES) as error:  # an unreadable image, too little memory, ...: the rest goes on
        what = str(error) if isinstance(error, NnblipError) else f"{type(error).__name__}: {error}"
        store.fail(number, " ".join(what.split())[:1000], example_coords(agenda.examples[number]))
        return False
    store.write(number, row)
    return True


def _stopped(status: Counter[str], total: int) -> str:
    return f"stopped with {status[DONE] + status[FAILED]} of {total} examples finished; {GO_ON}"


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """SIGTERM, with which launchers end the other processes when one dies, lets the examples at hand be finished."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)
