"""Before the first example: one writer, the same sweep in all processes, and a store that is whole."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnblip.errors import STUMBLES, NnblipError, NnblipWarning, ResultError, reason
from nnblip.storage import checksums
from nnblip.sweeps.adopt import OWN_CODE
from nnblip.sweeps.adopt import adopt as adopt_store
from nnblip.sweeps.agenda import Agenda
from nnblip.sweeps.mend import mend
from nnblip.sweeps.processes import Lock, Team, held_by_others
from nnblip.sweeps.store import FAILED, PENDING, Store, create, fingerprint_of
from nnblip.sweeps.verify import Damage, damages
from nnblip.tracing.labels import attributes


def seems_finished(path: Path) -> bool:
    """At a first look, whether a finished store is there: to say what it holds, nothing has to be written."""
    try:
        lists = checksums.read(path)
        if lists and not lists.settled:
            return False
        store = Store(path)
        return PENDING not in store.status() and (lists is not None or store.is_cut())
    except (NnblipError, *STUMBLES):
        return False


def only_writer(path: Path, team: Team) -> Lock:
    """The lock of this rank. All processes stop if one does not get its lock, or a leftover process still writes."""
    problem, lock = "", None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(path, team.rank)
    except ResultError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{str(path)!r} cannot be written: {reason(error)}: choose another --out"
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


def same_everywhere(team: Team, fingerprint: dict[str, Any]) -> None:
    """Raise `ResultError` if another process of this launch runs something else."""
    for rank, other in enumerate(team.gather(fingerprint)):
        if different := _differing(fingerprint, other):
            raise ResultError(
                f"process {rank} of this sweep runs something else than process {team.rank}: {_told(different)}"
            )


def prepare(
    team: Team, path: Path, agenda: Agenda, retry_failed: bool, adopt: bool, locked: bool = True
) -> list[int] | None:
    """Rank 0 makes the store, or checks the one that is there, and mends it.

    Returns:
        The numbers of the examples to trace, the same for all; None if something has to be written, and is not, as
        this process does not have the right to (not `locked`).

    Raises:
        NnblipError: for a store that is of something else, or cannot be mended, or if no example can be traced.
        OSError: if it cannot be written.
    """
    problem: Exception | None = None
    todo: list[int] | None = []
    if team.rank == 0:
        try:
            todo = _resume(path, agenda, retry_failed, adopt, locked) if path.exists() else _begin(path, agenda)
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


def _resume(path: Path, agenda: Agenda, retry_failed: bool, adopt: bool, locked: bool) -> list[int] | None:
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
    found = list(damages(path))
    if not locked:
        return None if found or different or (retry_failed and FAILED in Store(path).status()) else []
    for part in path.rglob("*.partial"):  # what a killed process was writing
        part.unlink(missing_ok=True)
    mended = found
    if shared := [damage for damage in found if not damage.examples]:
        mend(path, agenda, shared)
        found = list(damages(path))
        mended = shared + found
    if left := [damage for damage in found if not damage.examples]:
        raise ResultError(f"{str(path)!r}: {left[0]}; it cannot be rebuilt, so move the store away and start anew")
    if checksums.read(path) is None:
        checksums.seal(path)  # it was begun before there were lists
    again = sorted({number for damage in found for number in damage.examples})
    if different:
        adopt_store(path, agenda, stored, again)
    store = Store(path)
    if mended:
        _warn(path, mended, len(again))
        store.grow()
        store.reset(
            agenda.ids, again, {(damage.place, damage.examples[0] // store.block) for damage in found if damage.file}
        )
    if retry_failed:
        store.grow()
        store.reset(agenda.ids, [i for i, state in enumerate(store.status()) if state == FAILED])
    todo = [i for i, state in enumerate(store.status()) if state == PENDING]
    if todo:
        store.grow()
    return todo


def _warn(path: Path, mended: list[Damage], again: int) -> None:
    named = "; ".join(map(str, mended[:5])) + (f"; and {len(mended) - 5} more" if len(mended) > 5 else "")
    warnings.warn(f"{path} is damaged, {again} examples are done again: {named}", NnblipWarning, stacklevel=6)


def _differing(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of two fingerprints differs: then, and now."""
    keys = [key for key in {**stored, **now} if stored.get(key) != now.get(key)]
    return {key: (stored.get(key), now.get(key)) for key in keys}


def _told(different: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {then!r} -> {now!r}" for key, (then, now) in different.items())
