"""Generated scenes as a data set: pictures are drawn when they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from nnblip.datasets import scenes
from nnblip.datasets.records import Dataset
from nnblip.errors import InputError, whole
from nnblip.examples import Example


@dataclass(frozen=True)
class Drawing:
    """The picture of one scene, drawn when this is called."""

    seed: int
    index: int

    @property
    def filename(self) -> str:
        """How the image is called in a result."""
        return f"scene-{self.seed}-{self.index}"

    def __call__(self) -> Image.Image:
        """(64, 64) RGB."""
        return scenes.scene(self.seed, self.index).image


def generated_scenes(n: int | None = 1000, seed: int = 1) -> Dataset:
    """The first n questions about the scenes of a series; the id is series, scene and question.

    Extra fields: `objects`, how many there are; `box`, where those are that are asked about: left, upper, right and
    lower in pixels, right and lower left out, "8,30,24,47", of several parted by spaces; `image_id`.

    Args:
        n: how many questions; None goes on without end.
        seed: the series. The small model was trained on series 0, its accuracy is told on 1.

    Raises:
        InputError: for an n or seed that is no such number.
    """
    if n is not None:
        whole(n, "n", 1, InputError)
    whole(seed, "seed", 0, InputError)

    def all_questions() -> Iterator[Example]:
        for index in itertools.count():
            scene = scenes.scene(seed, index)
            for number, asked in enumerate(scenes.questions(scene)):
                image = Drawing(seed, index)
                box = " ".join(",".join(map(str, scene.box(one))) for one in asked.about)
                extra = {"image_id": image.filename, "objects": len(scene.objects), "box": box}
                name = f"{image.filename}-{number}"
                yield Example(image, asked.question, asked.answer, asked.type, name, extra=extra)

    return Dataset("scenes", lambda: itertools.islice(all_questions(), n))
