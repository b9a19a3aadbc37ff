"""Results for the tests of the page, with effects where they are said to be; and a page as it is read again."""

import base64
import gzip
import json
import re

import numpy as np
import xarray as xr

from nnblip import demo
from nnblip.roles import answer_roles, roles

NU_HALF = 3.0


def result(examples=1, nus=(1.0, 3.0, 5.0, 10.0), draws=10, layers=6, words=7, answer_tokens=1, grid=(4, 4), seed=0):
    """As `causal_trace` makes one: what a state brings back grows with its layer, at some tokens, and draws differ.

    Args:
        words: tokens of the longest question; others are one or two shorter and padded with NaN.
        answer_tokens: of the answer decoder.
        grid: of the image encoder, which has one layer; None for none.
    """
    rng = np.random.default_rng(seed)
    scenes = demo.examples()
    asked = [scenes[number % len(scenes)] for number in range(examples)]
    nu = np.asarray(nus)
    shape = (examples, len(nus), draws)
    clean = rng.uniform(3, 6, examples)[:, None, None]  # logits
    lost = clean * 1.6 * (nu / (nu + NU_HALF))[:, None] * rng.gamma(6, 1 / 6, shape)
    dims = ("example", "nu", "draw")

    def node(logit, dims, **labels):
        probability = 1 / (1 + np.exp(-logit))
        named = {"probability": probability, "log_probability": np.log(probability), "logit_difference": logit}
        return xr.Dataset({name: (dims, values.astype("float32")) for name, values in named.items()}, labels)

    def restored(share, texts, given, depth, **attrs):
        """From (example, layer, token), the share of what was lost that comes back; it differs a little by draw."""
        moved = share[:, None, None, None] + rng.normal(0, 0.04, (*shape, 1, *share.shape[1:]))
        if depth is not None:
            moved[..., depth, :] = np.where(share[:, None, None, None, depth] == 1, 1, moved[..., depth, :])
        logit = (clean - lost)[..., None, None, None] + moved * lost[..., None, None, None]
        labels = {
            "kind": ["block"], "layer": np.arange(share.shape[1]), "token": np.arange(share.shape[2]),
            "token_text": (("example", "token"), texts), "role": (("example", "token"), given),
        }  # fmt: skip
        return node(logit, (*dims, "kind", "layer", "token"), **labels).assign_attrs(attrs)

    lengths = [words - number % 3 if words > 4 else words for number in range(examples)]
    tokens = [
        ["[CLS]", *"which shape is dark blue and small and left of the red one".split()[: n - 2], "[SEP]"]
        for n in lengths
    ]
    given = [list(roles(tuple(row))) for row in tokens]
    depth = np.arange(layers) / max(1, layers - 1)
    share = np.zeros((examples, layers, words))
    for number, length in enumerate(lengths):
        share[number, :, length - 2] = 0.55 * (1 - depth)  # the last word, early
        share[number, :, 0] = 0.7 * depth**2  # [CLS], late
        share[number, :, 1] = -0.15 * depth
        share[number, :, length:] = np.nan
    padded = [[row + [""] * (words - len(row)) for row in rows] for rows in (tokens, given)]
    answer = ("[DEC]", *["dia", "##mond", "##s", "and", "more"][: answer_tokens - 1])
    spoken = [[list(row)] * examples for row in (answer, answer_roles(answer))]
    said = np.zeros((examples, layers, answer_tokens)) + (depth**3)[:, None] / answer_tokens
    nodes = {
        "/": xr.Dataset(
            coords={
                "example": [f"{number} {one.id}" for number, one in enumerate(asked)],
                "nu": nu, "draw": np.arange(draws),
                "question": ("example", [one.question for one in asked]),
                "answer": ("example", ["diamond" for _ in asked]), "predicted": ("example", ["diamond" for _ in asked]),
                "question_type": ("example", [one.question_type for one in asked]),
                "image": ("example", [str(one.image) for one in asked]),
            },
            attrs={"schema_version": 2, "model": "made up", "layers": layers, "noise": "multiplicative", "seed": seed},
        ),
        "/clean": node(clean[:, 0, 0], ("example",)),
        "/corrupted": node(clean - lost, dims),
        "/question_encoder": restored(share, *padded, None),
        "/answer_decoder": restored(said, *spoken, layers - 1),
    }  # fmt: skip
    if grid:
        share = np.zeros((examples, 1, 1 + grid[0] * grid[1]))
        share[np.arange(examples), 0, 1 + rng.integers(0, grid[0] * grid[1], examples)] = 0.4
        texts = ["[CLS]", *(f"row {i} column {j}" for i in range(grid[0]) for j in range(grid[1]))]
        kinds = ["[CLS]", *["image"] * (len(texts) - 1)]
        nodes["/image_encoder"] = restored(share, [texts] * examples, [kinds] * examples, None, grid=list(grid))
    return xr.DataTree.from_dict(nodes)


class Page:
    """What a page holds, read as page.js reads it but in other words.

    Attributes:
        text: all of it.
        index: what is said of all sheets.
    """

    def __init__(self, text):
        self.text = text
        self.index = json.loads(self.element("index"))

    def element(self, name):
        return re.search(rf'<script type="[^"]*" id="{re.escape(name)}">(.*?)</script>', self.text, re.DOTALL).group(1)

    def has(self, name):
        return f'id="{name}"' in self.text

    def block(self, name):
        """What is said, and a function that reads one of its arrays."""
        return opened(self.element(name))


def opened(text):
    data = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(data[:4], "little")

    def read(place):
        kind, start, count = place
        dtype = np.dtype("<" + kind)
        raw = np.frombuffer(data, np.uint8, count * dtype.itemsize, 4 + length + start)
        numbers = raw.reshape(dtype.itemsize, count).T.copy().view(dtype).ravel()
        nothing = np.iinfo(dtype).min if dtype.kind == "i" else None
        return np.where(numbers == nothing, np.nan, numbers.astype(float)) if dtype.kind == "i" else numbers

    return json.loads(data[4 : 4 + length]), read
