"""`result.nnblip`: what nnblip does with a result, as methods of xarray's own objects.

Registered as soon as xarray is imported and something of nnblip is used. Everything here is a short way to a function
that stands elsewhere, but for the choosing of tokens by what they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import xarray as xr

from nnblip.errors import NnblipError, ResultError, one_of
from nnblip.words import positions, spelt

Data = TypeVar("Data", xr.Dataset, xr.DataArray)
#: A name under which `by_role` is asked of arrays that are not in a tree.
_NODE = "question_encoder"


class FigureError(NnblipError, AttributeError):
    """A figure that there is none of."""


class Figures:
    """The functions of `nnblip.plot` that draw a result: `result.nnblip.plot.heatmap("question_encoder", nu=5)`."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        from nnblip import plot

        return functools.partial(getattr(plot, one_of(name, _drawn(), "figure", FigureError)), self._tree)

    def __dir__(self) -> list[str]:
        return _drawn()


def _drawn() -> list[str]:
    """The public functions of `nnblip.plot` whose first argument is a result."""
    from nnblip import plot

    functions = {name: getattr(plot, name) for name in plot.__all__ if inspect.isfunction(getattr(plot, name))}
    return sorted(name for name, one in functions.items() if next(iter(inspect.signature(one).parameters)) == "tree")


