"""Rebuilding what all examples of a store share: metadata from their other place, coordinates from the agenda."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnblip.errors import ResultError
from nnblip.storage import checksums, stored
from nnblip.storage.checksums import ALL, FOLDER
from nnblip.sweeps.agenda import Agenda
from nnblip.sweeps.files import Files
from nnblip.sweeps.store import skeleton
from nnblip.sweeps.verify import Damage
from nnblip.tracing.labels import attributes


def mend(path: Path, agenda: Agenda, shared: Iterable[Damage]) -> None:
    """Write the files that are damaged anew.

    Args:
        path: of the store.
        agenda: what it is of.
        shared: damages that are no single example's.

    Raises:
        ResultError: if a file cannot be rebuilt, with what to do.
        OSError: if one cannot be written.
    """
    files = {damage.file for damage in shared}
    if checksums.read(path) is None or any(file.startswith(f"{FOLDER}/") for file in files):
        checksums.seal(path)  # what is damaged besides is found by what it says
    found = stored.metadata(path)
    bare: dict[str, bytes] = {}
    new: dict[str, bytes] = {}
    for file in sorted(file for file in files if file != stored.BOTH and not file.startswith(f"{FOLDER}/")):
        if file in found.documents and file in found.wrong:
            new |= stored.as_files({file: found.documents[file]})
            continue
        bare = bare or _bare(path, agenda, found)
        if file not in bare:
            raise ResultError(
                f"{str(path / file)!r} is not of this sweep: move it out of the store, and the same command goes on"
            )
        new[file] = bare[file]
    found.documents |= {file: json.loads(data) for file, data in new.items() if stored.is_metadata(file)}
    new |= stored.as_files({stored.BOTH: stored.together(found.documents)})
    for file in new:
        try:
            Path(path, file).parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise ResultError(
                f"{str(error.filename)!r} is a file where nnblip has a folder: move it away, and the same command"
                " goes on"
            ) from error
    Files(path).write(ALL, new)


def _bare(path: Path, agenda: Agenda, found: stored.Metadata) -> dict[str, bytes]:
    """The files of an empty store of this sweep, if it is laid out as the damaged one."""
    template, fixed = agenda.template()
    files = skeleton(template, fixed, attributes(agenda.model, agenda.settings), json.dumps(agenda.fingerprint))
    for file, document in found.documents.items():
        if file.endswith(".zarray") and _form(document) != _form(json.loads(files.get(file, b"{}"))):
            raise ResultError(
                f"{str(path)!r} is damaged, and this version of nnblip lays /{file.removesuffix('/.zarray')} out"
                " otherwise: mend it with the version that made it, or move it away and start anew"
            )
    return files


def _form(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "shape"}
