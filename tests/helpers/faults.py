"""A result without a fault, and results with one each, for the tests and the calibration of the diagnoses.

The sound one: effects are a share of each draw's total effect that depends on layer and token, and a little noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

VARIABLES = ("probability", "log_probability", "logit_difference")
OUTER = ("example", "nu", "draw")
#: Shares of the total effect: the question's fourth token from layer 2 on, and some of the others.
LAYERS, TOKENS = 6, 7


def shares(rng: np.random.Generator) -> np.ndarray:
    """(layer, token): grows over layers at two tokens, and is small elsewhere."""
    found = rng.uniform(-0.02, 0.12, (LAYERS, TOKENS))
    found[:, 3] = np.linspace(0.1, 0.8, LAYERS) ** 2 / 0.8
    found[:, 5] = np.linspace(0.02, 0.5, LAYERS)
    return found


def three(probability: np.ndarray, dims: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """All variables that belong to probabilities, with one other answer."""
    with np.errstate(divide="ignore"):
        log = np.log(probability)
        numbers = (probability, log, log - np.log1p(-probability))
    return dict(zip(VARIABLES, ((dims, one) for one in numbers), strict=True))


def sound(examples: int = 10, nus: tuple[float, ...] = (1.0,), draws: int = 16, seed: int = 0) -> xr.DataTree:
    """A result in which there is nothing to find but what is so by construction."""
    rng = np.random.default_rng(seed)
    outer = (examples, len(nus), draws)
    clean = rng.uniform(0.9, 0.97, examples)
    corrupted = rng.uniform(0.25, 0.55, outer)
    total = clean[:, None, None] - corrupted

    def restored(share: np.ndarray) -> np.ndarray:
        """(example, nu, draw, kind, layer, token)."""
        cells = share + rng.normal(0, 0.01, (*outer, *share.shape))
        return (corrupted[..., None, None] + cells * total[..., None, None])[:, :, :, None]

    answer = np.linspace(0.1, 1, LAYERS)[:, None] ** 2
    decoder = restored(answer)
    decoder[..., -1, 0] = clean[:, None, None, None]
    maps = {"question_encoder": restored(shares(rng)), "answer_decoder": decoder}
    nodes = {}
    for name, numbers in maps.items():
        texts = ["[DEC]"] if name == "answer_decoder" else [f"word{k}" for k in range(TOKENS)]
        coords = {
            "kind": ["block"], "layer": np.arange(LAYERS), "token": np.arange(numbers.shape[-1]),
            "token_text": (("example", "token"), [texts] * examples),
        }  # fmt: skip
        nodes[f"/{name}"] = xr.Dataset(three(numbers, (*OUTER, "kind", "layer", "token")), coords)
    damage = {
        "norm_ratio": (OUTER, rng.uniform(0.85, 0.95, outer)),
        "entropy_change": (OUTER, rng.uniform(0, 0.1, outer)),
    }
    words = ["red", "two", "dog", "yes"]
    said = [words[k % 4] for k in range(examples)]
    root = {
        "example": [f"q{k}" for k in range(examples)], "nu": np.array(nus), "draw": np.arange(draws),
        "question": ("example", ["what is it"] * examples),
        "answer": ("example", said), "predicted": ("example", said),
    }  # fmt: skip
    attrs = {"dtype": "float32", "layers": LAYERS, "noise": "Shuffle()", "direction": "denoising"}
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=root, attrs=attrs),
            "/clean": xr.Dataset(three(clean, OUTER[:1])),
            "/corrupted": xr.Dataset(three(corrupted, OUTER)).assign_coords(damage),
            **nodes,
        }
    )


def put(tree: xr.DataTree, **nodes: np.ndarray) -> xr.DataTree:
    """Other probabilities in some nodes, and the other variables that belong to them."""
    tree = tree.copy(deep=True)
    for name, numbers in nodes.items():
        for key, (dims, values) in three(np.asarray(numbers), tree[name]["probability"].dims).items():
            assert tree[name][key].dims == dims
            tree[name][key].values[...] = values
    return tree


def probabilities(tree: xr.DataTree, *names: str) -> list[np.ndarray]:
    return [tree[name]["probability"].values.copy() for name in names]


def scaled(tree: xr.DataTree, by: float) -> xr.DataTree:
    """Indirect effects so many times as large, but for the decoder's last layer, which is the answer."""
    before, question, decoder = probabilities(tree, "corrupted", "question_encoder", "answer_decoder")
    base = before[..., None, None, None]
    decoder[..., :-1, :] = base + by * (decoder[..., :-1, :] - base)
    return put(tree, question_encoder=base + by * (question - base), answer_decoder=decoder)


