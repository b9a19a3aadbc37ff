"""Any table: CSV, Parquet, a pandas frame, a Hugging Face `datasets` split, or rows as dicts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files, sources
from nnblip.datasets.download import Download
from nnblip.datasets.images import Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import STUMBLES, InputError, one_of, told
from nnblip.examples import Example, open_image

#: Which columns are taken for a field if `columns` does not say; the first that there is.
COLUMNS = {
    "image": ("image", "image_path", "image_file", "file_name", "path"),
    "question": ("question",),
    "answer": ("answer", "multiple_choice_answer"),
    "question_type": ("question_type", "type"),
    "id": ("id", "question_id"),
    "answers": ("answers",),
}


def table(
    source: Any,
    columns: Mapping[str, str] | None = None,
    images: Images = None,
    name: str | None = None,
    strict: bool = False,
    allow_outside: bool = False,
) -> Dataset:
    """Each row of a table; columns that are no field become extra fields.

    An image is a path (from the folder `images`, else from that of the file), a picture as
    `datasets` has it, a PIL image or an array. A table may be a stranger's, so a path that leads
    out of that folder, by links too, is refused unless `allow_outside`. Where there is an answer column each row needs
    an answer; without one the model's own is traced. Without an id column the id is the
    name and the row's number, from 0.

    Args:
        source: a .csv or .parquet file, a pandas frame, a `datasets.Dataset`, or a list of dicts.
        columns: which column is the image, question, answer, question_type, id or answers,
            such as {"image": "photo"}; see `COLUMNS` for what is taken otherwise.
        images: folder of the images that the table names.
        name: of the data set, for ids; the file's name, or "table".
        strict: stop at the first broken row.
        allow_outside: take any file that the table names.

    Raises:
        InputError: for a missing file or column, a file of another kind, or a missing package.
    """
    base = _folder(images)
    if not isinstance(source, str | Path):
        title = name or "table"
        # without a folder the rows in memory are the caller's own
        place = _Place(base, allow_outside or base is None)
        return Dataset(title, _examples(*sources.rows_of(source), columns, place, title), strict)
    path = files.existing(source, "table")
    place = _Place(base or path.parent, allow_outside)
    rows = _examples(*sources.rows_of_file(path), columns, place, name or path.stem)
    return Dataset(f"table:{source}", rows, strict, path)


def hub(
    name: str,
    split: str,
    columns: Mapping[str, str] | None = None,
    images: Images = None,
    strict: bool = False,
    allow_outside: bool = False,
    **load: Any,
) -> Dataset:
    """A split of a data set on the Hugging Face hub, read row by row as it arrives.

    Args:
        name: such as "HuggingFaceM4/VQAv2", or a local folder that `datasets` can load.
        split: such as "validation".
        columns: see `table`.
        images: see `table`.
        strict: stop at the first broken row.
        allow_outside: take any file of this machine that its rows name.
        **load: further arguments of `datasets.load_dataset`, such as `revision`.

    Raises:
        InputError: if the package is missing, or there is no such data set or split.
    """
    hugging = sources.package("datasets")
    try:
        found = hugging.load_dataset(name, split=split, streaming=True, **load)
    except STUMBLES as error:  # the hub, the network and each format have errors of their own
        said = " ".join(str(error).split())
        raise InputError(f"data set {name!r}, split {split!r}: cannot be loaded ({said:.300})") from error
    place = _Place(_folder(images), allow_outside)
    return Dataset(f"hub:{name}", _examples(*sources.rows_of(found), columns, place, name.rsplit("/", 1)[-1]), strict)


def _folder(images: Images) -> Path | None:
    if images == "download" or isinstance(images, Download):
        raise InputError("a table's images have no public addresses that nnblip knows: give images=FOLDER")
    return None if images is None else files.existing(images, "images", folder=True, data=False)


@dataclass(frozen=True)
class _Place:
    """Where a table's images are: in a folder, if there is one, and nowhere else, unless they may be anywhere."""

    folder: Path | None
    anywhere: bool

    def __call__(self, given: str) -> str:
        """The path of a file that is there. Raises `InputError`."""
        path = Path(given) if self.folder is None else self.folder / given
        try:
            inside = self.anywhere or (self.folder is not None and path.resolve().is_relative_to(self.folder.resolve()))
            there = inside and path.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that cannot be one, links in a circle
            inside, there = True, False
        if not inside:
            where = f"outside {str(self.folder)!r}" if self.folder else "on this machine, not in the data set"
            raise InputError(f"image {told(given)} lies {where}: --allow-outside (allow_outside=True) takes it")
        if not there:
            raise InputError(f"image {told(given)} is not in {str(self.folder or Path())!r}")
        return str(path)


@dataclass(frozen=True)
class Stored:
    """A picture as `datasets` stores it, decoded when this is called."""

    data: bytes
    filename: str

    def __call__(self) -> Any:
        """A PIL image."""
        return open_image(io.BytesIO(self.data), f"image {told(self.filename, 200)}")


def _examples(
    names: Sequence[str] | None, rows: sources.Rows, columns: Mapping[str, str] | None, place: _Place, title: str
) -> Callable[[], Iterator[Example | Problem]]:
    if not isinstance(columns, Mapping | None):
        raise InputError(f"columns {told(columns)}: expected fields with their columns, such as {{'image': 'photo'}}")
    columns = dict(columns or {})
    for field in columns:
        one_of(field, COLUMNS, "field", InputError)
    if names is None:  # rows of a stream: what they have is known from the first
        first = next(rows(), None)
        names = [] if first is None or isinstance(first, Problem) else list(first[1])
    for column in columns.values():
        one_of(column, names, "column", InputError)
    taken = {field: next((n for n in options if n in names), None) for field, options in COLUMNS.items()} | columns
    for field in ("image", "question"):
        if taken[field] is None:
            raise InputError(
                f"{title}: no column for the {field}; it has {', '.join(names) or 'none'};"
                f" say which, columns={{{field!r}: ...}}"
            )
    used = {column for column in taken.values() if column}

    def example(number: int, row: Mapping[str, Any]) -> Example:
        given = {field: row.get(column) for field, column in taken.items() if column}
        question = fields.text(given["question"], "question")
        answer = fields.text(given["answer"], "answer") if "answer" in given else None
        kind, id_ = given.get("question_type"), given.get("id")
        extra = {key: value for key, value in row.items() if key not in used}
        if given.get("answers") is not None:
            extra["answers"] = _answers(given["answers"])
        name = f"{title}-{number}" if "id" not in given else fields.text(str("" if id_ is None else id_), "id")
        return Example(
            _image(given["image"], place),
            question,
            answer,
            None if kind in (None, "") else str(kind),
            name,
            extra=extra,
        )

    def all_rows() -> Iterator[Example | Problem]:
        for number, row in enumerate(rows()):
            yield row if isinstance(row, Problem) else attempt(row[0], example, number, row[1])

    return all_rows


def _answers(given: Any) -> tuple[str, ...]:
    """Of VQA's form (dicts with `answer`) or plain texts."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"answers {given!r:.100}: expected a list of texts")
    return tuple(fields.text(one.get("answer") if isinstance(one, Mapping) else one, "answer") for one in given)


def _image(given: Any, place: _Place) -> Any:
    if isinstance(given, Mapping):
        data, path = given.get("bytes"), given.get("path")
        if isinstance(data, bytes):
            return Stored(data, str(path or ""))
        given = path
    if given is None or (isinstance(given, str) and not given.strip()):
        raise InputError(f"image {given!r}: expected a path or a picture")
    return place(fields.text(str(given), "image")) if isinstance(given, str | Path) else given
