#!/usr/bin/env python
"""Which damage points at the object that a question is about? The table of docs/pointing.md.

    python scripts/pointing.py --scenes 60             # some minutes; the table goes to standard output
    python scripts/pointing.py --scenes 4 --only mean  # a look

Generated scenes know which pixels are whose. Each is asked about one of its objects, and kept if the model answers
rightly. Every way to damage one patch or region at a time gives a map of the change of the logit difference, and two
numbers of it: the share of its positive part that lies in the object's box, by area; and whether its strongest region
touches the object. Both are held against what a map that knows nothing would get.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nnblip
from nnblip.datasets import scenes
from nnblip.effects import mean_interval

#: Neither the scenes of the training nor those that are bundled.
SEED = 5
TYPES = ("color", "object", "location")
WAYS = ["mean", "shuffle", "restoring", "attention"]


@dataclass(frozen=True)
class Asked:
    """A scene, what is asked about it, and where the object is."""

    scene: scenes.Scene
    question: str
    answer: str
    type: str
    target: NDArray[np.bool_]  # (64, 64)

    @property
    def box(self) -> NDArray[np.bool_]:
        rows, columns = np.flatnonzero(self.target.any(1)), np.flatnonzero(self.target.any(0))
        box = np.zeros_like(self.target)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        return box


def asked(model: nnblip.BlipVQA, number: int) -> Iterator[Asked]:
    """So many scenes of two to four objects, a question about each, of each type in turn."""
    found = index = 0
    while found < number:
        scene = scenes.scene(SEED, index, 2 + index % 3)
        index += 1
        kind = TYPES[found % len(TYPES)]
        for one in scenes.questions(scene):
            about = [
                one.question.endswith(f" {item.color if kind == 'object' else item.shape}") for item in scene.objects
            ]
            if one.type == kind and sum(about) == 1 and model.answer(scene.image, one.question).text == one.answer:
                yield Asked(scene, one.question, one.answer, kind, scene.owner == about.index(True))
                found += 1
                break


def ways() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to damage one place at a time, by name."""
    for noise, draws in (("mean", 1), ("shuffle", 2)):
        for at in ("image_embeds", "patch_embeds", "pixels"):
            for regions in (None, 4):
                yield (
                    f"{noise}, {at}, {regions or 8} x {regions or 8}",
                    dict(noise=noise, noise_at=at, regions=regions, draws=draws, nu=1.0, direction="noising"),
                )


def maps(model: nnblip.BlipVQA, one: Asked, only: list[str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Every map of a scene by name, (rows, columns)."""
    example = (one.scene.image, one.question, one.answer)
    for name, settings in ways():
        if settings["noise"] in only:
            tree = nnblip.causal_trace(model, [example], components=["image_encoder"], progress=False, **settings)
            effect = nnblip.indirect_effect(tree)["image_encoder"].logit_difference.mean("draw")
            for layer in effect.layer.values:
                yield f"{name}, layer {layer}", square(effect.sel(layer=layer).values)
    if "restoring" in only:
        tree = nnblip.causal_trace(model, [example], components=["image_encoder"], regions=4, progress=False)
        effect = nnblip.indirect_effect(tree)["image_encoder"].probability.mean("draw")
        yield "restored (multiplicative, nu = 5, probability), 4 x 4", square(effect.squeeze().values)
    if "attention" in only:
        node = nnblip.attention(model, [example], ["question_encoder"], progress=False)[
            "question_encoder/crossattention"
        ]
        for layer in node.layer.values:
            yield (
                f"Grad-CAM, layer {layer}",
                square(node.grad_cam.sel(layer=layer).mean(("example", "head")).sum("token").values),
            )
        yield "Grad-CAM, all", square(node.grad_cam.mean(("example", "head", "layer")).sum("token").values)
        yield "attention, all", square(node.attention.mean(("example", "head", "layer", "token")).values)


def square(tokens: NDArray[Any]) -> NDArray[np.float64]:
    side = round((tokens.size - 1) ** 0.5)
    return tokens.ravel()[1:].reshape(side, side).astype(float)


def measured(map: NDArray[np.float64], one: Asked) -> tuple[float, float, float, float]:
    """Share in the box, hit; and both of a map that knows nothing."""
    cell = scenes.SIZE // len(map)

    def of_cells(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return mask.reshape(len(map), cell, len(map), cell).mean((1, 3))

    positive = np.maximum(map, 0)
    share = float((positive * of_cells(one.box)).sum() / positive.sum()) if positive.any() else float("nan")
    touching = of_cells(one.target) > 0
    return share, float(touching.ravel()[map.argmax()]), float(one.box.mean()), float(touching.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=WAYS, choices=WAYS)
    given = parser.parse_args()
    model = nnblip.BlipVQA()
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for one in asked(model, given.scenes):
        for name, map in maps(model, one, given.only):
            found[name].append(measured(map, one))
    print("| damage | mass in the box | strongest on the object | of chance |\n|---|---|---|---|")
    for name, rows in found.items():
        numbers = np.array(rows)
        means = np.nanmean(numbers, 0)
        _, low, high = mean_interval(numbers[:, :1])
        print(
            f"| {name} | {means[0]:.0%} [{low:.0%}, {high:.0%}] | {means[1]:.0%} | {means[2]:.0%}, {means[3]:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
