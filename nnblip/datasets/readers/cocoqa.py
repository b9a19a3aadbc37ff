"""COCO-QA (Ren, Kiros and Zemel 2015) in its original format: four files whose lines belong together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnblip.datasets import fields, files
from nnblip.datasets.images import Coco, Finder, Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import InputError, one_of
from nnblip.examples import Example

#: What the numbers in `types.txt` mean.
TYPES = {"0": "object", "1": "number", "2": "color", "3": "location"}
FILES = ("questions.txt", "answers.txt", "img_ids.txt", "types.txt")
#: COCO-QA's test questions are about images of COCO's validation set.
COCO_SPLIT = {"train": "train2014", "test": "val2014"}


def cocoqa(folder: str | Path, images: Images = None, split: str | None = None, strict: bool = False) -> Dataset:
    """The questions of COCO-QA; the id is split and line, "cocoqa-train-17".

    Args:
        folder: the data set's folder (with `train/` and `test/`), or that of one split.
        images: a folder, "download", a `Download`, or None to read questions only.
        split: "train" or "test"; every split that is there if None.
        strict: stop at the first broken row.

    Raises:
        InputError: for a missing folder or file, or (when read) files of different lengths.
    """
    root = files.existing(folder, "COCO-QA folder", folder=True)
    if split is not None:
        one_of(split, COCO_SPLIT, "split", InputError)
    if (root / FILES[0]).exists():
        found = {split or (root.resolve().name if root.resolve().name in COCO_SPLIT else "train"): root}
    else:
        found = {name: root / name for name in COCO_SPLIT if split in (None, name) and (root / name).is_dir()}
    if not found:
        raise InputError(f"COCO-QA folder {str(folder)!r}: expected {', '.join(FILES)}, or folders train and test")
    paths = {name: [files.existing(path / file, "COCO-QA file") for file in FILES] for name, path in found.items()}
    finders = {name: Finder(images, Coco(tuple(dict.fromkeys([COCO_SPLIT[name], *Coco().splits])))) for name in paths}

    def rows() -> Iterator[Example | Problem]:
        for name, four in paths.items():
            for line, cells in files.parallel_lines(four):
                yield attempt(f"{four[0].parent.name}/*.txt:{line}", _example, name, line, cells, finders[name])

    return Dataset(f"cocoqa:{folder}", rows, strict, root)


def _example(split: str, line: int, cells: tuple[str, ...], find: Finder) -> Example:
    question, answer = (fields.text(cell, what) for cell, what in zip(cells, ("question", "answer"), strict=False))
    image_id, kind = fields.number(cells[2], "image id"), one_of(cells[3].strip(), TYPES, "type", InputError)
    return Example(
        find(image_id), question, answer, TYPES[kind], f"cocoqa-{split}-{line}",
        extra={"image_id": image_id, "split": split},
    )  # fmt: skip
