"""Run on the server before anything else of a request is read: nnblip in the client's version.

A stock NDIF server has no nnblip, and if it had one, it could be another version. So a
request brings the source of the modules that it needs (about 40 kB), and whatever it
refers to by name is found in them. Source and not bytecode: client and server may run
different versions of Python, and methods that dataclasses generate have no source, which
is why `nnsight.register` (classes by value) is not enough.

`packed` and `digest` are set by who sends this file, see `nnblip.remote.packing`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import linecache
import sys
import types
import zlib
from collections.abc import Sequence
from typing import Any

#: Only annotations need them, which are never evaluated there.
NOT_NEEDED = ("jaxtyping", "PIL")


class Shipped(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of nnblip in a request."""

    def __init__(self, sources: dict[str, str], digest: str) -> None:
        self.sources, self.digest = sources, digest

    def filename(self, name: str) -> str:
        return f"<nnblip {self.digest[:12]}>/{name.replace('.', '/')}.py"

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.sources:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self.filename(name), is_package=self.is_package(name))

    def is_package(self, name: str) -> bool:
        return any(other.startswith(f"{name}.") for other in self.sources)

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        exec(compile(self.sources[name], self.filename(name), "exec"), module.__dict__)

    def show(self) -> None:
        """nnsight reads the source of each `with` block; the server forgets it after each request."""
        for name, text in self.sources.items():
            file = self.filename(name)
            linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)


class _Whatever(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Anything(metaclass=_Whatever):
    """Stands for whatever is imported from a package that is not there, and for what is in it."""

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class Absent(types.ModuleType):
    """Stands for such a package."""

    def __getattr__(self, name: str) -> Any:
        return Anything


def arrive(packed: bytes, digest: str) -> None:
    """Make `import nnblip` give the modules in `packed`."""
    finder: Any = next((found for found in sys.meta_path if getattr(found, "digest", None) == digest), None)
    if finder is None or getattr(sys.modules.get("nnblip"), "__shipped__", None) != digest:
        finder = Shipped(json.loads(zlib.decompress(packed)), digest)
        _replace(finder, list(finder.sources))
    finder.show()


def _replace(finder: Any, names: Sequence[str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nnblip"]:
        del sys.modules[name]
    sys.meta_path[:] = [finder, *(known for known in sys.meta_path if type(known).__name__ != "Shipped")]
    finder.show()
    absent = []
    for name in NOT_NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = Absent(name)
            absent.append(name)
    try:
        for name in names:
            importlib.import_module(name)
    finally:  # nothing else on the server may take them for the real ones
        for name in absent:
            del sys.modules[name]
    sys.modules["nnblip"].__shipped__ = finder.digest  # type: ignore[attr-defined]


if "packed" in globals():
    arrive(globals()["packed"], globals()["digest"])
