"""The files of a store that is being written: each listed before it is written, and only where the store still is."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from pathlib import Path

from nnblip.errors import ResultError
from nnblip.storage import checksums
from nnblip.storage.checksums import ABSENT, ALL, FOLDER, Sums

#: No checksum of anything: the file is not there yet.
NEW = frozenset({ABSENT})


class Files:
    """Writes whole files into a store, as its lists of checksums say.

    A list says first what a file will hold beside what it holds, then the file is replaced, then the list says that
    alone. A process that is killed in between leaves each file as its list allows.
    """

    def __init__(self, root: Path) -> None:
        """Raises `OSError` if there is no such folder."""
        self.root = root
        self._folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # held, so that no other gets its number
        weakref.finalize(self, os.close, self._folder)
        self._lists: dict[str, Sums] = {}

    def require_place(self) -> None:
        """Raise `ResultError` if the store is not at its path any more."""
        try:
            here = self.root.stat()
        except OSError:
            here = None
        if here is None or not os.path.samestat(here, os.fstat(self._folder)):
            raise ResultError(
                f"{str(self.root)!r} was removed or moved while this sweep wrote to it, so nothing more is written: put"
                " it back, and the same command goes on where it stopped; without it, it begins anew"
            )

    def write(self, name: str, new: Mapping[str, bytes]) -> None:
        """Write files, one after the other, into folders that are there.

        Args:
            name: of their list: a block of examples, or `ALL`.
            new: what they are to hold, by path inside the store.

        Raises:
            OSError: if that cannot be done.
            ResultError: if the store is gone, or a list of it is damaged.
        """
        self.require_place()
        known, before = self._list(name), self._list(ALL)
        now = {path: frozenset({hashlib.sha256(data).hexdigest()}) for path, data in new.items()}
        meanwhile = {path: known.get(path, before.get(path, NEW)) | sums for path, sums in now.items()}
        try:
            checksums.write(self.root, name, {**known, **meanwhile})
            for path, data in new.items():
                checksums.write_whole(self.root / path, data)
            self._lists[name] = {**known, **now}
            checksums.write(self.root, name, self._lists[name])  # what was there before is right no more
        except BaseException as error:  # what is known may be ahead of what is stored
            self._lists.pop(name, None)
            if isinstance(error, FileNotFoundError):
                self.require_place()
            raise

    def settle(self) -> None:
        """Read every file, and leave one list of what they hold.

        Raises:
            OSError: if that cannot be done.
            ResultError: if a file is not as it was written.
        """
        self.require_place()
        lists = checksums.read(self.root)
        found = dict[str, frozenset[str]]()
        for path, allowed in (lists.sums if lists else {}).items():
            held = checksums.held(self.root / path)
            if held not in allowed:
                raise ResultError(f"{str(self.root / path)!r} is not what was written: the same command mends it")
            if held != ABSENT:
                found[path] = frozenset({held})
        checksums.write(self.root, ALL, found)
        self._lists = {ALL: found}
        for name in (lists.names if lists else frozenset()) - {ALL}:
            (self.root / FOLDER / name).unlink()

    def _list(self, name: str) -> Sums:
        """A list as it is, without files if it is not there."""
        if name not in self._lists:
            if name != ALL:  # one block at a time is written, and kept in mind
                self._lists = {ALL: self._list(ALL)}
            file = self.root / FOLDER / name
            if (sums := checksums.read_list(file) if file.exists() else {}) is None:
                raise ResultError(f"{str(file)!r} is damaged: the same command mends it")
            self._lists[name] = sums
        return self._lists[name]
