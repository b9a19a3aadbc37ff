"""Small results made of random numbers, for the tests of effects and plots."""

import numpy as np
import xarray as xr

VARIABLES = ("probability", "log_probability", "logit_difference")
QUESTIONS = (
    ["[CLS]", "what", "is", "the", "color", "of", "the", "ball", "left", "of", "the", "box", "[SEP]"],
    ["[CLS]", "how", "many", "red", "balls", "[SEP]"],
    ["[CLS]", "where", "is", "the", "dog", "[SEP]"],
)
ANSWERS = (["[DEC]"], ["[DEC]", "twenty", "##one"], ["[DEC]", "on"])


def random_tree(
    seed=0,
    examples=3,
    nus=(1.0, 5.0),
    draws=4,
    kinds=("block", "crossattention"),
    layers=12,
    dtype="float64",
    clean=(0.75, 0.95),
    corrupted=(0.1, 0.5),
):
    """A result as `causal_trace` makes it: every number is random, padding is NaN."""
    rng = np.random.default_rng(seed)
    count = len(nus)
    names = [f"example-{i}" for i in range(examples)]
    questions = [QUESTIONS[i % len(QUESTIONS)] for i in range(examples)]
    answers = [ANSWERS[i % len(ANSWERS)] for i in range(examples)]
    root = xr.Dataset(
        coords={
            "example": names,
            "nu": np.asarray(nus, dtype=float),
            "draw": np.arange(draws),
            "question": ("example", [" ".join(tokens[1:-1]) for tokens in questions]),
            "answer": ("example", [("red", "twenty-one", "on")[i % 3] for i in range(examples)]),
        },
        attrs={"model": "random", "seed": seed},
    )

    def node(shape, dims, low, high, coords=None, lengths=None):
        data = {}
        probability = rng.uniform(low, high, shape)
        values = (probability, np.log(probability), rng.normal(4 * (low + high), 1, shape))
        for name, numbers in zip(VARIABLES, values, strict=True):
            if lengths is not None:
                for i, length in enumerate(lengths):
                    numbers[i, ..., length:] = np.nan
            data[name] = (dims, numbers.astype(dtype), {"units": "1"})
        return xr.Dataset(data, coords=coords, attrs={"about": "a node"})

    def component(tokens):
        lengths = [len(row) for row in tokens]
        longest = max(lengths)
        coords = {
            "kind": list(kinds),
            "layer": np.arange(layers),
            "token": np.arange(longest),
            "token_text": (("example", "token"), [row + [""] * (longest - len(row)) for row in tokens]),
        }
        shape = (examples, count, draws, len(kinds), layers, longest)
        dims = ("example", "nu", "draw", "kind", "layer", "token")
        return node(shape, dims, corrupted[0], clean[1], coords, lengths)

    return xr.DataTree.from_dict(
        {
            "/": root,
            "/clean": node((examples,), ("example",), *clean),
            "/corrupted": node((examples, count, draws), ("example", "nu", "draw"), *corrupted),
            "/question_encoder": component(questions),
            "/answer_decoder": component(answers),
        }
    )


def regions_tree(grid=(2, 3), layers=(3,), path="", **settings):
    """A result with `/image_encoder`, as `components=["image_encoder"], regions=grid` makes it."""
    tree = random_tree(kinds=("block",), **settings)
    rng = np.random.default_rng(1)
    tokens = 1 + grid[0] * grid[1]
    shape = tuple(tree.sizes[dim] for dim in ("example", "nu", "draw")) + (1, len(layers), tokens)
    dims = ("example", "nu", "draw", "kind", "layer", "token")
    coords = {"kind": ["block"], "layer": list(layers), "token": np.arange(tokens)}
    node = xr.Dataset({name: (dims, rng.uniform(0.1, 0.9, shape)) for name in VARIABLES}, coords, {"grid": list(grid)})
    tree["image_encoder"] = xr.DataTree(node)
    tree.dataset = tree.to_dataset().assign_coords(image=("example", [str(path)] * tree.sizes["example"]))
    return tree


def set_probability(tree, **nodes):
    """A copy of the tree with the probability of some nodes replaced, broadcast to their shape."""
    tree = tree.copy(deep=True)
    for name, values in nodes.items():
        tree[name]["probability"].values[...] = values
    return tree


def said(tree):
    """Every text in a result: attributes of nodes and variables, names, and what variables hold."""
    found = []
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        found += [node.path, dataset.attrs, dataset.encoding]
        for name, variable in dataset.variables.items():
            texts = variable.values.ravel().tolist() if variable.dtype.kind in "OSTU" else []
            found += [name, variable.attrs, variable.encoding, *texts]
    return "\n".join(map(str, found))
