"""Is every number of a stored result there? For `nnblip check`, and for a sweep that goes on.

Knows zarr and NumPy, not torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from nnblip.errors import STUMBLES, ResultError
from nnblip.results import DIMS, VARIABLES, open_result
from nnblip.sweeps.store import DONE, FAILED, PENDING, dims_of, fingerprint_of


@dataclass(frozen=True)
class Damage:
    """Something that is stored and cannot be right.

    Attributes:
        array: its path, such as "question_encoder/probability".
        examples: which examples it touches; empty for what all share, such as the coordinate `layer`.
        reason: what is wrong.
        chunk: whether the stored chunk is no use, so that it has to be removed.
    """

    array: str
    examples: range | tuple[int, ...]
    reason: str
    chunk: bool

    def __str__(self) -> str:
        which = f"examples {self.examples[0]} to {self.examples[-1]}" if self.examples else "all examples"
        return f"/{self.array}, {which}: {self.reason}"


def damages(path: Path) -> Iterator[Damage]:
    """All that is wrong with a stored result, block by block: little of it is in memory at once.

    A chunk cannot be decoded, or a sweep's chunk is not there, or a number is NaN where an example
    that is done should have one.

    Raises:
        ResultError: if it cannot be opened at all.
    """
    try:
        root = zarr.open_group(path, mode="r")
        members = dict(root.members(max_depth=None))
    except STUMBLES as error:
        raise ResultError(f"result {str(path)!r} cannot be opened: {error}") from error
    arrays = {key: array for key, array in members.items() if isinstance(array, zarr.Array)}
    growing = {key: array for key, array in arrays.items() if dims_of(array)[:1] == ("example",)}
    for key in arrays.keys() - growing.keys():
        if reason := _unreadable(arrays[key], ...):
            yield Damage(key, (), reason, True)
    if not growing:
        raise ResultError(f"result {str(path)!r} has no examples")
    sweep, step = _is_sweep(path), min(array.chunks[0] for array in growing.values())
    for start in range(0, next(iter(growing.values())).shape[0], step):
        yield from _in_block(path, growing, start, step, sweep)


def _is_sweep(path: Path) -> bool:
    try:
        return bool(fingerprint_of(path))
    except ResultError:
        return False


def _in_block(path: Path, growing: dict[str, zarr.Array[Any]], start: int, step: int, sweep: bool) -> Iterator[Damage]:
    rows: dict[str, np.ndarray] = {}
    here = range(start, min(start + step, next(iter(growing.values())).shape[0]))
    status: np.ndarray | None = None
    for key in sorted(growing, key=lambda key: key != "status"):
        array = growing[key]
        reason = _unreadable(array, slice(start, start + step), rows, key)
        if (
            not reason
            and sweep
            and (key in ("status", "example") or (status is not None and (status != PENDING).any()))
        ):
            chunk = Path(
                path, key, array.metadata.encode_chunk_key((start // array.chunks[0], *[0] * (array.ndim - 1)))
            )
            reason = "" if chunk.exists() else "its chunk is not there"
        if reason:
            yield Damage(key, here, reason, True)
        elif key == "status":
            status = rows[key]
            if unknown := {*map(str, status)} - {PENDING, DONE, FAILED}:
                yield Damage(key, here, f"status {unknown.pop()!r} is unknown", True)
    done = np.ones(len(here), bool) if status is None else status == DONE
    for key, numbers in rows.items():
        node, name = key.rpartition("/")[::2]
        if name in VARIABLES and node != "check":
            lost = holes(node, numbers, rows.get(f"{node}/token_text"), rows.get("draws")) & done
            if lost.any():
                yield Damage(key, tuple(start + int(i) for i in np.flatnonzero(lost)), "numbers are missing", False)


def holes(node: str, numbers: np.ndarray, texts: np.ndarray | None, draws: np.ndarray | None = None) -> np.ndarray:
    """Which examples lack a number that they should have, (example).

    Args:
        node: name of the node.
        numbers: (example, ...) of one variable.
        texts: (example, token), "" for padding, if the node has tokens.
        draws: (example), how many each has; all of them if None.
    """
    if draws is not None and numbers.ndim > 2:
        there = np.arange(numbers.shape[2]) < np.asarray(draws)[:, None]
        numbers = np.where(there.reshape(len(numbers), 1, -1, *[1] * (numbers.ndim - 3)), numbers, 0)
    nan = np.isnan(numbers).reshape(len(numbers), -1)
    if node in DIMS:
        return nan.any(1)
    if texts is None:  # which cells an example has, its numbers alone tell
        return nan.all(1)
    nan = np.isnan(numbers).reshape(len(numbers), -1, numbers.shape[-1]).any(1)
    there = np.asarray(texts) != ""
    return (nan & there).any(1) | ~there.any(1)


def require_numbers(tree: xr.DataTree) -> None:
    """Raise `ResultError` if a tree in memory lacks a number that it should have."""
    for name, child in tree.children.items():
        node = child.to_dataset()
        texts = node["token_text"].values if "token_text" in node.coords else None
        for variable in VARIABLES:
            if variable in node and holes(name, node[variable].values, texts).any():
                raise ResultError(f"the model gives NaN ({variable} of /{name}): does its dtype overflow?")


def check_stored(path: Path, say: Callable[[str], Any]) -> bool:
    """Say what is wrong with a stored result, or that all is well. Reads all of it and changes nothing.

    Raises:
        ResultError: if there is none.
    """
    if not path.exists():
        raise ResultError(f"result {str(path)!r}: there is nothing there")
    found = False
    try:
        for damage in damages(path):
            say(f"{path}: damaged: {damage}")
            found = True
        if found:
            return False
        tree = open_result(path)
    except ResultError as error:
        say(str(error))
        return False
    counts = f"{tree.sizes['example']} examples"
    if "status" in tree.coords:
        status = np.asarray(tree.coords["status"].values)
        counts += ", " + ", ".join(f"{np.sum(status == state)} {state}" for state in (DONE, FAILED, PENDING))
    say(f"{path}: all is well ({counts})")
    return True


def _unreadable(array: zarr.Array[Any], part: Any, into: dict[str, np.ndarray] | None = None, key: str = "") -> str:
    """Why it cannot be read, "" if it can."""
    try:
        values = np.asarray(array[part])
    except STUMBLES as error:  # codecs raise whatever they stumble on
        return f"it cannot be decoded ({error})"
    if into is not None:
        into[key] = values
    return ""
