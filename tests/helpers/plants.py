"""A planted BLIP as the oracle sees it, and everything in it tried alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import oracle
import oracle_edges
import torch
from transformers import BlipForQuestionAnswering

from nnblip import planted, sites
from nnblip.sites import KINDS, TEXT_COMPONENTS, Extent, Site, heatmap

#: Of an effect on the log-probability that is there, and of one that is not (float64; the image encoder's and the
#: softmax's rounding).
SEEN, UNSEEN = 0.05, 1e-9


class Bare:
    """One example of a plant in float64: the clean run, and that on the partner's picture."""

    def __init__(self, kind: str, seed: int, number: int = 0) -> None:
        self.plant = planted(kind, seed, dtype="float64")
        planted_module = self.plant.model._module  # nnsight has its hooks in it, which take their time
        self.module: Any = BlipForQuestionAnswering(planted_module.config).double().eval()
        self.module.load_state_dict(planted_module.state_dict())
        example = self.plant.examples[number]
        clean, other = (self.plant.model.encode(image, example.question) for image in (example.image, example.partner))
        self.pixels = clean.pixel_values.double(), other.pixel_values.double()
        self.ids = clean.input_ids
        embeds = [oracle.image_embeds(self.module, one) for one in self.pixels]
        self.answer = oracle.greedy_answer(self.module, embeds[0], self.ids)
        self.clean, self.swapped = (
            oracle_edges.record(self.module, one, self.ids, self.answer) for one in embeds
        )  # fmt: skip
        self.rival = oracle.rival(self.clean.logits, self.answer)
        config = self.module.config
        self.extent = Extent(
            config.text_config.num_hidden_layers, self.ids.shape[1], len(self.answer),
            config.text_config.num_attention_heads, config.vision_config.num_hidden_layers, 4, "pixels",
        )  # fmt: skip

    def outcome(self, run: Any) -> oracle.Outcome:
        return oracle.outcome(run.logits, self.answer, self.rival)

    def runs(self, direction: str) -> tuple[Any, Any]:
        """Base and donor."""
        return (self.swapped, self.clean) if direction == "denoising" else (self.clean, self.swapped)

    def alike(self, site: Site) -> bool:
        """Whether a state is the same in both runs, bit for bit: then to put it in changes nothing."""
        if site.component == "image_encoder":
            return torch.equal(self.clean.embeds[0, site.token], self.swapped.embeds[0, site.token])
        key, part = (site.component, site.kind, site.layer), oracle.head_slice(self.module, site)
        one, other = (run.states[key][0, site.token, part] for run in (self.clean, self.swapped))
        return torch.equal(one, other)

    def worth_trying(self, every: Iterable[Any], sites_of: Any, spare: int) -> list[Any]:
        """Those of which a state differs, and a few of the others."""
        every = list(every)
        differ = [one for one in every if not all(self.alike(site) for site in sites_of(one))]
        rest = sorted(set(every) - set(differ), key=str)
        return differ + random.Random(0).sample(rest, min(spare, len(rest)))

    def states(self, direction: str, spare: int = 20) -> dict[Site, float]:
        """Of every state alone how far it moves the log-probability; of those that are alike in both runs only some."""
        base, donor = self.runs(direction)
        start = self.outcome(base).log_probability
        found = {}
        for component in TEXT_COMPONENTS:
            every = [site for (site,) in heatmap(self.extent, component, KINDS)]
            for site in self.worth_trying(every, lambda site: [site], spare):
                put = oracle.restored(
                    self.module, base.embeds, self.ids, self.answer, self.rival, donor.states, [site]
                )  # fmt: skip
                found[site] = put.log_probability - start
        order = (1, 0) if direction == "denoising" else (0, 1)
        pixels = [self.pixels[one] for one in order]
        patches = [oracle.patch_embeds(self.module, one) for one in pixels]
        _, layers = oracle.see(self.module, pixels[1], patches[1])
        for layer in range(self.extent.image_layers):
            for token in range(self.extent.tokens("image_encoder")):
                site = Site("image_encoder", layer=layer, token=token)
                embeds, _ = oracle.see(self.module, pixels[0], patches[0], layers, [site])
                run = oracle.run(self.module, embeds, self.ids, self.answer)
                found[site] = oracle.outcome(run, self.answer, self.rival).log_probability - start
        return found

    def edges(self, direction: str, every: Iterable[Any], spare: int = 40) -> dict[Any, float]:
        """The same of edges: of those with senders that are alike only some."""
        every = self.worth_trying(every, lambda edge: edge.sender, spare)
        base, donor = self.runs(direction)
        start = self.outcome(base).log_probability
        found = {}
        for edge in every:
            sender = edge.sender if len(edge.sender) > 1 else edge.sender[0]
            put = oracle_edges.edge(
                self.module, self.ids, self.answer, self.rival, base, donor, sender, edge.receiver, edge.input
            )  # fmt: skip
            found[edge] = put.log_probability - start
        return found

    def cuts(self, every: list[Any], by: str = "mask") -> dict[Any, float]:
        start = self.outcome(self.clean).log_probability
        found = {}
        for cut in every:
            put = oracle_edges.cut(
                self.module, self.clean.embeds, self.ids, self.answer, self.rival, cut.edges, cut.layers, cut.source,
                cut.target, by,
            )  # fmt: skip
            found[cut] = put.log_probability - start
        return found

    def every_edge(self, kinds: tuple[str, ...] = ("attention_out", "crossattention_out", "mlp_out")) -> list[Any]:
        """Every edge between these kinds, and from every patch and the question encoder's last layer."""
        return [
            edge
            for component in TEXT_COMPONENTS
            for edge in sites.edges(kinds, component, (*kinds, "block"), regions=4)(self.extent)
        ]


def parted(effects: dict[Any, float]) -> set[Any]:
    """What has an effect; between that and what has none nothing may lie."""
    between = {one: effect for one, effect in effects.items() if UNSEEN < abs(effect) < SEEN}
    assert not between, f"neither an effect nor none: {sorted(between.items(), key=lambda item: -abs(item[1]))[:5]}"
    return {one for one, effect in effects.items() if abs(effect) >= SEEN}
