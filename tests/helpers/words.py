"""Results made of random numbers whose questions have words of several pieces, roles and types."""

import numpy as np
import xarray as xr
from hypothesis import settings
from hypothesis import strategies as st

from helpers.trees import VARIABLES, random_tree
from nnblip import results
from nnblip.roles import answer_roles, roles

SMALL = {"layers": 2, "draws": 2, "kinds": ("block",)}
#: The word of six pieces and the one of two have to count once.
QUESTIONS = (
    "[CLS] what color is the gi ##raf ##fe ? [SEP]",
    "[CLS] how many sk ##ate ##board ##s are left of the dog [SEP]",
    "[CLS] is there a num ##ber [SEP]",
    "[CLS] the cat [SEP]",
)
TYPES = ("color", "number", "", "color", "object")
ENDINGS = ("_low", "_high", "_count")
quick = settings(max_examples=25, deadline=None)


def padded(rows):
    width = max(map(len, rows))
    return ("example", "token"), [[*row, *[""] * (width - len(row))] for row in rows]


def typed(tree, types=TYPES):
    tree = tree.copy()
    types = [types[i % len(types)] for i in range(tree.sizes["example"])]
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", types))
    return tree


def result(examples=3, seed=0, **changes):
    """A random result with question tokens of several pieces, roles and types, as `causal_trace` makes it."""
    tree = typed(random_tree(seed=seed, examples=examples, **(SMALL | changes)))
    questions = [QUESTIONS[i % len(QUESTIONS)].split() for i in range(examples)]
    rng, sizes = np.random.default_rng(seed), tree["question_encoder"].probability.sizes
    dims = results.COMPONENT_DIMS
    shape = [sizes[dim] for dim in dims[:-1]] + [max(map(len, questions))]
    numbers = {name: rng.uniform(0.1, 0.9, shape) for name in VARIABLES}
    for i, tokens in enumerate(questions):
        for values in numbers.values():
            values[i, ..., len(tokens) :] = np.nan
    tree["question_encoder"] = xr.DataTree(
        xr.Dataset(
            {name: (dims, values, {"units": "1"}) for name, values in numbers.items()},
            {
                "kind": ["block"],
                "layer": np.arange(SMALL["layers"]),
                "token": np.arange(shape[-1]),
                "token_text": padded(questions),
                "role": padded([roles(tokens) for tokens in questions]),
            },
            {"about": "a node"},
        )
    )
    answer = tree["answer_decoder"].to_dataset(inherit=False)
    texts = [[text for text in row if text] for row in answer.token_text.values.tolist()]
    tree["answer_decoder"] = xr.DataTree(answer.assign_coords(role=padded([answer_roles(row) for row in texts])))
    return tree


trees = st.builds(
    result, examples=st.integers(1, 5), seed=st.integers(0, 1000), nus=st.sampled_from([(5.0,), (1.0, 5.0)])
)


def holes(tree, seed):
    """NaN in single tokens, as an undefined relevance has."""
    rng = np.random.default_rng(seed)
    for name in ("question_encoder", "answer_decoder"):
        values = tree[name]["probability"].values
        values[rng.random(values.shape) < 0.3] = np.nan
    return tree
