"""Rows of a table, whatever holds it: CSV, Parquet, a pandas frame, a Hugging Face split, dicts."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnblip.datasets import files
from nnblip.datasets.records import Problem
from nnblip.errors import InputError, one_of

#: Gives, at each call, every row's place and its cells by column.
Rows = Callable[[], Iterator[tuple[str, Mapping[str, Any]] | Problem]]


def rows_of_file(path: Path) -> tuple[list[str], Rows]:
    """Names of the columns, and the rows, of a .csv or .parquet file.

    Raises:
        InputError: for a file of another kind or a damaged one, or if pyarrow is missing.
    """
    kind = one_of(path.suffix.lower(), (".csv", ".parquet"), f"{path}: a table of kind", InputError)
    if kind == ".csv":
        return files.csv_header(path), lambda: files.csv_rows(path)
    package("pyarrow")
    import pyarrow
    from pyarrow import parquet

    def rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
        number = itertools.count()
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(256):
                    for row in batch.to_pylist():
                        yield f"{path.name}, row {next(number)}", row
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: damaged, after {next(number)} rows ({error})") from error

    try:
        return parquet.read_schema(path).names, rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no Parquet file ({error})") from error


def rows_of(source: Any) -> tuple[list[str] | None, Rows]:
    """Names of the columns if they are known, and the rows, of a frame, a split or dicts.

    Raises:
        InputError: if it is none of these.
    """
    if hasattr(source, "itertuples"):  # pandas
        names = [str(name) for name in source.columns]
        return names, lambda: (
            (f"row {number}", dict(zip(names, (None if _missing(v) else v for v in row), strict=True)))
            for number, row in enumerate(source.itertuples(index=False, name=None))
        )
    if hasattr(source, "cast_column") and source.features:  # a split: its pictures are decoded when they are needed
        hugging = package("datasets")
        for name, feature in source.features.items():
            if isinstance(feature, hugging.Image):
                source = source.cast_column(name, hugging.Image(decode=False))
    if not isinstance(source, Iterable) or isinstance(source, Mapping | str | bytes | Iterator):
        raise InputError(
            f"table {source!r:.100}: expected a file, a pandas frame, a `datasets` split or a list of dicts"
        )

    def rows() -> Iterator[tuple[str, Mapping[str, Any]] | Problem]:
        for number, row in enumerate(source):
            yield (
                (f"row {number}", row)
                if isinstance(row, Mapping)
                else Problem(f"row {number}", f"{row!r:.80}: no dict")
            )

    features = getattr(source, "features", None)
    return list(features) if features else None, rows


def _missing(value: Any) -> bool:
    return isinstance(value, float) and value != value


def package(name: str) -> Any:
    """An optional package. Raises `InputError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} is not installed: pip install 'nnblip[table]'") from error
