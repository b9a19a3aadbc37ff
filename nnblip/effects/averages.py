"""Averages over questions that differ: by the role of a word, and by the type of a question.

Both take a result, or a tree of effects made of one, and can follow each other. `effects` has them too.
Numbers are read a block of examples at a time and not kept: `by_type` takes a sweep's tree that is larger
than memory; what `by_role` returns has all examples and draws, and is about as large as what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.effects.numbers import group_intervals, mean_groups, mean_known
from nnblip.effects.reading import groups_of, listed, root_of, spoken, with_nodes, without
from nnblip.effects.units import RANGES
from nnblip.errors import ResultError, SettingError
from nnblip.results import VARIABLES
from nnblip.roles import ROLES, RoleFunction, Rules
from nnblip.sites import HEADS_NODE

#: The component whose tokens are the question's, and whose roles a function can replace.
QUESTION = "question_encoder"
#: About so many bytes are read at once.
READ_BYTES = 2**24

# ---- roles -----------------------------------------------------------------------------------


def with_roles(tree: xr.DataTree, roles: RoleFunction | None = None) -> xr.DataTree:
    """The same result with other roles of the question's tokens, without tracing again.

    Args:
        tree: a result, or a tree of effects; stored ones stay unread.
        roles: a function from a question's tokens to a role for each, "" for none; the rules of
            `nnblip.roles` if None. It is called once for each different question.

    Returns:
        The tree with a new coordinate `role` in `/question_encoder` and its heads; the attribute
        `roles` names the function.

    Raises:
        NnblipError: if `roles` is no function or does not return one text for each token, or the
            tree has no question tokens.
    """
    rules, root = Rules.of(roles), root_of(tree)
    nodes = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    changed = [
        name for name in nodes if name in (QUESTION, QUESTION + HEADS_NODE) and "token_text" in nodes[name].coords
    ]
    if not changed:
        raise ResultError(
            f"the result has no tokens to give roles to: expected /{QUESTION} with the coordinate token_text, and"
            f" found {listed(tree, dims=True)}. Trace {QUESTION}, and give roles before by_role."
        )
    for name in changed:
        texts = _texts(nodes[name]["token_text"])
        given = np.full(texts.shape, "", object)
        for at in np.ndindex(texts.shape[:-1]):
            tokens = tuple(texts[at][texts[at] != ""].tolist())
            if tokens not in found:
                found[tokens] = rules(tokens)
            given[at][texts[at] != ""] = found[tokens]
        nodes[name] = nodes[name].assign_coords(role=(nodes[name]["token_text"].dims, given.astype(str)))
    root = root.assign_attrs(roles=repr(rules))
    return xr.DataTree.from_dict({"/": root, **nodes}, name=tree.name)


def by_role(tree: xr.DataTree, roles: RoleFunction | None = None) -> xr.DataTree:
    """Mean over the tokens of each role within each example, so that questions of any length compare.

    The pieces of one word ("##") count as one: first the mean over its pieces, which have the role of
    its first; then the mean over the words of a role. NaN is left out, and an example without any word
    of a role has NaN there. Of effects it is the same as the effects of it.

    Args:
        tree: a result, or a tree of effects such as `indirect_effect(result)`.
        roles: see `with_roles`; the roles of the result if None.

    Returns:
        A tree of the same nodes, in which `role` stands in the place of `token`, with a coordinate
        `count`: how many examples have the role. Roles stand in the order of `nnblip.roles.ROLES`; those
        of another function in the order of their mean position. The image encoder's roles are
        "[CLS]" and "image", the answer decoder's "[DEC]" and "answer word". Nodes without tokens
        (`/clean`, `/corrupted`, `/cells`) stay as they are.

    Raises:
        NnblipError: as `with_roles`; if a node with tokens has no roles, or no node has tokens.
    """
    tree = tree if roles is None else with_roles(tree, roles)
    root_of(tree)
    nodes = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    with_tokens = [name for name, node in nodes.items() if "token" in node.dims]
    if not with_tokens:
        raise ResultError(
            f"no node has the dimension token; found {listed(tree, dims=True)}. Average by role before the tokens are"
            " gone."
        )
    return with_nodes(tree, nodes | {name: _by_role(name, nodes[name]) for name in with_tokens})


def _by_role(name: str, node: xr.Dataset) -> xr.Dataset:
    if "role" not in node.coords or "token" not in node["role"].dims:
        remedy = ", or give the rules: by_role(tree, roles=nnblip.roles.roles)" if name.startswith(QUESTION) else ""
        raise ResultError(
            f"node /{name} has no coordinate role on its tokens, as every trace gives one: average by role before"
            f" averaging over examples{remedy}."
        )
    role = np.atleast_2d(_texts(node["role"]))  # (example, token); a single example has no dimension of its own
    texts = np.atleast_2d(_texts(node["token_text"])) if "token_text" in node.coords else role
    word, role = _words(texts, role)
    labels = _in_order(role)
    of_word = np.full(role.shape, -1, np.intp)
    for number, label in enumerate(labels):
        of_word[role == label] = number
    examples = "example" in node["role"].dims
    data = {}
    for key, values in node.data_vars.items():
        if "token" not in values.dims:
            data[key] = values.variable
            continue
        inner = [dim for dim in values.dims if dim not in ("example", "token")]
        outer = ["example"] if examples else []
        if "example" in values.dims and not examples:
            inner.append("example")
        shape = [values.sizes[dim] for dim in (*outer, *inner)]
        means = np.empty((len(labels), *shape), np.result_type(values.dtype, np.float16))
        for rows, numbers in _blocks(values, ("token", *outer, *inner), parted=examples):
            # the pieces of a word have its number, then words have the number of their role
            flat = numbers.reshape(len(numbers), len(word[rows]), -1)
            words = mean_groups(flat, word[rows].T, word.shape[1])
            averaged = mean_groups(words, of_word[rows].T, len(labels))
            target = means[:, rows] if examples else means
            target[...] = averaged.reshape(target.shape)
        dims = tuple("role" if dim == "token" else dim for dim in values.dims)
        data[key] = xr.Variable(("role", *outer, *inner), means, values.attrs).transpose(*dims)
    present = (of_word[:, :, None] == np.arange(len(labels))).any(1).sum(0)
    count = xr.Variable("role", present, {"long_name": "examples that have the role"})
    coords = {key: value.variable for key, value in node.coords.items() if "token" not in value.dims}
    return xr.Dataset(data, {**coords, "role": labels, "count": count}, node.attrs)


def _words(texts: NDArray[Any], role: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """The number of each token's word within its example, -1 for padding; and the role of each word, "" for none."""
    padding = texts == ""
    begins = ~np.char.startswith(texts.astype(str), "##") & ~padding
    begins[:, :1] |= ~padding[:, :1]
    word = np.where(padding, -1, np.cumsum(begins, 1) - 1)
    of_word = np.full(role.shape, "", object)
    rows, tokens = np.nonzero(begins)
    of_word[rows, word[rows, tokens]] = role[rows, tokens]
    return word, of_word


