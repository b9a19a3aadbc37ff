"""The growing zarr store of a sweep: one result tree, written example by example.

Arrays over examples are chunked in blocks of examples, all other dimensions whole. After
each example the chunks of its block are written anew (zarr writes a chunk beside it and
renames it), its `status` last: a process that is killed in between loses that example
and nothing else. Every chunk is checksummed. Knows zarr and xarray, not torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numcodecs import Zstd

from nnblip.errors import STUMBLES, ResultError

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
        template: a tree of one example, for nodes, variables and what does not change.
        fixed: by path, such as "example", "nu" or "question_encoder/token", the coordinates that
            are longer than the template's. "example" is needed: the ids of all examples.
        attrs: attributes of the root.
        fingerprint: JSON of what the store is made with; see `fingerprint_of`.

    Raises:
        OSError: if it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
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

    root = zarr.create_group(fresh, zarr_format=2)
    groups = {node: root.create_group(node) if node else root for node in nodes}
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
    zarr.consolidate_metadata(fresh, zarr_format=2)
    fresh.rename(path)


def fingerprint_of(path: Path) -> dict[str, Any]:
    """What a store is made with.

    Raises:
        ResultError: if what is there is not a sweep's store.
    """
    try:
        found = json.loads(Path(path, ".zattrs").read_text())["sweep"]
        # a copy that xarray has made has the attributes, and chunks of its own
        if not json.loads(Path(path, "status", ".zarray").read_text())["compressor"]["checksum"]:
            raise ValueError("a copy")
        return dict(json.loads(found))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{str(path)!r} exists and is not the store of a sweep: choose another name, or move it away"
        ) from error


def set_fingerprint(path: Path, fingerprint: str, **attrs: str) -> None:
    """Say that a store is made with something else, with further attributes of its root."""
    zarr.open_group(path, mode="r+", zarr_format=2, use_consolidated=False).attrs.update(
        {**attrs, "sweep": fingerprint}
    )
    zarr.consolidate_metadata(path, zarr_format=2)


class Store:
    """A sweep's store, open for writing. One block of it is kept in memory.

    Attributes:
        ids: the examples.
        block: how many examples share a chunk.
        growing: by path, the arrays over examples.
    """

    def __init__(self, path: Path) -> None:
        """Raises `ResultError` if its metadata cannot be read."""
        self.path = path
        try:
            # chunks of nothing but NaN or "" are written too: one that is not there is then known to be lost
            with zarr.config.set({"array.write_empty_chunks": True}):
                root = zarr.open_group(path, mode="r+", zarr_format=2, use_consolidated=False)
                members = sorted(root.members(max_depth=None))
            self._every = {key: array for key, array in members if isinstance(array, zarr.Array)}
            self.growing = {key: array for key, array in self._every.items() if dims_of(array)[:1] == ("example",)}
            self.block = self.growing["status"].chunks[0]
        except OSError:
            raise
        except STUMBLES as error:
            raise ResultError(
                f"{str(path)!r}: the store's metadata are damaged ({error}); move it away and start anew"
            ) from error
        self._at, self._rows = -1, dict[str, np.ndarray]()

    def __len__(self) -> int:
        return int(self.growing["status"].shape[0])

    def status(self) -> list[str]:
        """Of every example."""
        return [str(status) or PENDING for status in np.asarray(self.growing["status"][:])]

    def reset(self, ids: Sequence[str], examples: Sequence[int], damaged: Sequence[tuple[str, int]] = ()) -> None:
        """Make examples pending again, and remove damaged chunks, (path of the array, number of the block)."""
        for key, block in damaged:
            array = self.growing[key]
            Path(self.path, key, array.metadata.encode_chunk_key((block, *[0] * (array.ndim - 1)))).unlink(True)
        for number in sorted({i // self.block for i in examples} | {block for _, block in damaged}):
            rows, start = self._load(number), number * self.block
            again = [i - start for i in examples if i // self.block == number]
            for key, value in rows.items():
                value[again] = PENDING if key == "status" else _empty(value)
            rows["example"][:] = ids[start : start + self.block]
            # the status first: were it last, a kill in between would leave rows that say they are done
            self._write(number, ["status", *(key for key in rows if key != "status")])

    def grow(self) -> None:
        """Undo `finish`: as much room for tokens and cells as in the beginning."""
        for array in self._every.values():
            first = 1 if dims_of(array)[:1] == ("example",) else 0
            array.resize((*array.shape[:first], *array.chunks[first:]))
        self._at = -1

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
        values = {
            key: v
            for key, v in values.items()
            if key in self.growing or not ("/reliability" in key or key.startswith("damage/"))
        }
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
        """Cut off what room for tokens and cells no example took. Chunks stay as they are: they reach over the edge."""
        used = {}
        for key, array in self.growing.items():
            node, name = key.rpartition("/")[::2]
            if name == "token_text":
                used[node, "token"] = max(1, _used(array, lambda rows: rows != ""))
            elif name == "probability" and "cell" in dims_of(array):
                used[node, "cell"] = max(1, _used(array, lambda rows: ~np.isnan(rows)))
        for key, array in self._every.items():
            node = key.rpartition("/")[0]
            shape = tuple(used.get((node, dim), size) for dim, size in zip(dims_of(array), array.shape, strict=True))
            if shape != array.shape:
                array.resize(shape)
        zarr.consolidate_metadata(self.path, zarr_format=2)

    def _placed(self, node: xr.DataTree, name: str, variable: xr.Variable) -> Any:
        """The row of one example, with its cells where the store has them."""
        row = variable.values[0]
        if "cell" not in variable.dims:
            return row
        place = {str(cell): number for number, cell in enumerate(np.asarray(self._every[f"{name}/cell"][:]))}
        labels = [str(cell) for cell in node.to_dataset()["cell"].values]
        if missing := [cell for cell in labels if cell not in place]:
            raise ResultError(f"/{name} of the store has no cell {missing[0]!r}")
        whole = np.full((*row.shape[:-1], len(place)), np.nan, row.dtype)
        whole[..., [place[cell] for cell in labels]] = row
        return whole

    def _load(self, number: int) -> dict[str, np.ndarray]:
        if number != self._at:
            part = slice(number * self.block, (number + 1) * self.block)
            self._rows, self._at = {key: np.array(array[part]) for key, array in self.growing.items()}, number
        return self._rows

    def _write(self, number: int, keys: Sequence[str]) -> None:
        part = slice(number * self.block, (number + 1) * self.block)
        try:
            for key in keys:
                self.growing[key][part] = self._rows[key]
        except BaseException:  # what is kept may be ahead of what is stored
            self._at = -1
            raise


def dims_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """An array's dimensions, as xarray notes them."""
    return tuple(array.attrs.get("_ARRAY_DIMENSIONS", ()))  # type: ignore[arg-type]


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


def _used(array: zarr.Array[Any], taken: Callable[[np.ndarray], np.ndarray]) -> int:
    """How far along the last dimension any example has something."""
    most = 0
    for start in range(0, array.shape[0], array.chunks[0]):
        rows = np.asarray(array[start : start + array.chunks[0]])
        where = np.flatnonzero(taken(rows).reshape(-1, rows.shape[-1]).any(0))
        most = max([most, *(where[-1:] + 1).tolist()])
    return most