# ---- one fault each --------------------------------------------------------------------------


def weak(tree: xr.DataTree) -> xr.DataTree:
    clean, before, *maps = probabilities(tree, "clean", "corrupted", "question_encoder", "answer_decoder")
    total = (clean[:, None, None] - before)[..., None, None, None]
    shares = [(one - before[..., None, None, None]) / total for one in maps]
    after = clean[:, None, None] - 0.065 * (clean[:, None, None] - before) / (clean[:, None, None] - before).mean()
    base, left = after[..., None, None, None], (clean[:, None, None] - after)[..., None, None, None]
    question, decoder = (base + share * left for share in shares)
    return put(tree, corrupted=after, question_encoder=question, answer_decoder=decoder)


def saturated(tree: xr.DataTree) -> xr.DataTree:
    clean, question, decoder = probabilities(tree, "clean", "question_encoder", "answer_decoder")
    rng = np.random.default_rng(1)
    after = rng.uniform(1e-5, 1e-4, tree["corrupted"]["probability"].shape)
    base = after[..., None, None, None]
    rank = np.linspace(0.02, 1, question.shape[-1] * question.shape[-2]).reshape(question.shape[-2:])
    decoder[..., :-1, :] = base + 0.5 * np.linspace(0.1, 1, LAYERS - 1)[:, None]
    decoder[..., -1, :] = clean[:, None, None, None, None]
    return put(tree, corrupted=after, question_encoder=base * (1 + 9 * rank), answer_decoder=decoder)


def far(tree: xr.DataTree) -> xr.DataTree:
    tree = tree.copy(deep=True)
    coords = {"norm_ratio": tree["corrupted"].norm_ratio * 6, "entropy_change": tree["corrupted"].entropy_change - 0.5}
    tree["corrupted"].dataset = tree["corrupted"].to_dataset(inherit=False).assign_coords(coords)
    return tree


def undefined(tree: xr.DataTree) -> xr.DataTree:
    clean, before, question, decoder = probabilities(tree, "clean", "corrupted", "question_encoder", "answer_decoder")
    before[:5] = clean[:5, None, None]
    question[:5] = clean[:5, None, None, None, None, None]
    decoder[:5] = clean[:5, None, None, None, None, None]
    return put(tree, corrupted=before, question_encoder=question, answer_decoder=decoder)


def unstable(tree: xr.DataTree) -> xr.DataTree:
    """Half of the draws restore what the others take away, of every cell alike."""
    tree = tree.isel(example=[0])
    before, question, decoder = probabilities(tree, "corrupted", "question_encoder", "answer_decoder")
    sign = np.where(np.arange(tree.sizes["draw"]) % 2, 2.0, -1.4)[:, None, None, None]
    base = before[..., None, None, None]
    decoder[..., :-1, :] = base + 0.3 * sign * (decoder[..., :-1, :] - base)
    return put(tree, question_encoder=base + 0.3 * sign * (question - base), answer_decoder=decoder)


def one_draw(tree: xr.DataTree) -> xr.DataTree:
    """The damage hurts in one draw, and hardly in the others."""
    return hurt(tree.isel(example=[0], draw=slice(12)), np.arange(12) == 0)


def one_example(tree: xr.DataTree) -> xr.DataTree:
    """The damage hurts one example, and hardly the others."""
    return hurt(tree, (np.arange(tree.sizes["example"]) == 0)[:, None, None])


def hurt(tree: xr.DataTree, where: np.ndarray) -> xr.DataTree:
    """Total effects of 0.06 but for some, with the same shares of them restored."""
    clean, before, question, decoder = probabilities(tree, "clean", "corrupted", "question_encoder", "answer_decoder")
    total = (clean[:, None, None] - before)[..., None, None, None]
    parts = [(one - before[..., None, None, None]) / total for one in (question, decoder)]
    after = clean[:, None, None] - np.where(where, 0.85, 0.06)
    left = (clean[:, None, None] - after)[..., None, None, None]
    question, decoder = (np.clip(after[..., None, None, None] + part * left, 1e-3, 0.999) for part in parts)
    return put(tree, corrupted=after, question_encoder=question, answer_decoder=decoder)


def flat(tree: xr.DataTree) -> xr.DataTree:
    clean, before, question = probabilities(tree, "clean", "corrupted", "question_encoder")
    total = (clean[:, None, None] - before)[..., None, None, None]
    rng = np.random.default_rng(2)
    part = np.linspace(0.1, 0.5, TOKENS) + 0 * question + rng.normal(0, 0.01, (LAYERS, TOKENS))
    return put(tree, question_encoder=before[..., None, None, None] + part * total)


