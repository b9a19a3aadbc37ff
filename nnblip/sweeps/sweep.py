"""sweep: `causal_trace` over a whole data set, into one store, stopped and resumed at will, by many processes."""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from nnblip.errors import STUMBLES, NnblipError, NnblipWarning, RemoteError, ResultError, SettingError, whole
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA
from nnblip.noise import NoiseLike
from nnblip.passes.settings import AUTO, IN_FLIGHT, Settings
from nnblip.roles import RoleFunction
from nnblip.sites import CellsLike
from nnblip.sweeps.adopt import OWN_CODE
from nnblip.sweeps.adopt import adopt as adopt_store
from nnblip.sweeps.agenda import Agenda
from nnblip.sweeps.processes import Lock, Team, held_by_others, wait_for
from nnblip.sweeps.store import DONE, FAILED, PENDING, Store, create, fingerprint_of
from nnblip.sweeps.verify import damages
from nnblip.tracing.labels import attributes, example_coords
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
        ran: how many examples this process traced, failures included.
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
    dataset: str | Iterable[ExampleLike],
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
    return run_sweep(model.at(remote), dataset, out, settings, progress, retry_failed, in_flight, adopt).tree


def run_sweep(
    model: BlipVQA,
    dataset: str | Iterable[ExampleLike],
    out: str | Path,
    settings: Settings,
    progress: bool | None = None,
    retry_failed: bool = False,
    in_flight: int = IN_FLIGHT,
    adopt: bool = False,
) -> Report:
    """`sweep` with settings at hand and a report of what was done. Raises as `sweep` does."""
    whole(in_flight, "in_flight", 1)
    if settings.draws == AUTO:
        raise SettingError(
            f"draws {AUTO!r}: the examples of a sweep have the same number of draws; trace a few with it, and take what"
            " they need"
        )
    began, path = time.perf_counter(), Path(out)
    if path.suffix != ".zarr":
        raise ResultError(f"result {str(path)!r}: expected a name that ends in .zarr")
    if isinstance(dataset, str):
        dataset = open_dataset(dataset)
    examples = [Example.of(example) for example in several(dataset)]
    team, lock = Team(), None
    try:
        try:
            lock = _only_writer(path, team)
            agenda = Agenda.of(model, settings, examples, str(getattr(dataset, "name", "") or ""))
            _same_everywhere(team, agenda.fingerprint)
            todo = _prepare(team, path, agenda, retry_failed, adopt)
            with _stoppable() as stopped:
                report = _work(path, agenda, todo, team, lock, progress, stopped, in_flight)
        except OSError as error:
            raise ResultError(f"{str(path)!r} cannot be written: {error}; what is done is kept, and {GO_ON}") from error
    finally:
        if lock is not None:
            lock.release()
        team.close()
    report.problems = list(getattr(dataset, "problems", ()))
    report.seconds = (time.perf_counter() - began, report.seconds[1])
    return report


# --- before the work ---------------------------------------------------------------------


def _only_writer(path: Path, team: Team) -> Lock:
    """The lock of this rank. All processes stop if one does not get its lock, or a leftover process still writes."""
    problem, lock = "", None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(path, team.rank)
    except (ResultError, OSError) as error:
        problem = str(error)
    problems = [one for one in team.gather(problem) if one]
    if not problems and team.rank == 0:
        left = held_by_others(path, lambda rank: rank >= team.size)
        problems = [
            f"{str(path)!r} is being written by {who}, left of an earlier run: stop it" for who in left.values()
        ]
    problems = team.share(problems)
    if problems or lock is None:
        if lock is not None:
            lock.release()
        raise ResultError(problems[0])
    return lock


def _same_everywhere(team: Team, fingerprint: dict[str, Any]) -> None:
    for rank, other in enumerate(team.gather(fingerprint)):
        if different := _differing(fingerprint, other):
            raise ResultError(
                f"process {rank} of this sweep runs something else than process {team.rank}: {_told(different)}"
            )


def _prepare(team: Team, path: Path, agenda: Agenda, retry_failed: bool, adopt: bool) -> list[int]:
    """Rank 0 makes the store, or checks the one that is there; all get the numbers of the examples to trace."""
    problem, todo = None, list[int]()
    if team.rank == 0:
        try:
            todo = _resume(path, agenda, retry_failed, adopt) if path.exists() else _begin(path, agenda)
        except (NnblipError, OSError) as error:
            problem = error
        except BaseException:
            team.share(("this sweep was stopped", []))
            raise
    said, todo = team.share((str(problem) if problem else "", todo))
    if problem:
        raise problem
    if said:
        raise ResultError(said)
    return todo


def _begin(path: Path, agenda: Agenda) -> list[int]:
    template, fixed = agenda.template()
    create(path, template, fixed, attributes(agenda.model, agenda.settings), json.dumps(agenda.fingerprint))
    return list(range(len(agenda.examples)))


def _resume(path: Path, agenda: Agenda, retry_failed: bool, adopt: bool) -> list[int]:
    stored = fingerprint_of(path)
    different = _differing(stored, json.loads(json.dumps(agenda.fingerprint)))
    if different and not (adopt and {*different} <= {*OWN_CODE}):
        remedy = (
            "The same command with --adopt (adopt=True) keeps its finished examples, if two of them traced again give"
            " the same numbers; or choose another --out"
            if {*different} <= {*OWN_CODE}
            else "Choose another --out, or go back to what it was made with"
        )
        raise ResultError(
            f"{str(path)!r} was made otherwise, so this sweep cannot go on in it: {_told(different)}. {remedy}"
        )
    for part in path.rglob("*.partial"):  # what a killed process was writing
        part.unlink(missing_ok=True)
    found = list(damages(path))
    if shared := [damage for damage in found if not damage.examples]:
        raise ResultError(f"{str(path)!r}: {shared[0]}; every example needs it, so move the store away and start anew")
    again = sorted({number for damage in found for number in damage.examples})
    if different:
        adopt_store(path, agenda, stored, again)
    store = Store(path)
    if found:
        named = "; ".join(map(str, found[:5])) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        warnings.warn(f"{path} is damaged, {len(again)} examples are done again: {named}", NnblipWarning, stacklevel=5)
        store.grow()
        lost = {(damage.array, damage.examples[0] // store.block) for damage in found if damage.chunk}
        store.reset(agenda.ids, again, sorted(lost))
    if retry_failed:
        store.grow()
        store.reset(agenda.ids, [i for i, state in enumerate(store.status()) if state == FAILED])
    todo = [i for i, state in enumerate(store.status()) if state == PENDING]
    if todo:
        store.grow()
    return todo


def _differing(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of two fingerprints differs: then, and now."""
    keys = [key for key in {**stored, **now} if stored.get(key) != now.get(key)]
    return {key: (stored.get(key), now.get(key)) for key in keys}


def _told(different: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {then!r} -> {now!r}" for key, (then, now) in different.items())


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
    ran = failed = 0
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
                ran += 1
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
    status = Counter(store.status())
    if status[PENDING] and stopped.is_set():
        raise KeyboardInterrupt(_stopped(status, total))
    if status[PENDING]:
        raise ResultError(f"{_stopped(status, total)}: a process ended or stands still")
    if team.rank == 0:
        store.finish()
    tree = results.open_result(path)
    coords = [tree.coords[name].values.tolist() for name in ("example", "status", "error")]
    errors = {one: error for one, state, error in zip(*coords, strict=True) if state == FAILED}
    passes = (ran - failed) * agenda.settings.most_draws * len(agenda.settings.nu)
    return Report(path, tree, status, ran, passes, (0.0, between), errors)


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
