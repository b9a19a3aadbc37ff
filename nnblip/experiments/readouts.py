"""States of many questions, with their pictures and without: what CKA and probes are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import nnsight
import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from nnblip.edges import knock_out
from nnblip.examples import Example
from nnblip.noise import NoiseLike
from nnblip.roles import ROLES
from nnblip.roles import roles as roles_of

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: In which runs the states are read. Without a picture nothing is read of it in any layer.
RUNS = ("clean", "damaged picture", "another picture", "no picture")
#: The mean over all tokens, as a readout.
EVERY = "all tokens"


def readouts(
    model: BlipVQA,
    examples: Sequence[Example],
    nu: float,
    noise: NoiseLike,
    seed: int = 0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Read the question encoder's `block` states of each example in each of `RUNS`.

    The other picture is that of the next example (of the last, the first's), so its run is also one of the next
    example's picture with another question: shifted by one example, states that have only their picture in common.

    Args:
        model: where.
        examples: at least two, each about an image of its own, with answers.
        nu, noise, seed: of the damage; draw 0 of each example.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        `states` (example, run, layer, readout, hidden), float32: means over all tokens, and over those of each role
        that all examples have. `added` (example, layer): how large what cross-attention adds to the stream is beside
        the stream, of the clean run; a mean over tokens of ratios of norms, which is 0 where nothing is added.
    """
    every, added, nothing = [], [], knock_out("image_to_question")
    roles: list[tuple[str, ...]] = []
    disable = None if progress is None else not progress
    for number, example in enumerate(tqdm(examples, unit="question", desc="states", disable=disable)):
        other = replace(example, image=examples[(number + 1) % len(examples)].image, partner=None)
        with torch.no_grad():  # blocks with nothing of this file in them: a server does not have it
            with model.clean(example) as clean:
                found = nnsight.save(torch.stack([
                    torch.stack([layer.attention.output[0], layer.crossattention.add_norm.dense.output, layer.output])
                    for layer in model.question_encoder.layer
                ]))  # fmt: skip
            with model.corrupt(clean, nu, seed=seed, noise=noise):
                damaged = nnsight.save(torch.stack([layer.output for layer in model.question_encoder.layer]))
            with model.clean(other):
                elsewhere = nnsight.save(torch.stack([layer.output for layer in model.question_encoder.layer]))
            with model.clean(example, knock_out=nothing):
                alone = nnsight.save(torch.stack([layer.output for layer in model.question_encoder.layer]))
        stream, adds, block = found.float().cpu().numpy()[:, :, 0].swapaxes(0, 1)
        every.append(np.stack([block, *(one[:, 0].float().cpu().numpy() for one in (damaged, elsewhere, alone))]))
        added.append((np.linalg.norm(adds, axis=-1) / np.linalg.norm(stream, axis=-1)).mean(-1))
        roles.append(roles_of(clean.tokens))
    shared = [role for role in ROLES if all(role in one for one in roles)]
    masks = [[np.ones(len(one), bool), *(np.array(one) == role for role in shared)] for one in roles]
    states = [np.stack([one[..., mask, :].mean(-2) for mask in own], -2) for one, own in zip(every, masks, strict=True)]
    return xr.Dataset(
        {
            "states": (("example", "run", "layer", "readout", "hidden"), np.stack(states)),
            "added": (("example", "layer"), np.stack(added)),
        },
        {
            "example": [one.id or str(number) for number, one in enumerate(examples)],
            "run": list(RUNS),
            "layer": np.arange(len(added[0])),
            "readout": [EVERY, *shared],
        },
    )
