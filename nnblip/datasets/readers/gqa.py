"""GQA in its official format: one JSON object from question ids to questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files
from nnblip.datasets.images import Finder, Gqa, Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.datasets.sniff import advice
from nnblip.errors import InputError
from nnblip.examples import Example


def gqa(file: str | Path, images: Images = None, strict: bool = False) -> Dataset:
    """Each question, read one at a time; the id is GQA's own.

    `question_type` is the structural type ("query", "verify", ...). Extra fields:
    `structural_type`, `semantic_type` and `detailed_type`, `image_id`, and all else that the
    file has (`fullAnswer`, `semanticStr`, `isBalanced`, `groups`, ...).

    Args:
        file: such as `val_balanced_questions.json`.
        images: a folder, "download" (images of Visual Genome only), a `Download`, or None.
        strict: stop at the first broken row.

    Raises:
        InputError: for a missing file, or (when read) one that is not the official JSON.
    """
    path, find = files.existing(file, "questions"), Finder(images, Gqa())

    def rows() -> Iterator[Example | Problem]:
        count = 0
        for count, (question_id, row) in enumerate(files.json_pairs(path), 1):  # noqa: B007 - counted
            yield attempt(f"{path.name}, question {question_id!r:.30}", _example, question_id, row, find)
        if not count:
            raise InputError(
                f"{path}: no questions; expected the official file, {{question id: question, ...}}{advice(path, 'gqa')}"
            )

    return Dataset(f"gqa:{file}", rows, strict, path)


def _example(question_id: str, row: Any, find: Finder) -> Example:
    given = fields.mapping(row, "question")
    question, answer = fields.text(given.get("question"), "question"), fields.text(given.get("answer"), "answer")
    image_id = fields.name(given.get("imageId"), "imageId")
    kinds = fields.mapping(given.get("types"), "types")
    types = {f"{kind}_type": fields.text(kinds.get(kind), f"{kind} type") for kind in ("structural", "semantic")}
    rest = {k: v for k, v in given.items() if k not in ("question", "answer", "imageId", "types")}
    extra = {**rest, **types, "detailed_type": kinds.get("detailed"), "image_id": image_id}
    name = fields.text(question_id, "question id")
    return Example(find(image_id), question, answer, types["structural_type"], name, extra=extra)