def _in_order(role: NDArray[Any]) -> list[str]:
    """The roles that occur, see `by_role`."""
    present = set(role.ravel().tolist()) - {""}
    if present <= set(ROLES):
        return [label for label in ROLES if label in present]
    return sorted(present, key=lambda label: (np.nonzero(role == label)[1].mean(), label))


# ---- types -----------------------------------------------------------------------------------


def by_type(tree: xr.DataTree | xr.Dataset, by: str = "question_type", level: float = 0.95) -> xr.DataTree | xr.Dataset:
    """Mean over the examples of each type of question, with intervals over examples.

    Examples are the independent units, as in `effects.mean_interval`: draws are averaged within each
    example first, and the interval is Student's t over the examples' means. NaN (an undefined
    relevance, a role that a question has not, an example that failed) is left out. The bounds of
    probabilities end at 0 and 1, those of effects on them at -1 and 1. They are NaN where fewer than
    eight examples are known: draws say nothing about other examples, and of few that are skewed no
    interval holds. `effects.interval(..., by=)` has bounds that hold better for
    skewed effects, and reads everything at once.

    Args:
        tree: a result, a tree of effects, `by_role` of either, or the Dataset of `gamma`.
        by: any coordinate on `example`.
        level: of confidence.

    Returns:
        A tree of the same nodes (a Dataset if given one) in which the dimension `by` stands in the place of
        `example`, and `draw` is gone. Each variable, such as `probability`, is the mean; beside it are
        `probability_low`, `probability_high` and `probability_count`: the bounds, and how many examples
        the mean is of. The coordinate `count` says how many examples are of a type at all. Types are
        sorted; examples without one are the last, "" (NaN if types are numbers).

    Raises:
        NnblipError: if there is no such coordinate on `example`, or `level` is not between 0 and 1.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0 < level < 1:
        raise SettingError(f"level is {level!r}: expected a number between 0 and 1, such as 0.95.")
    root = tree if isinstance(tree, xr.Dataset) else root_of(tree)
    group, groups, coords = groups_of(root, by)
    result = not isinstance(tree, xr.Dataset) and {"clean", "corrupted"} <= {*tree.children}
    if isinstance(tree, xr.Dataset):
        return _by_type(tree, by, group, groups, level, result).assign_coords(coords).assign_attrs(level=level)
    nodes = {
        name: _by_type(node.to_dataset(inherit=False), by, group, groups, level, result)
        for name, node in tree.children.items()
    }
    root = without(root, "example", "draw").assign_coords(coords).assign_attrs(level=level)
    return xr.DataTree.from_dict({"/": root, **nodes}, name=tree.name)


def _by_type(
    node: xr.Dataset, by: str, group: NDArray[np.intp], groups: int, level: float, result: bool
) -> xr.Dataset:  # fmt: skip
    data: dict[Any, xr.Variable] = {}
    for key, values in node.data_vars.items():
        if "example" not in values.dims:
            data[key] = values.variable
            continue
        inner = [dim for dim in values.dims if not _gone((dim,))]
        units = np.empty([values.sizes[dim] for dim in ("example", *inner)])
        draw = ("draw",) if "draw" in values.dims else ()
        for rows, numbers in _blocks(values, ("example", *draw, *inner), parted=True):
            units[rows] = mean_known(numbers, 1) if draw else numbers
        dims = tuple(by if dim == "example" else dim for dim in values.dims if dim != "draw")
        mean = f"mean of {values.attrs.get('long_name', spoken(str(key)))}"
        said = {
            f"{key}": values.attrs | {"long_name": mean},
            f"{key}_low": values.attrs | {"long_name": f"lower bound ({100 * level:g} %) of the {mean}"},
            f"{key}_high": values.attrs | {"long_name": f"upper bound ({100 * level:g} %) of the {mean}"},
            f"{key}_count": {"long_name": f"examples behind the {mean}"},
        }
        bounds = group_intervals(units, group, groups, level, MIN_EXAMPLES)
        possible = _range(str(key), values, result)
        for (name, attrs), numbers in zip(said.items(), bounds, strict=True):
            if name.endswith(("_low", "_high")):
                numbers = np.clip(numbers, *possible)
            data[name] = xr.Variable((by, *inner), numbers, attrs).transpose(*dims)
    # `count` of by_role is of all types together
    coords = {key: c.variable for key, c in node.coords.items() if not _gone(c.dims) and key != "count"}
    return xr.Dataset(data, coords, node.attrs)


def _range(key: str, values: xr.DataArray, result: bool) -> tuple[float, float]:
    """Between which numbers a mean can lie: of probabilities and effects on them, and without end for all else."""
    if key != VARIABLES[0]:
        return -np.inf, np.inf
    if result:
        return RANGES["probability"]
    effect = " effect on probability" in str(values.attrs.get("long_name"))
    return RANGES["total_effect"] if effect else (-np.inf, np.inf)


def _gone(dims: tuple[Any, ...]) -> bool:
    return bool({"example", "draw"} & set(dims))


# ---- reading ---------------------------------------------------------------------------------


def _blocks(values: xr.DataArray, dims: tuple[Any, ...], parted: bool) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The numbers with their dimensions in this order: a block of examples at a time if parted, of whole stored chunks.

    What is read is not kept in the tree.
    """
    variable = values.variable.copy(deep=False)  # has a cache of its own
    examples = variable.sizes["example"] if parted else 1
    chunks = variable.encoding.get("chunks")
    chunk = chunks[variable.dims.index("example")] if parted and chunks and len(chunks) == variable.ndim else 1
    fits = READ_BYTES // max(1, variable.nbytes // max(1, examples))
    step = max(1, fits // chunk) * chunk
    for start in range(0, examples, step):
        rows = slice(start, start + step)
        # read first: zarr reads what is transposed number by number
        read = variable.isel(example=rows).values if parted else variable.values
        yield rows, read.transpose([variable.dims.index(dim) for dim in dims])


def _texts(labels: xr.DataArray) -> NDArray[Any]:
    """Texts as objects with the token last, "" for what is none."""
    found = labels.transpose(..., "token").values.astype(object)
    return np.where(np.frompyfunc(lambda text: isinstance(text, str), 1, 1)(found).astype(bool), found, "")
