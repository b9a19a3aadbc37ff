"""The growing zarr store of a sweep: one result tree, written example by example.

Arrays over examples are chunked in blocks of examples, all other dimensions whole. After
each example the chunks of its block are written anew (see `nnblip.sweeps.files`), its `status`
last: a process that is killed in between loses that example and nothing else. Knows zarr and
xarray, not torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numcodecs
import numpy as np
import xarray as xr
import zarr
from numcodecs import Zstd

from nnblip.errors import STUMBLES, ResultError
from nnblip.results import DAMAGE, RELIABILITY
from nnblip.sites import LISTS
from nnblip.storage import checksums, stored
from nnblip.storage.checksums import ALL
from nnblip.sweeps.files import Files

PENDING, DONE, FAILED = "pending", "done", "failed"
#: Version of the layout; a store of another one is not written to.
LAYOUT = 1
#: About so many bytes make a chunk, and at most so many examples.
CHUNK_BYTES, MOST_EXAMPLES = 2**20, 64
#: At least so many chunks, where there are so many examples: that many processes find work.
LEAST_CHUNKS = 64

Fixed = Mapping[str, np.ndarray]


def block_size(examples: int, example_bytes: int) -> int:
    """How many examples share a chunk. Does not depend on the number of processes, so that neither does the store."""
    fits = CHUNK_BYTES // max(example_bytes, 1)
    return int(max(1, min(fits, MOST_EXAMPLES, examples // LEAST_CHUNKS)))


def create(path: Path, template: xr.DataTree, fixed: Fixed, attrs: Mapping[str, Any], fingerprint: str) -> None:
    """An empty store, complete at once or not at all.

    Args:
        path: where; nothing may be there.
        template, fixed, attrs, fingerprint: see `skeleton`.

    Raises:
        OSError: if it cannot be written.
        ResultError: if a link lies where it is made.
    """
    fresh = path.with_name(f".{path.name}.new")
    if fresh.is_symlink():
        raise ResultError(f"{str(fresh)!r} is a link, which nnblip never makes: remove it, and the same command begins")
    shutil.rmtree(fresh, ignore_errors=True)  # what a process has left that was killed here
    fresh.mkdir()
    for name, data in skeleton(template, fixed, attrs, fingerprint).items():
        file = fresh / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    checksums.seal(fresh)
    fresh.rename(path)


def skeleton(template: xr.DataTree, fixed: Fixed, attrs: Mapping[str, Any], fingerprint: str) -> dict[str, bytes]:
    """The files of an empty store, by path inside it: all metadata, and what all examples share.

    Args:
        template: a tree of one example, for nodes, variables and what does not change.
        fixed: by path, such as "example", "nu" or "question_encoder/token", the coordinates that
            are longer than the template's. "example" is needed: the ids of all examples.
        attrs: attributes of the root.
        fingerprint: JSON of what the store is made with; see `fingerprint_of`.
    """
    nodes = {node.path.strip("/"): node.to_dataset(inherit=False) for node in template.subtree}
    added = {name: ("example", [""]) for name in ("status", "error")}
    nodes[""] = nodes[""].assign_coords(added)
    variables = [(node, str(name), v) for node, data in nodes.items() for name, v in data.variables.items()]
    shapes = {
        _join(node, name): tuple(_size(fixed, node, str(dim), v.sizes[dim]) for dim in v.dims)
        for node, name, v in variables
    }
    numbers = [4 * int(np.prod(shapes[_join(n, name)][1:])) for n, name, v in variables if v.dims[:1] == ("example",)]
    block = block_size(len(fixed["example"]), max(numbers))

    files: dict[str, Any] = {}
    root = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=2)
    groups = {node: root.create_group(node) if node else root for node in nodes}
    # what is not there is then known to be lost, whatever it was
    with zarr.config.set({"array.write_empty_chunks": True}):
        for node, name, variable in variables:
            key, dims = _join(node, name), [str(dim) for dim in variable.dims]
            grows, text = dims[:1] == ["example"], variable.dtype.kind not in "fiub"
            array = groups[node].create_array(
                name,
                shape=shapes[key],
                chunks=(block, *shapes[key][1:]) if grows else shapes[key],
                dtype=str if text else variable.dtype,
                # a fill value would be taken for the mark of what is missing; missing texts are ""
                fill_value=np.nan if variable.dtype.kind == "f" else None,
                compressors=Zstd(level=3, checksum=True),
                attributes={**variable.attrs, "_ARRAY_DIMENSIONS": dims},
            )
            if key in fixed:
                array[...] = fixed[key].astype(object) if text else fixed[key]
            elif key == "status":
                array[...] = PENDING
            elif not grows:
                array[...] = variable.values.astype(object) if text else variable.values
    for node, data in nodes.items():  # as xarray marks coordinates that are no index
        inner = sorted(str(name) for name in data.coords if name not in data.dims)
        groups[node].attrs.update({"coordinates": " ".join(inner)} if inner else {})
    root.attrs.update({**attrs, "sweep": fingerprint})
    zarr.consolidate_metadata(root.store, zarr_format=2)
    return {name: data.to_bytes() for name, data in files.items()}


def fingerprint_of(path: Path) -> dict[str, Any]:
    """What a store is made with.

    Raises:
        ResultError: if what is there is not a sweep's store.
    """
    found = stored.metadata(path)
    try:
        # a copy that xarray has made has the attributes, and chunks of its own
        if not found.documents["status/.zarray"]["compressor"]["checksum"]:
            raise ValueError("a copy")
        return dict(json.loads(found.documents[".zattrs"]["sweep"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if ".zattrs" in found.wrong and stored.BOTH in found.wrong:
            raise ResultError(
                f"{str(path)!r}: both places that say what it was made with are damaged (.zattrs, {stored.BOTH}): move"
                " it away and start anew"
            ) from error
        raise ResultError(
            f"{str(path)!r} exists and is not the store of a sweep: choose another name, or move it away"
        ) from error


class Store:
    """A sweep's store, open for writing. One block of it is kept in memory.

    Attributes:
        files: its files.
        block: how many examples share a chunk.
        growing: by path, the arrays over examples.
    """

    def __init__(self, path: Path) -> None:
        """Raises `ResultError` if its metadata cannot be read."""
        self.path = path
        self.files = Files(path)
        self._open()

    def _open(self) -> None:
        stored.require_codecs(self.path)
        try:
            self._metadata = stored.metadata(self.path)
            root = zarr.open_group(self.path, mode="r+", zarr_format=2, use_consolidated=False)
            # by name and not by looking: an array whose metadata are lost is not left out
            self._every = {key: cast("zarr.Array[Any]", root[key]) for key in self._metadata.arrays()}
            self.growing = {key: array for key, array in self._every.items() if dims_of(array)[:1] == ("example",)}
            self.block = self.growing["status"].chunks[0]
        except OSError:
            raise
        except STUMBLES as error:
            raise ResultError(
                f"{str(self.path)!r}: the store's metadata are damaged ({error}) and cannot be rebuilt: move it away"
                " and start anew"
            ) from error
        self._at, self._rows = -1, dict[str, np.ndarray]()

    def __len__(self) -> int:
        return int(self.growing["status"].shape[0])

    def status(self) -> list[str]:
        """Of every example. Raises `ResultError` if the store is gone."""
        self.files.require_place()
        return [str(status) or PENDING for status in np.asarray(self.growing["status"][:])]

    def reset(self, ids: Sequence[str], examples: Sequence[int], damaged: Collection[tuple[str, int]] = ()) -> None:
        """Make examples pending again, and write damaged chunks anew, (path of the array, number of the block)."""
        for number in sorted({i // self.block for i in examples} | {block for _, block in damaged}):
            start = number * self.block
            rows = self._load(number, {key for key, block in damaged if block == number})
            again = [i - start for i in examples if i // self.block == number]
            for key, value in rows.items():
                value[again] = PENDING if key == "status" else _empty(value)
            rows["example"][:] = ids[start : start + self.block]
            # the status first: were it last, a kill in between would leave rows that say they are done
            self._write(number, ["status", *(key for key in rows if key != "status")])

    def grow(self) -> None:
        """Undo `finish`: as much room for tokens and cells as in the beginning."""
        self._reshape(lambda key, shape, chunks: shape[:1] + chunks[1:] if key in self.growing else chunks)

    def row(self, tree: xr.DataTree) -> dict[str, Any]:
        """What `write` takes, from the tree of one example. Raises `ResultError` for what the store has no room for.

        Reliability and damage are left out of a store that was begun before results had them.
        """
        values: dict[str, Any] = {"status": DONE, "error": ""}
        for node in tree.subtree:
            name = node.path.strip("/")
            for label, variable in node.to_dataset(inherit=False).variables.items():
                if variable.dims[:1] == ("example",):
                    values[_join(name, str(label))] = self._placed(node, name, variable)
        values = {key: value for key, value in values.items() if key in self.growing or not _is_new(key)}
        for key, value in values.items():
            if key not in self.growing:
                raise ResultError(f"the store has no variable /{key}")
            room, shape = self.growing[key].shape[1:], np.shape(value)
            if len(shape) != len(room) or any(size > most for size, most in zip(shape, room, strict=True)):
                raise ResultError(f"/{key} of the store has room for {room}, and got {shape}")
        return values

    def fail(self, index: int, error: str, coords: Mapping[str, str]) -> None:
        """Store that an example failed, with what is known of it. Raises `OSError` as `write` does."""
        self.write(index, {**coords, "status": FAILED, "error": error})

    def write(self, index: int, row: Mapping[str, Any]) -> None:
        """Store what is known of an example, by path; all else of it becomes NaN and "".

        Raises:
            OSError: if it cannot be written.
        """
        number, at = divmod(index, self.block)
        for key, into in self._load(number).items():
            value = row.get(key, into[at] if key == "example" else _empty(into))
            into[at] = _empty(into)
            place: Any = (at, *(slice(size) for size in np.shape(value)))
            into[place] = _utf8(value) if into.dtype.kind == "T" else value
        self._write(number, [*(key for key in self.growing if key != "status"), "status"])

    def finish(self) -> None:
        """Cut off what room for tokens and cells no example took, and leave one list of all checksums.

        Chunks stay as they are: they reach over the edge.

        Raises:
            OSError: if that cannot be written.
            ResultError: if a file is not as it was written.
        """
        used = self._used()
        self._reshape(
            lambda key, shape, chunks: [
                used.get((key.rpartition("/")[0], dim), size)
                for dim, size in zip(self._metadata.dims(key), shape, strict=True)
            ]
        )
        self.files.settle()

    def is_cut(self) -> bool:
        """Whether `finish` would cut nothing off."""
        used = self._used()
        return all(
            used.get((key.rpartition("/")[0], dim), size) == size
            for key, array in self._every.items()
            for dim, size in zip(dims_of(array), array.shape, strict=True)
        )

    def update(self, **attrs: str) -> None:
        """Give the root further attributes. Raises `OSError`."""
        self._describe({".zattrs": {**self._metadata.documents[".zattrs"], **attrs}})

    def _used(self) -> dict[tuple[str, str], int]:
        """How much room is taken: {(node, "token" or the dimension of a list): size}."""
        used = {}
        for key, array in self.growing.items():
            node, name = key.rpartition("/")[::2]
            if name == "token_text":
                used[node, "token"] = max(1, _taken(array, lambda rows: rows != ""))
            elif name == "probability" and node in LISTS:
                used[node, LISTS[node]] = max(1, _taken(array, lambda rows: ~np.isnan(rows)))
        return used

    def _reshape(self, shape: Callable[[str, list[int], list[int]], list[int]]) -> None:
        """Give arrays new shapes, from their path, shape and chunks."""
        old = {key: self._metadata.documents[f"{key}/.zarray"] for key in self._every}
        self._describe(
            {f"{key}/.zarray": {**one, "shape": shape(key, one["shape"], one["chunks"])} for key, one in old.items()}
        )

    def _describe(self, changed: Mapping[str, Any]) -> None:
        """Write metadata, in both places."""
        every = {**self._metadata.documents, **changed}
        self.files.write(ALL, stored.as_files(changed) | stored.as_files({stored.BOTH: stored.together(every)}))
        self._open()

    def _placed(self, node: xr.DataTree, name: str, variable: xr.Variable) -> Any:
        """The row of one example, with its cells where the store has them."""
        row = variable.values[0]
        dim = LISTS.get(name, "")
        if dim not in variable.dims:
            return row
        place = {str(cell): number for number, cell in enumerate(np.asarray(self._every[f"{name}/{dim}"][:]))}
        labels = [str(cell) for cell in node.to_dataset()[dim].values]
        if missing := [cell for cell in labels if cell not in place]:
            raise ResultError(f"/{name} of the store has no {dim} {missing[0]!r}")
        whole = np.full((*row.shape[:-1], len(place)), np.nan, row.dtype)
        whole[..., [place[cell] for cell in labels]] = row
        return whole

    def _load(self, number: int, lost: Collection[str] = ()) -> dict[str, np.ndarray]:
        """The rows of a block, empty where they are lost."""
        if number != self._at or lost:
            part = slice(number * self.block, (number + 1) * self.block)
            self._rows, self._at = {}, number
            for key, array in self.growing.items():
                size = min(self.block, len(self) - part.start)
                of = np.zeros((size, *array.shape[1:]), array.dtype) if key in lost else np.array(array[part])
                if key in lost:
                    of[:] = _empty(of)
                self._rows[key] = of
        return self._rows

    def _write(self, number: int, keys: Sequence[str]) -> None:
        try:
            self.files.write(
                str(number), {chunk_of(self.growing[key], number): self._encoded(key, self._rows[key]) for key in keys}
            )
        except BaseException:  # what is kept may be ahead of what is stored
            self._at = -1
            raise

    def _encoded(self, key: str, rows: np.ndarray) -> bytes:
        """A chunk as zarr has it in its format 2."""
        says = self._metadata.documents[f"{key}/.zarray"]
        chunk = np.full(says["chunks"], _empty(rows), rows.dtype)
        chunk[tuple(slice(size) for size in rows.shape)] = rows
        data: Any = chunk.astype(object) if rows.dtype.kind == "T" else np.ascontiguousarray(chunk)
        for codec in [*(says["filters"] or []), says["compressor"]]:
            data = numcodecs.get_codec(codec).encode(data)
        return bytes(data)


def chunk_of(array: zarr.Array[Any], block: int) -> str:
    """The file of an array's chunk, by path inside the store."""
    return f"{array.path}/{array.metadata.encode_chunk_key((block, *[0] * (array.ndim - 1)))}"


def dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """An array's dimensions, as xarray notes them."""
    return tuple(array.attrs.get("_ARRAY_DIMENSIONS", ()))  # type: ignore[arg-type]


def _is_new(key: str) -> bool:
    """Whether it is a coordinate that results of this layout did not have from the beginning."""
    return key.rpartition("/")[2] in (*DAMAGE, *RELIABILITY)


def _join(node: str, name: str) -> str:
    return f"{node}/{name}" if node else name


def _size(fixed: Fixed, node: str, dim: str, size: int) -> int:
    return next((len(fixed[key]) for key in (_join(node, dim), dim) if key in fixed), size)


def _empty(rows: np.ndarray) -> Any:
    return {"T": "", "f": np.nan}.get(rows.dtype.kind, 0)


def _utf8(texts: Any) -> Any:
    """The same texts; what no encoding has (half of a surrogate pair) as an escape."""
    clean = np.vectorize(lambda text: str(text).encode("utf8", "backslashreplace").decode(), otypes=[object])(texts)
    return clean if np.ndim(texts) else clean.item()


def _taken(array: zarr.Array[Any], taken: Callable[[np.ndarray], np.ndarray]) -> int:
    """How far along the last dimension any example has something."""
    most = 0
    for start in range(0, array.shape[0], array.chunks[0]):
        rows = np.asarray(array[start : start + array.chunks[0]])
        where = np.flatnonzero(taken(rows).reshape(-1, rows.shape[-1]).any(0))
        most = max([most, *(where[-1:] + 1).tolist()])
    return most