def harmful(tree: xr.DataTree) -> xr.DataTree:
    """Three states that take nearly all of what was left."""
    before, question = probabilities(tree, "corrupted", "question_encoder")
    question[..., 0, 2, :3] = 0.05 * before[..., None]
    return put(tree, question_encoder=question)


def by_metric(tree: xr.DataTree) -> xr.DataTree:
    """By the logit difference the order of the cells is turned round."""
    tree = tree.copy(deep=True)
    before = tree["corrupted"]["logit_difference"].values[..., None, None, None]
    values = tree["question_encoder"]["logit_difference"].values
    values[...] = before - (values - before)
    return tree


def by_noise(tree: xr.DataTree) -> xr.DataTree:
    """Another noise, under which other cells restore."""
    question = tree["question_encoder"]["probability"].values
    return put(tree, question_encoder=question[..., ::-1, ::-1])


def by_chance(tree: xr.DataTree) -> xr.DataTree:
    """Which cells restore differs from draw to draw."""
    clean, before, question = probabilities(tree, "clean", "corrupted", "question_encoder")
    total = (clean[:, None, None] - before)[..., None, None, None]
    rng = np.random.default_rng(3)
    part = 0.2 + rng.normal(0, 0.25, question.shape)
    part += np.linspace(-0.15, 0.15, LAYERS)[:, None]  # layers differ
    return put(tree, question_encoder=np.clip(before[..., None, None, None] + part * total, 1e-3, 0.999))


def few_draws(tree: xr.DataTree) -> xr.DataTree:
    return tree.isel(example=[0], draw=slice(3))


def wrong(tree: xr.DataTree) -> xr.DataTree:
    said = np.where(np.arange(tree.sizes["example"]) < 4, "a cat", tree.answer.values)
    tree = tree.copy(deep=True)
    tree.dataset = tree.to_dataset().assign_coords(predicted=("example", said))
    return tree


def first_token(tree: xr.DataTree) -> xr.DataTree:
    """An answer of two tokens of which the second follows from the first."""
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    one = nodes["answer_decoder"].drop_vars("token_text")
    two = one.assign_coords(token=[1]).copy(deep=True)
    before = nodes["corrupted"]
    for name in VARIABLES:
        two[name].values[...] = before[name].values[..., None, None, None] + 0 * two[name].values
    nodes["answer_decoder"] = xr.concat([one, two], "token")
    return xr.DataTree.from_dict({"/" if path == "." else path: node for path, node in nodes.items()})


def vanished(tree: xr.DataTree) -> xr.DataTree:
    """An answer whose probability float32 cannot hold."""
    tree = tree.copy(deep=True)
    for node in tree.children.values():
        node["log_probability"].values[...] -= 100
        node["probability"].values[...] *= np.exp(-100)
    return tree


def sure(tree: xr.DataTree) -> xr.DataTree:
    """A clean probability that float32 cannot tell from 1."""
    clean = tree["clean"]["probability"].values
    return put(tree, clean=np.full(clean.shape, 1 - 1e-8))


#: Name of the finding, level at least, and what makes the fault.
FAULTS: dict[str, tuple[str, str, Callable[[xr.DataTree], xr.DataTree]]] = {
    "the damage is weak": ("weak corruption", "warning", weak),
    "nothing is left": ("saturated corruption", "note", saturated),
    "embeddings like none": ("damage out of distribution", "warning", far),
    "half of the examples untouched": ("undefined share", "warning", undefined),
    "draws contradict": ("unstable ratio", "note", unstable),
    "one draw": ("dominated mean", "note", one_draw),
    "one example": ("dominated mean", "warning", one_example),
    "flat layers": ("uniform relevance over layers", "warning", flat),
    "restoring harms": ("significantly negative relevance", "warning", harmful),
    "nothing restores": ("low restoration everywhere", "warning", lambda tree: scaled(tree, 0.08)),
    "another metric": ("metrics disagree", "warning", by_metric),
    "another noise": ("noises disagree", "warning", by_noise),
    "other draws": ("halves of the draws disagree", "warning", by_chance),
    "few draws": ("too few draws or examples", "warning", few_draws),
    "wrong answers": ("answered wrongly", "warning", wrong),
    "two tokens": ("decided by the first token", "note", first_token),
    "beyond float32": ("edge of precision", "severe", vanished),
    "surer than float32": ("edge of precision", "warning", sure),
}