class OfTree:
    """`result.nnblip`, of a `DataTree`: a result, a tree of effects, or one of their nodes."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def total_effect(self) -> xr.DataTree:
        """See `nnblip.total_effect`."""
        from nnblip import effects

        return effects.total_effect(self._tree)

    def indirect_effect(self) -> xr.DataTree:
        """See `nnblip.indirect_effect`."""
        from nnblip import effects

        return effects.indirect_effect(self._tree)

    def relevance(self, **settings: Any) -> xr.DataTree:
        """See `nnblip.relevance`, which has the settings."""
        from nnblip import effects

        return effects.relevance(self._tree, **settings)

    def gamma(self, **settings: Any) -> xr.Dataset:
        """Γ(ν), see `nnblip.gamma`, which has the settings; `result.nnblip.plot.gamma()` draws it."""
        from nnblip import effects

        return effects.gamma(self._tree, **settings)

    def interval(self, value: str | None = None, **settings: Any) -> xr.DataTree | xr.Dataset:
        """See `nnblip.effects.interval`, which has the settings."""
        from nnblip import effects

        return effects.interval(self._tree, value, **settings)

    def strongest(self, n: int = 10, **settings: Any) -> list[Any]:
        """See `nnblip.effects.strongest`, which has the settings."""
        from nnblip import effects

        return effects.strongest(self._tree, n, **settings)

    def diagnose(self, other: xr.DataTree | None = None, **settings: Any) -> Any:
        """See `nnblip.diagnose`, which has the settings."""
        from nnblip.diagnosis import diagnose

        return diagnose(self._tree, other, **settings)

    def heatmap(self, component: str = "question_encoder", **settings: Any) -> Any:
        """See `nnblip.plot.heatmap`, which has the settings."""
        from nnblip import plot

        return plot.heatmap(self._tree, component, **settings)

    @property
    def plot(self) -> Figures:
        """All figures of `nnblip.plot` that draw a result."""
        return Figures(self._tree)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """See `nnblip.save`."""
        from nnblip import results

        return results.save(self._tree, path, overwrite)

    def token(self, text: str) -> xr.DataTree:
        """The tree at one word of its questions, wherever that stands in each of them.

        Args:
            text: a word, upper and lower case alike, or a piece that is written so ("##o").

        Returns:
            The nodes of the question encoder at that word, without the dimension `token`; all others as they are.

        Raises:
            ResultError: if a question lacks the word, has it several times or in several pieces (with the positions),
                or the tree has no question tokens.
        """
        nodes, found = {}, False
        for path, node in self._tree.subtree_with_keys:
            data = node.to_dataset(inherit=path == ".")
            if of_question := _of_question(path, node):
                data = _at(data, text, _names(node) or _names(self._tree))
            nodes["/" if path == "." else path], found = data, found or of_question
        if not found:
            raise ResultError(
                "no question tokens here: expected a node /question_encoder with the coordinate token_text"
            )
        return xr.DataTree.from_dict(nodes, name=self._tree.name)

    def role(self, name: str) -> xr.DataTree:
        """The tree at the words of a role: their mean where there are several, as `nnblip.effects.by_role` has it.

        Args:
            name: of `nnblip.roles.ROLES`, such as "last content word", or a role of your own.

        Returns:
            The nodes that have the role, without the dimension `token`; all others as they are. An example that lacks
            it is NaN there.

        Raises:
            ResultError: if no node has the role (the nearest is suggested).
        """
        from nnblip import effects

        if "role" in self._tree.coords:  # a node of its own
            found = OfArrays(self._tree.to_dataset()).role(name)
            return xr.DataTree(found, name=self._tree.name)
        without = [path for path, node in self._tree.children.items() if "role" not in node.coords]
        averaged = effects.by_role(
            self._tree.drop_nodes(without) if len(without) < len(self._tree.children) else self._tree
        )
        having = {path: node for path, node in averaged.children.items() if "role" in node.to_dataset().dims}
        roles = {path: [str(role) for role in node.coords["role"].values] for path, node in having.items()}
        one_of(name, dict.fromkeys(role for some in roles.values() for role in some), "role", ResultError)
        nodes = {path: node.to_dataset(inherit=False) for path, node in self._tree.children.items()}
        for path, node in having.items():
            if name in roles[path]:
                nodes[path] = node.to_dataset(inherit=False).sel(role=name)
        root = self._tree.to_dataset()
        return xr.DataTree.from_dict({"/": root, **nodes}, name=self._tree.name)


class OfArrays(Generic[Data]):
    """`array.nnblip`, of a `Dataset` or `DataArray` with the coordinates `token_text` and `role` on its tokens."""

    def __init__(self, data: Data) -> None:
        self._data: Data = data

    def token(self, text: str) -> Data:
        """The array at one word of its questions, as `OfTree.token`. Raises `ResultError` likewise."""
        return _at(self._data, text, _names(self._data))

    def role(self, name: str) -> Data:
        """The mean of the array over the words of a role, as `OfTree.role`. Raises `ResultError` likewise."""
        data: Any = self._data
        if isinstance(data, xr.DataArray):
            kept = data.name
            return OfArrays(data.to_dataset(name="values")).role(name)["values"].rename(kept)  # type: ignore[return-value]
        found = OfTree(xr.DataTree.from_dict({f"/{_NODE}": data})).role(name)
        return found[_NODE].to_dataset()  # type: ignore[return-value]


def _of_question(path: str, node: xr.DataTree) -> bool:
    """Whether a node has question tokens; of a tree that is a single node, whatever tokens it has."""
    own = path == "." or path.startswith(_NODE)
    texts = node.coords.get("token_text")
    return own and texts is not None and "token" in texts.dims


def _names(data: Any) -> Sequence[str]:
    """Of its examples, for a message."""
    return [str(name) for name in np.atleast_1d(data.coords["example"].values)] if "example" in data.coords else []


def _at(data: Data, word: str, names: Sequence[str]) -> Data:
    """The data at a word, in each example at its place."""
    texts = data.coords.get("token_text")
    if texts is None or "token" not in texts.dims:
        raise ResultError(
            "the array has no token_text on its tokens: expected one with the dimension token, of a trace"
        )
    if not isinstance(word, str) or not word.strip():
        raise ResultError(f"token {word!r:.100}: expected a word of the question")
    several = "example" in texts.dims
    rows = texts.transpose(..., "token").values.reshape(-1, texts.sizes["token"]).tolist()
    places = []
    for number, row in enumerate(rows):
        tokens = [text if isinstance(text, str) else "" for text in row]
        where = f"example {names[number]!r}" if number < len(names) else repr(" ".join(filter(None, tokens)))
        found = positions(tokens, word, ResultError, where)
        if len(found) > 1:
            raise ResultError(
                f"token {word!r}: it has {len(found)} pieces in {where}, {spelt(tokens, found)};"
                f" choose by position, .isel(token={found})"
            )
        places.append(found[0])
    if not several or len(set(places)) == 1:
        return data.isel(token=places[0])
    return data.isel(token=xr.DataArray(places, dims="example"))


xr.register_datatree_accessor("nnblip")(OfTree)
xr.register_dataset_accessor("nnblip")(OfArrays)
xr.register_dataarray_accessor("nnblip")(OfArrays)
