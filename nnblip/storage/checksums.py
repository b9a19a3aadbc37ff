"""What every file of a stored result should hold: lists of checksums that `sha256sum --check` reads too.

The folder `.checksums` of a result has the list `all`; while a sweep writes, each block of examples has a list of its
own, which goes before it. The first line of a list has its name, the last one the checksum of those above. What is
about to be written is listed first, beside what is there, so that whenever a process is killed each file is as its
list says. Knows files, not zarr.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnblip.errors import ResultError

FOLDER, ALL = ".checksums", "all"
#: In place of a checksum: the file may not be there yet.
ABSENT = "0" * 64
LAST = "# sha256 of the lines above: "

#: By path inside the store, the checksums that a file may have: one, or while it is being written two.
Sums = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Lists:
    """All lists of a result.

    Attributes:
        sums: what they say together.
        names: of all lists.
        damaged: names of those that are not as they were written.
    """

    sums: Sums
    names: frozenset[str]
    damaged: frozenset[str]

    @property
    def settled(self) -> bool:
        """Whether there is one list, and one checksum for each file: nothing is being written."""
        return self.names == {ALL} and not self.damaged and all(len(sums) == 1 for sums in self.sums.values())


def read(root: Path) -> Lists | None:
    """The lists of a result; None if it was written before there were any."""
    folder = root / FOLDER
    if not folder.exists():
        return None
    # blocks after `all`, as they go before it
    names = [ALL, *(name for name in _entries(folder) if name.isdecimal())]
    found = {name: read_list(folder / name) for name in names}
    for name in names[1:]:
        if found[name] is None and not (folder / name).exists():
            del found[name]  # a sweep has finished meanwhile
    sums: dict[str, frozenset[str]] = {}
    for one in found.values():
        sums |= one or {}
    return Lists(sums, frozenset(found), frozenset(name for name, one in found.items() if one is None))


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def read_list(file: Path) -> Sums | None:
    """One list, None if it is damaged or not there."""
    try:
        text, mark, last = file.read_bytes().rpartition(LAST.encode())
    except OSError:
        return None
    if not mark or last.decode("ascii", "replace") != f"{hashlib.sha256(text).hexdigest()}\n":
        return None
    first, *lines = text.decode("utf8", "surrogateescape").split("\n")[:-1]
    if first != _first(file.name):
        return None  # another list in its place
    sums: dict[str, frozenset[str]] = {}
    for line in lines:
        one, _, path = line.removeprefix("\\").partition("  ")
        if line.startswith("\\"):
            path = re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], path)
        sums[path] = sums.get(path, frozenset()) | {one}
    return sums


def _first(name: str) -> str:
    return f"# list {name} of checksums"


def _line(path: str, one: str) -> str:
    """As sha256sum writes it: a name with a backslash or the end of a line in it is marked."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n")
    return f"{'' if escaped == path else chr(92)}{one}  {escaped}\n"


def write(root: Path, name: str, sums: Sums) -> None:
    """Write one list, whole or not at all. Raises `OSError`."""
    lines = [_line(path, one) for path in sorted(sums) for one in sorted(sums[path])]
    text = "".join([f"{_first(name)}\n", *lines]).encode("utf8", "surrogateescape")
    write_whole(root / FOLDER / name, text + f"{LAST}{hashlib.sha256(text).hexdigest()}\n".encode())


def seal(root: Path) -> None:
    """One list of everything, as it is now, in place of all that there may be.

    Raises:
        OSError: if it cannot be written.
        ResultError: if a variable of the result has the folder's name.
    """
    folder = root / FOLDER
    if Path(folder, ".zarray").exists():
        raise ResultError(f"a result can have no variable {FOLDER!r}: choose another name for it")
    folder.mkdir(exist_ok=True)
    write(root, ALL, {path: frozenset({held(root / path)}) for path in _ours(root)})
    for file in folder.iterdir():
        if file.name != ALL:
            _remove(file)


def verify(root: Path, wanted: Callable[[str], bool] | None = None) -> Iterator[tuple[str, str]]:
    """What is not as it was written: paths inside the store, and what is wrong with each.

    A sweep may write meanwhile.

    Args:
        root: the result. One without lists has nothing to be held against.
        wanted: which of the listed paths matter; by default all, and files that are in no list.
    """
    lists = read(root)
    if lists is None:
        return
    for name in sorted(lists.damaged):
        yield f"{FOLDER}/{name}", "the list of checksums is itself damaged"
    strays = set() if wanted or lists.damaged else set(_ours(root))  # a list that is damaged may have had them
    for path in sorted(strays | set(filter(wanted, lists.sums))):
        while reason := wrong(root, path, lists.sums):
            again = read(root)
            if again is None or again == lists:
                yield path, reason
                break
            lists = again  # something was written between the two looks


def wrong(root: Path, path: str, sums: Sums) -> str:
    """What is wrong with one file, "" if nothing is."""
    try:
        now = held(root / path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if path not in sums:
        return "" if now == ABSENT else "it is in no list of checksums: nnblip has not written it"
    if now in sums[path]:
        return ""
    return "it is not there" if now == ABSENT else "it is not what was written (another checksum)"


def held(path: Path) -> str:
    """The checksum of a file, `ABSENT` if there is none. Raises `OSError`."""
    if not path.exists():
        return ABSENT
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, into a folder that is there.

    Raises:
        OSError: if that cannot be done.
        ResultError: if a folder with something in it is in the way.
    """
    part = path.with_name(f"{path.name}.partial")
    part.unlink(missing_ok=True)
    try:
        with part.open("xb") as file:  # a link that someone has put there is not followed
            file.write(data)
        if path.is_dir() and not path.is_symlink():
            _remove(path)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _remove(path: Path) -> None:
    """Remove a file, or an empty folder in its place. Raises `ResultError` if there is something in it."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    try:
        path.rmdir()
    except OSError as error:
        raise ResultError(
            f"{str(path)!r} is a folder where nnblip writes a file, and not empty: move it away, and the same command"
            " goes on"
        ) from error


def _ours(root: Path) -> list[str]:
    """The files of a result that zarr may read: metadata and chunks."""
    found = []
    for folder, folders, files in os.walk(root):
        if Path(folder) == root and FOLDER in folders:
            folders.remove(FOLDER)
        found += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if (name.startswith(".z") or name == "zarr.json" or name[0].isdecimal()) and not name.endswith(".partial")
        ]
    return found
