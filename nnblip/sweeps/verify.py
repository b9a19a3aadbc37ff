"""Is every number of a stored result there? For `nnblip check`, and for a sweep that goes on.

Knows zarr and NumPy, not torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from nnblip.errors import STUMBLES, ResultError
from nnblip.results import DIMS, VARIABLES, open_result
from nnblip.storage import checksums, stored
from nnblip.sweeps.store import DONE, FAILED, PENDING, chunk_of, dims_of, fingerprint_of


@dataclass(frozen=True)
class Damage:
    """Something that is stored and cannot be right.

    Attributes:
        place: path of the array, such as "question_encoder/probability", or of a file that no example has.
        examples: which examples it touches; empty for what all share, such as the coordinate `layer`.
        reason: what is wrong.
        file: the file that is no use as it is, by path inside the store, if it is one.
    """

    place: str
    examples: range | tuple[int, ...]
    reason: str
    file: str = ""

    def __str__(self) -> str:
        which = f"examples {self.examples[0]} to {self.examples[-1]}" if self.examples else "all examples"
        return f"/{self.place}, {which}: {self.reason}"


def damages(path: Path) -> Iterator[Damage]:
    """All that is wrong with a stored result, block by block: little of it is in memory at once.

    A file is not as it was written, or metadata differ in their two places, a chunk cannot be decoded, a sweep's chunk
    is not there, coordinates are not unique, or a number is NaN where an example that is done should have one.

    Raises:
        ResultError: if it cannot be opened at all, or names a codec that nnblip does not write with.
    """
    stored.require_codecs(path)
    metadata = stored.metadata(path)
    wrong = dict(checksums.verify(path))
    yield from (_of_file(path, metadata, file, reason) for file, reason in {**metadata.wrong, **wrong}.items())
    options: dict[str, Any] = dict(zarr_format=2, use_consolidated=stored.BOTH not in metadata.wrong)
    try:
        root = zarr.open_group(path, mode="r", **options if metadata.documents else {})
        # by name and not by looking: an array whose metadata are lost is not left out
        members = {key: root[key] for key in metadata.arrays()} or dict(root.members(max_depth=None))
    except STUMBLES as error:
        if metadata.wrong:
            return  # no wonder
        raise ResultError(f"result {str(path)!r} cannot be opened: {error}") from error
    arrays = {key: array for key, array in members.items() if isinstance(array, zarr.Array)}
    growing = {key: array for key, array in arrays.items() if dims_of(array)[:1] == ("example",)}
    lists = checksums.read(path)
    for key in sorted(arrays.keys() - growing.keys()) if lists is None or lists.damaged else ():
        if chunk_of(arrays[key], 0) not in wrong and (reason := _no_coordinate(arrays[key])):
            yield Damage(key, (), reason, chunk_of(arrays[key], 0))
    if not growing:
        raise ResultError(f"result {str(path)!r} has no examples")
    sweep, step = _is_sweep(path), min(array.chunks[0] for array in growing.values())
    for start in range(0, next(iter(growing.values())).shape[0], step):
        yield from _in_block(path, growing, start, step, sweep, wrong)


def _of_file(path: Path, metadata: stored.Metadata, file: str, reason: str) -> Damage:
    """Whom a file concerns: a chunk, the examples of its block; all else, all."""
    array, _, name = file.rpartition("/")
    block = name.partition(".")[0]
    if stored.is_metadata(file) or not metadata.growing(array) or not block.isdecimal():
        shared = array if array and not stored.is_metadata(file) and array != checksums.FOLDER else file
        return Damage(shared, (), reason, file)
    says = metadata.documents[f"{array}/.zarray"]
    first = int(block) * says["chunks"][0]
    return Damage(array, range(first, min(first + says["chunks"][0], says["shape"][0])), f"{reason} ({name})", file)


def _no_coordinate(array: zarr.Array[Any]) -> str:
    """Why an array that all examples share cannot be right, "" if it can."""
    values: dict[str, np.ndarray] = {}
    if reason := _unreadable(array, ..., values):
        return reason
    one = values[""]
    if dims_of(array) != (array.path.rpartition("/")[2],):
        return ""
    missing = np.isnan(one) if one.dtype.kind == "f" else one == "" if one.dtype.kind in "TUO" else np.zeros(1, bool)
    return "values are missing" if missing.any() or len({*one.tolist()}) < len(one) else ""


def _is_sweep(path: Path) -> bool:
    try:
        return bool(fingerprint_of(path))
    except ResultError:
        return False


def _in_block(
    path: Path, growing: dict[str, zarr.Array[Any]], start: int, step: int, sweep: bool, wrong: Collection[str]
) -> Iterator[Damage]:
    """What is wrong with a block of examples besides the files that are `wrong`."""
    rows: dict[str, np.ndarray] = {}
    here = range(start, min(start + step, next(iter(growing.values())).shape[0]))
    status: np.ndarray | None = None
    for key in sorted(growing, key=lambda key: key != "status"):
        array = growing[key]
        chunk = chunk_of(array, start // array.chunks[0])
        if chunk in wrong:
            continue
        reason = _unreadable(array, slice(start, start + step), rows, key)
        touched = key in ("status", "example") or (status is not None and (status != PENDING).any())
        if not reason and sweep and touched and not Path(path, chunk).exists():
            reason = "its chunk is not there"
        if reason:
            yield Damage(key, here, reason, chunk)
        elif key == "status":
            status = rows[key]
            if unknown := {*map(str, status)} - {PENDING, DONE, FAILED}:
                yield Damage(key, here, f"status {unknown.pop()!r} is unknown", chunk)
    if status is None and "status" in growing:
        return  # none of them is known to be done
    done = np.ones(len(here), bool) if status is None else status == DONE
    for key, numbers in rows.items():
        node, name = key.rpartition("/")[::2]
        texts = f"{node}/token_text"
        if name in VARIABLES and node != "check" and (texts in rows or texts not in growing):
            lost = holes(node, numbers, rows.get(texts), rows.get("draws")) & done
            if lost.any():
                yield Damage(key, tuple(start + int(i) for i in np.flatnonzero(lost)), "numbers are missing")


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
        draws = tree.coords["draws"].values if "draws" in tree.coords else None
        for variable in VARIABLES:
            if variable in node and holes(name, node[variable].values, texts, draws).any():
                raise ResultError(f"the model gives NaN ({variable} of /{name}): does its dtype overflow?")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than names can be
        return False


def check_stored(path: Path, say: Callable[[str], Any]) -> bool:
    """Say what is wrong with a stored result, or that all is well. Reads all of it and changes nothing.

    Raises:
        ResultError: if there is none.
    """
    if not _is_there(path):
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
