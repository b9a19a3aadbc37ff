"""What a stored result says of itself: its metadata, which stand in two places, and its codecs, before any is used.

In zarr's format 2 each group and array has files of its own (`nu/.zarray`, `nu/.zattrs`), and `.zmetadata` has all of
them once more. Read as plain JSON here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnblip.errors import ResultError
from nnblip.storage import checksums

#: All metadata in one file.
BOTH = ".zmetadata"
#: What nnblip writes with, and what a copy has that xarray has made in format 3. Others may run code (pickle does).
CODECS = ("blosc", "bytes", "vlen-utf8", "zstd")


@dataclass
class Metadata:
    """What is known of a result's groups and arrays.

    Attributes:
        documents: by file, such as "nu/.zarray", what it says, or should say if another place still tells.
        wrong: by file, why it cannot be right.
    """

    documents: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def arrays(self) -> list[str]:
        """The paths of all arrays."""
        return sorted(path.removesuffix("/.zarray") for path in self.documents if path.endswith("/.zarray"))

    def dims(self, array: str) -> tuple[str, ...]:
        """An array's dimensions, as xarray notes them."""
        return tuple(self.documents.get(f"{array}/.zattrs", {}).get("_ARRAY_DIMENSIONS", ()))

    def growing(self, array: str) -> bool:
        """Whether there is such an array, and it is over examples."""
        return f"{array}/.zarray" in self.documents and self.dims(array)[:1] == ("example",)


def is_metadata(path: str) -> bool:
    """Whether a file inside a result has metadata."""
    name = path.rpartition("/")[2]
    return name.startswith(".z") or name == "zarr.json"


def metadata(root: Path) -> Metadata:
    """All metadata of a result in format 2, each from a place where it is as it was written, if there is one."""
    lists = checksums.read(root)
    found = Metadata(wrong=dict(checksums.verify(root, is_metadata)))
    both, reason = ({}, "") if BOTH in found.wrong else _both(root)
    if reason and (lists or Path(root, BOTH).exists()):
        found.wrong[BOTH] = reason
    files = {*both, *filter(is_metadata, lists.sums if lists else ())} or {
        path.relative_to(root).as_posix() for path in root.rglob(".z*")
    }
    for path in sorted(files - {BOTH}):
        if path not in found.wrong:
            document = _json(root / path)
            if document is None:
                found.wrong[path] = "it is no JSON" if Path(root, path).exists() else "it is not there"
            else:
                found.documents[path] = document
                if not lists and path in both and _shapeless(document) != _shapeless(both[path]):
                    found.wrong[path] = f"it says something else than {BOTH}"
        if path in both:
            found.documents.setdefault(path, both[path])
    return found


def together(documents: Mapping[str, Any]) -> dict[str, Any]:
    """What `.zmetadata` says of them."""
    return {"metadata": dict(documents), "zarr_consolidated_format": 1}


def as_files(documents: Mapping[str, Any]) -> dict[str, bytes]:
    """Documents as they are stored."""
    return {path: json.dumps(document, indent=2).encode() for path, document in documents.items()}


def consolidated(root: Path) -> bool:
    """Whether `.zmetadata` is what xarray reads."""
    return Path(root, BOTH).exists() and not Path(root, "zarr.json").exists()


def require_codecs(root: Path) -> None:
    """Let nothing be decoded with what nnblip does not write with.

    Raises:
        ResultError: naming the array and the codec.
    """
    if consolidated(root):
        files = {root / BOTH, *(root / path for path in _both(root)[0] if path.endswith(".zarray"))}
    else:
        files = {path for name in (".zarray", BOTH, "zarr.json") for path in root.rglob(name)}
    for path in sorted(files):
        for name in _codecs(_json(path)):
            if name not in CODECS:
                raise ResultError(
                    f"{str(path)!r} names the codec {name!r}, which nnblip does not write with and which may"
                    f" run code: expected {', '.join(CODECS)}. Move it away and trace again, or ask whoever made it"
                )


def require_shared(root: Path) -> None:
    """Let no number be read under a label that is not as it was written. Costs no reading of numbers.

    Raises:
        ResultError: naming the file of the metadata or the coordinate.
    """
    said = metadata(root)
    for path, reason in checksums.verify(
        root, lambda path: is_metadata(path) or not said.growing(path.rpartition("/")[0])
    ):
        raise ResultError(f"/{path}: {reason}; `nnblip check` names all that is damaged")


def _codecs(document: Any) -> Iterator[str]:
    """All codecs that metadata name, at any depth, in the words of both formats."""
    if isinstance(document, list):
        for one in document:
            yield from _codecs(one)
    elif isinstance(document, dict):
        for key, value in document.items():
            if key == "attributes" or key.endswith(".zattrs"):
                continue
            if key in ("compressor", "filters", "codecs"):
                for codec in value if isinstance(value, list) else [value]:
                    if codec is not None:
                        said = codec if isinstance(codec, dict) else {}
                        yield str(said.get("id", said.get("name", codec)))
            yield from _codecs(value)


def _both(root: Path) -> tuple[dict[str, Any], str]:
    """What `.zmetadata` says, and what is wrong with it."""
    said = _json(root / BOTH)
    if isinstance(said, dict) and isinstance(said.get("metadata"), dict):
        documents = said["metadata"]
        for path, one in documents.items():
            if path.endswith(".zgroup") and isinstance(one, dict):
                one.pop("consolidated_metadata", None)  # of zarr's own, in here only
        return documents, ""
    return {}, "it is no JSON of metadata" if Path(root, BOTH).exists() else "it is not there"


def _json(path: Path) -> Any:
    """A JSON document, None if there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _shapeless(document: Any) -> Any:
    """Room that is cut off or given back stands in an array's own file first."""
    return {**document, "shape": None} if isinstance(document, dict) and "shape" in document else document
