"""Which modules of nnblip something needs, and their text: read from the import statements, so that no list is kept."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def needed(*roots: str, inside_functions: bool = False) -> dict[str, str]:
    """The source of modules and of all in nnblip that they import, in an order in which they can be imported.

    Args:
        roots: such as "nnblip.model".
        inside_functions: whether imports in functions count too. Those for types alone never do.

    Returns:
        By full name; a package has its `__init__.py`, and comes before what is in it.
    """
    found: dict[str, str] = {}
    for root in roots:
        _gather(root, inside_functions, found, set())
    return found


def _gather(name: str, inside_functions: bool, found: dict[str, str], begun: set[str]) -> None:
    if name in found or name in begun:
        return
    begun.add(name)
    if package := name.rpartition(".")[0]:
        _gather(package, inside_functions, found, begun)
    # what a package's face hands on at first use is no need of those that are in it
    for other in _imports(name, inside_functions) if name != PACKAGE.name else ():
        _gather(other, inside_functions, found, begun)
    found[name] = _file(name).read_text(encoding="utf-8")


@lru_cache
def _imports(name: str, inside_functions: bool) -> tuple[str, ...]:
    tree = ast.parse(_file(name).read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(module for node in _statements(tree, inside_functions) for module in _modules(node)))


def _statements(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(node, inside_functions)


def _modules(node: ast.AST) -> Iterator[str]:
    """The modules of nnblip that an import statement names; a name that is imported may be one itself."""
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if one.name.partition(".")[0] == PACKAGE.name)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
        yield str(node.module)
        yield from (name for one in node.names if _exists(name := f"{node.module}.{one.name}"))


def _path(name: str) -> Path:
    return PACKAGE.parent.joinpath(*name.split("."))


def _exists(name: str) -> bool:
    return _path(name).with_suffix(".py").exists() or (_path(name) / "__init__.py").exists()


def _file(name: str) -> Path:
    path = _path(name)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
