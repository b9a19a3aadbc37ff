"""Rows of text, CSV and JSON files, one at a time, each with its place in the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import ijson

from nnblip.datasets.json_bytes import Pairs, Shallow
from nnblip.datasets.records import Problem
from nnblip.datasets.sniff import advice
from nnblip.errors import InputError, told


def existing(path: str | Path, what: str, folder: bool = False, data: bool = True) -> Path:
    """`path` if it is there; of `data` an error names the reader that takes what is there instead.

    Raises:
        InputError: if it is not, or is a folder where a file is expected (or the other way round).
    """
    kind = "folder" if folder else "file"
    if not isinstance(path, str | Path):
        raise InputError(f"{what} {told(path)}: expected the path of a {kind}")
    found = Path(path)
    try:
        there = found.is_dir() if folder else found.is_file()
    except (OSError, ValueError):  # a name that cannot be one: too long, or in a folder that is closed to us
        there = False
    if not there:
        raise InputError(f"{what} {told(str(path), 200)}: there is no such {kind}{_instead(found, folder, data)}")
    return found


def _instead(path: Path, folder: bool, data: bool) -> str:
    """What is there under the name of what is not."""
    try:
        there = path.is_file() if folder else path.is_dir()
    except (OSError, ValueError):
        return ""
    return f", but a {'file' if folder else 'folder'}{advice(path) if data else ''}" if there else ""


def open_text(path: Path) -> TextIO:
    """Open for reading; bytes that are not UTF-8 become surrogates, which `fields.text` refuses, row by row."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def begins_with_brace(path: Path) -> bool:
    """Is it JSON rather than a table?"""
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")


def csv_header(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        InputError: for an empty file.
    """
    with open_text(path) as file:
        try:
            header = next(csv.reader(file), None)
        except csv.Error as error:
            raise InputError(f"{path}: its first line is no CSV ({error})") from error
    if not header:
        raise InputError(f"{path}: empty; expected a line with the names of the columns")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have one name ({', '.join(header)})")
    return header


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]] | Problem]:
    """Each row's place ("file.csv:12") and its cells by column; a row that is no CSV is a problem.

    Cells are texts as they stand in the file: "NA" and "none" are answers.
    """
    with open_text(path) as file:
        # strict: a quote that is never closed would otherwise swallow the rest of the file as one cell
        reader = csv.reader(file, strict=True)
        header, start = next(reader, []), 0
        while True:
            start = reader.line_num + 1
            where = f"{path.name}:{start}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Problem(where, f"no CSV ({error}){_reach(start, reader.line_num)}")
                continue
            if len(cells) == len(header):
                yield where, dict(zip(header, cells, strict=True))
            elif cells:  # a blank line is no row
                lost = _reach(start, reader.line_num)
                yield Problem(where, f"{len(cells)} cells, expected {len(header)}{lost}")


def _reach(start: int, end: int) -> str:
    return f"; lines {start} to {end} were read as this one row" if end > start else ""


def pick(header: Sequence[str], fits: Mapping[str, Callable[[str], bool]], path: Path) -> dict[str, str]:
    """For each wanted column the first name in the header that fits.

    Raises:
        InputError: if none fits.
    """
    found: dict[str, str] = {}
    for wanted, fit in fits.items():
        columns = [column for column in header if fit(column.lower())]
        if not columns:
            raise InputError(f"{path}: no column for the {wanted}; it has {', '.join(map(repr, header))}{advice(path)}")
        found[wanted] = columns[0]
    return found


def parallel_lines(paths: Sequence[Path]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and line of files whose lines belong together.

    Raises:
        InputError: if the files have different numbers of lines: it is then not known which
            lines belong together, so not even the first can be trusted.
    """
    counts = [_line_count(path) for path in paths]
    if len(set(counts)) > 1:
        said = ", ".join(f"{path.name} {count}" for path, count in zip(paths, counts, strict=True))
        raise InputError(
            f"{paths[0].parent}: the files have different numbers of lines ({said}), so it is not known which lines"
            " belong together; get the files again"
        )
    files = [open_text(path) for path in paths]
    try:
        for number, lines in enumerate(zip(*files, strict=True), 1):
            yield number, tuple(line.rstrip("\r\n") for line in lines)
    finally:
        for file in files:
            file.close()


def _line_count(path: Path) -> int:
    with open_text(path) as file:
        return sum(1 for _ in file)


def json_objects(path: Path, key: str) -> Iterator[Any]:
    """The entries of the list `key` of a JSON file, one at a time.

    Raises:
        InputError: if the file is no JSON, is cut short, or has no such list with an entry.
    """
    found = False
    for entry in _parse(path, lambda file: ijson.items(file, f"{key}.item", use_float=True)):
        found = True
        yield entry
    if not found:
        raise InputError(f"{path}: no list {key!r} with entries in it; expected the official file{advice(path)}")


def json_pairs(path: Path) -> Iterator[tuple[str, Any]]:
    """The names and values of a JSON file that is one object, one at a time.

    Raises:
        InputError: if the file is no JSON, is cut short, or holds something else.
    """
    yield from _parse(path, lambda file: ijson.kvitems(file, "", use_float=True))


def _parse(path: Path, entries: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    with path.open("rb") as file:
        mark = 3 if file.read(3) == b"\xef\xbb\xbf" else 0
        file.seek(mark)
        start = file.read(4096).lstrip()[:1]
        if start != b"{":
            said = "empty" if not start else f"it begins with {start.decode(errors='replace')!r}"
            raise InputError(f"{path}: {said}; expected a JSON object, {{...}}{advice(path)}")
        file.seek(mark)
        number, iterator = 0, entries(Shallow(Pairs(file)))
        while True:
            try:
                entry = next(iterator)
            except StopIteration:
                return
            except (ijson.JSONError, ValueError, RecursionError) as error:
                said = " ".join(str(error).split())
                raise InputError(f"{path}: no whole JSON, after {number} entries ({said:.200})") from error
            number += 1
            yield entry
