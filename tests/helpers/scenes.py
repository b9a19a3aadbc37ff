"""Scenes for tests: generated pictures, of which the bundled model answers and noise changes the answer."""

from __future__ import annotations

from functools import cache
from typing import Any

import oracle
import torch

from nnblip.datasets import scenes
from nnblip.noise import unit_noise

#: Below this total effect a comparison of maps would compare nothing.
VISIBLE = 0.1


def question_of(index: int, kind: str) -> tuple[Any, str] | None:
    """A picture of the tests' own series with a question of this type, if there is one."""
    scene = scenes.scene(77, index)
    found = [q for q in scenes.questions(scene) if q.type == kind]
    return (scene.image, found[index % len(found)].question) if found else None


class Truth:
    """One example as the oracle sees it: plain PyTorch, one cell at a time."""

    def __init__(self, model: Any, image: Any, question: str) -> None:
        self.module = model._module
        self.encoded = model.encode(image, question)
        self.ids = self.encoded.input_ids
        self.embeds = oracle.image_embeds(self.module, self.encoded.pixel_values)
        self.answer = oracle.greedy_answer(self.module, self.embeds, self.ids)
        logits = oracle.run(self.module, self.embeds, self.ids, self.answer)
        self.rival = oracle.rival(logits, self.answer)
        self.clean = oracle.outcome(logits, self.answer, self.rival)
        self.states = oracle.states(self.module, self.embeds, self.ids, self.answer)

    def noisy(self, nu: float, seed: int = 0, draw: int = 0, noise: Any = None) -> torch.Tensor:
        """The paper's multiplicative noise, written out here; the unit noise is the package's."""
        from nnblip.noise import Multiplicative

        unit = unit_noise(noise or Multiplicative(), tuple(self.embeds.shape), seed, self.encoded.key, draw)
        return self.embeds * (1 + nu * unit)

    def restored(self, noisy: torch.Tensor, *sites: Any) -> oracle.Outcome:
        return oracle.restored(self.module, noisy, self.ids, self.answer, self.rival, self.states, list(sites))


@cache
def visible(model: Any, nu: float = 5.0, kind: str = "color", start: int = 0) -> tuple[Any, str, Truth]:
    """The first scene from `start` on whose total effect can be seen; looked for once, so alter a model before."""
    for index in range(start, start + 100):
        if pair := question_of(index, kind):
            truth = Truth(model, *pair)
            if truth.clean.probability - truth.restored(truth.noisy(nu)).probability >= VISIBLE:
                return (*pair, truth)
    raise AssertionError(f"no scene of type {kind} with a total effect of {VISIBLE}: this model shows nothing")
