"""Results with cells of several sites, edges, knock-outs and roles, for the tests of figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from helpers.trees import random_tree
from nnblip import results
from nnblip.edges import describe_knock_out
from nnblip.paths import Edge, describe_edge
from nnblip.roles import roles
from nnblip.sites import Extent, Site, pairs

EXTENT = Extent(3, 6, 2, 2, image_layers=2, side=4, roles=("", "question word", "noun", "noun", "", ""))
DIMS = ("example", "nu", "draw", "edge")


def with_list(tree: xr.DataTree, node: str, cells: list[Any], numbers: np.ndarray) -> xr.DataTree:
    listed = [describe_edge(cell) if isinstance(cell, Edge) else describe_knock_out(cell, 3) for cell in cells]
    dims = DIMS if node == "edges" else ("example", "knock_out")
    data = {name: (dims, numbers.copy()) for name in results.VARIABLES}
    tree[node] = xr.DataTree(xr.Dataset(data, results.list_coords(node, listed)))
    return tree


def cut_tree(family: Any, examples: int = 1) -> tuple[xr.DataTree, list[Any]]:
    cells = family(EXTENT)
    numbers = np.random.default_rng(0).uniform(0.1, 0.9, (examples, len(cells)))
    return with_list(random_tree(examples=examples, nus=(5.0,), layers=3), "knock_outs", cells, numbers), cells


def edge_tree(edges: list[Edge], values: list[float], examples: int = 1, draws: int = 12, spread: float = 0.001):
    """Edges with these indirect effects, which vary a little from draw to draw."""
    tree = random_tree(examples=examples, nus=(5.0,), layers=3, draws=draws)
    tree.attrs["layers"] = 3
    noise = np.random.default_rng(1).normal(0, spread, (examples, 1, draws, len(edges)))
    noise -= noise.mean((0, 2), keepdims=True)
    corrupted = tree["corrupted"].probability.values[..., None]
    return with_list(tree, "edges", edges, corrupted + np.array(values) + noise * (np.array(values) != 0))


def of_text(*given: Any) -> Site:
    return Site("question_encoder", *given)


EDGES = [
    Edge(of_text("crossattention_out", 0, 2), of_text("attention_out", 1, 3), "value"),
    Edge(of_text("crossattention_out", 0, 2), of_text("attention_out", 1, 3), "key"),
    Edge(of_text("attention_head", 0, 3, 1), of_text("mlp_out", 2, 3), "mlp"),
    Edge([Site("image_encoder", layer=1, token=k) for k in (1, 2, 5, 6)],
         of_text("crossattention_head", 0, 2, 0), "value"),
    Edge(of_text("block", 2, 3), Site("answer_decoder", "crossattention_out", 1, 0), "value"),
    Edge(of_text("mlp_out", 0, 1), of_text("attention_out", 1, 1), "query"),
]  # fmt: skip
VALUES = [0.3, -0.2, 0.1, 0.05, 0.0, 0.02]


def with_roles(tree):
    """Question types, and roles as a trace gives them."""
    count = tree.sizes["example"]
    types = ["color", "number", "location"]
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", [types[i % 3] for i in range(count)]))
    for name in ("question_encoder", "answer_decoder"):
        node = tree[name].to_dataset(inherit=False)
        given = np.full(node["token_text"].shape, "", object)
        for row in range(count):
            words = [text for text in node["token_text"].values[row] if text]
            own = roles(words) if name == "question_encoder" else ["[DEC]"] + ["answer word"] * (len(words) - 1)
            given[row, : len(words)] = own
        tree[name].dataset = node.assign_coords(role=(("example", "token"), given.astype(str)))
    return tree


def pair_tree(examples=1, draws=12):
    """Three states of the question encoder and two of the answer decoder, of which the later replaces the earlier."""
    sites = [Site("question_encoder", "block", layer, 2) for layer in range(3)]
    sites += [Site("answer_decoder", "block", layer, 0) for layer in (0, 1)]
    cells = [tuple(cell) for cell in pairs(sites)]
    tree = random_tree(examples=3 * examples, nus=(5.0,), draws=draws, kinds=("block",), layers=3)
    tree = tree.isel(example=slice(0, None, 3))  # of one question
    rng = np.random.default_rng(3)
    corrupted = tree["corrupted"].probability.values[..., None]
    numbers = corrupted + rng.normal(0.05, 0.08, (examples, 1, draws, len(cells)))
    replaced = next(i for i, cell in enumerate(cells) if set(cell) == set(sites[3:]))
    later = next(i for i, cell in enumerate(cells) if cell == (sites[4],))
    numbers[..., replaced] = numbers[..., later]
    said = results.list_coords("cells", [results.listed(cell, 3) for cell in cells])
    data = {name: (("example", "nu", "draw", "cell"), numbers.copy()) for name in results.VARIABLES}
    tree["cells"] = xr.DataTree(xr.Dataset(data, said))
    return tree
