"""`planted`: a model, examples, and the truth about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nnblip.blip.loading import as_dtype
from nnblip.edges import KnockOut
from nnblip.errors import one_of, whole
from nnblip.examples import Example
from nnblip.model import BlipVQA
from nnblip.paths import Edge
from nnblip.plants.draft import Draft, Leg
from nnblip.plants.kinds import KINDS
from nnblip.plants.wiring import PATCH, SIDE, WORDS
from nnblip.states import Site

#: In which something of a plant can be shown, see `Plant.shown`.
DIRECTIONS = ("denoising", "noising", "cutting")


class Shown(NamedTuple):
    """What shows an effect, each alone; everything else shows none.

    Attributes:
        sites: states.
        edges: edges.
        knock_outs: cut edges, by mask.
    """

    sites: frozenset[Site]
    edges: frozenset[Edge]
    knock_outs: frozenset[KnockOut]


@dataclass(frozen=True)
class Plant:
    """A planted BLIP and the truth about it.

    Attributes:
        kind: as it was asked for.
        seed: likewise.
        description: what is planted, in a sentence.
        model: a `BlipVQA`, in memory.
        examples: pictures of red and blue patches with a question. On the planted patches they are red, and the picture
            that each has as its `partner` is blue there and has other colours elsewhere.
        sites: every state of the plant, of all kinds and, for patches, of all layers of the image encoder.
        edges: every edge of the plant, with heads and with whole sublayers as its ends where both are meant.
        legs: the parts of the circuit, each of which works as one, by name.
    """

    kind: str
    seed: int
    description: str
    model: BlipVQA
    examples: tuple[Example, ...]
    legs: Mapping[str, Leg]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(dict.fromkeys(site for leg in self.legs.values() for site in leg.sites))

    @property
    def edges(self) -> tuple[Edge, ...]:
        return tuple(dict.fromkeys(edge for leg in self.legs.values() for edge in leg.edges))

    def shown(self, direction: str = "denoising") -> Shown:
        """What has an effect when it is changed alone, with noise "swap" at ν = 1; the rest of the plant needs company.

        Args:
            direction: "denoising" (put back to clean in the corrupted run) or "noising" (damaged in the clean run),
                for sites and edges; or "cutting" (attention edges cut by mask in the clean run), for knock-outs.

        Returns:
            What that direction is about; the others are empty.

        Raises:
            SettingError: for another direction.
        """
        one_of(direction, DIRECTIONS, "direction")
        legs = [self.legs[name] for name in getattr(KINDS[self.kind], direction)]
        if direction == "cutting":
            return Shown(frozenset(), frozenset(), frozenset(one for leg in legs for one in leg.knock_outs))
        sites = frozenset(site for leg in legs for site in leg.sites)
        return Shown(sites, frozenset(edge for leg in legs for edge in leg.edges), frozenset())


def planted(kind: str, seed: int = 0, examples: int = 4, dtype: str = "float32") -> Plant:
    """A small BLIP with weights set by hand, of which is known exactly where its answer comes from.

    For testing methods: run yours on `plant.model` and `plant.examples`, and hold what it finds against `plant.sites`,
    `plant.edges` and `plant.shown(direction)`. Off the plant every effect is 0, by zero weights.

    Args:
        kind: "layer" (the image is read by one token at one layer), "head" (one head of the question encoder feeds one
            head of the answer decoder, and nothing else does), "patch" (the answer is the colour of one patch),
            "edge" (one edge to a query, a key, a value or an MLP), "and" (two ways, both needed), "or" (either
            suffices), "backup" (one takes over when the other is gone) or "distractor" (attention looks elsewhere).
        seed: which layers, tokens, heads and patches, and what the pictures show besides.
        examples: how many, at least 1.
        dtype: of the weights, as `BlipVQA` has it.

    Raises:
        SettingError: for an unknown kind, a negative seed or no examples.
        ModelError: for an unknown dtype.
    """
    chosen = KINDS[one_of(kind, KINDS, "kind")]
    seed, examples = whole(seed, "seed", 0), whole(examples, "examples", 1)
    draft = Draft(seed, kind, chosen.answers)
    chosen.wire(draft)
    red = [site.token for leg in draft.legs.values() for site in leg.sites if site.component == "image_encoder"]
    pictures = [
        Example(_picture(draft.rng, red, 1), chosen.question, id=f"{kind} {seed} {number}",
                partner=_picture(draft.rng, red, -1))
        for number in range(examples)
    ]  # fmt: skip
    model = BlipVQA(draft.wiring.module.to(as_dtype(dtype)), processor=_processor())
    return Plant(kind, seed, chosen.about, model, tuple(pictures), draft.legs)


def _picture(rng: np.random.Generator, planted: list[int], colour: int) -> np.ndarray:
    """Patches of red (1) and blue (-1), uint8 (height, width, 3)."""
    colours = rng.choice([1, -1], SIDE**2)
    colours[np.array(planted) - 1] = colour
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = [255 * (colours == one).reshape(SIDE, SIDE) for one in (1, -1)]
    return pixels.repeat(PATCH, 0).repeat(PATCH, 1)


@cache
def _processor() -> Any:
    from transformers import BertTokenizer, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=12,
        extra_special_tokens=["[DEC]", "[ENC]"],
    )  # fmt: skip
    side = {"height": SIDE * PATCH, "width": SIDE * PATCH}
    return BlipProcessor(BlipImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)
