"""Runs the notebooks of the documentation, once: the pages and the tests take each other's outputs from one cache.

A notebook is run again when its cells change, or any file of nnblip, or the versions that it is installed with.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from jupyter_cache import get_cache

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"
#: Seconds that a cell may take.
TIMEOUT = 300


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that takes what MyST-NB's own takes: a `subtype` of warnings, and lines."""

    def process(self, msg: Any, kwargs: Any) -> Any:
        return msg, {name: value for name, value in kwargs.items() if name not in ("subtype", "line")}


@lru_cache
def cache() -> Path:
    """The folder with the outputs that belong to nnblip as it is now."""
    files = (*(ROOT / "nnblip").rglob("*"), ROOT / "pyproject.toml", ROOT / "scripts" / "constraints.txt")
    content = hashlib.blake2b(sys.version.encode(), digest_size=8)
    for file in sorted(one for one in files if one.is_file() and one.suffix != ".pyc"):
        content.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    folder = ROOT / "build" / "notebooks" / content.hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # the tests run in several processes
        get_cache(folder).list_cache_records()
    return folder


def settings() -> dict[str, Any]:
    """How MyST-NB runs notebooks, in its own words without `nb_`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the small model; more threads cost more than they bring
    return {
        "execution_mode": "cache",
        "execution_cache_path": str(cache()),
        "execution_in_temp": True,
        "execution_timeout": TIMEOUT,
        "execution_raise_on_error": True,
        "execution_show_tb": True,
    }


def executed(notebook: Path) -> Any:
    """A notebook with its outputs, an nbformat `NotebookNode`. Raises `ExecutionError` if a cell fails."""
    from myst_nb.core.config import NbParserConfig
    from myst_nb.core.execute import create_client
    from myst_nb.core.read import create_nb_reader
    from myst_parser.config.main import MdParserConfig

    config = NbParserConfig(**settings())
    reader = create_nb_reader(str(notebook), MdParserConfig(), config, notebook.read_text())
    assert reader is not None, f"{notebook} is no notebook: its first lines say file_format: mystnb"
    node = reader.read(notebook.read_text())
    with create_client(node, str(notebook), config, Log(logging.getLogger(__name__)), reader.read_fmt) as client:
        return client.notebook
