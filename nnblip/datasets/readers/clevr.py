"""The CLEVR questions of Palit et al. 2023: a CSV file with a Python literal in each cell.

Columns: an index, `Image_IDs` ("CLEVR_val_000145") and `Questions_Answers`, a list of dicts
with `question` and `answer`, 1 for yes and 0 for no. All ask how two objects lie.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files
from nnblip.datasets.images import Clevr, Finder, Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import InputError
from nnblip.examples import Example

ANSWERS = {1: "yes", 0: "no"}
RELATIONS = re.compile(r"\b(right of|left of|behind|in front of)\b")


def clevr(file: str | Path, images: Images = None, strict: bool = False) -> Dataset:
    """Each question of each image; the id is the image's and the question's number, "CLEVR_val_000145-3".

    `answer` is "yes" or "no", the extra field `label` the file's 1 or 0; `question_type` is the
    relation that is asked for, "right of", "left of", "behind" or "in front of".

    Args:
        file: such as `clevr_vqa_dataset_3.csv`.
        images: a folder, or None to read questions only.
        strict: stop at the first broken row or question.

    Raises:
        InputError: for a missing file or column.
    """
    path = files.existing(file, "CSV file")
    fits = {
        "image id": lambda column: "image" in column and "id" in column,
        "questions and answers": lambda column: column.startswith("question"),
    }
    columns, find = files.pick(files.csv_header(path), fits, path), Finder(images, Clevr())

    def rows() -> Iterator[Example | Problem]:
        for row in files.csv_rows(path):
            if isinstance(row, Problem):
                yield row
                continue
            where, cells = row
            try:
                image_id = fields.name(cells[columns["image id"]], "image id")
                asked, image = _literal(cells[columns["questions and answers"]]), find(image_id)
            except InputError as error:
                yield Problem(where, str(error))
                continue
            for number, one in enumerate(asked):
                yield attempt(f"{where}, question {number}", _example, one, image, image_id, number)

    return Dataset(f"clevr:{file}", rows, strict)


def _literal(cell: str) -> list[Any]:
    """The list that a cell spells; nothing in it is ever run."""
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"questions {cell!r:.80}: no Python literal ({type(error).__name__})") from error
    if not isinstance(found, list) or not found:
        raise InputError(f"questions {cell!r:.80}: expected a list of questions and answers")
    return found


def _example(one: Any, image: Any, image_id: str, number: int) -> Example:
    given = fields.mapping(one, "question")
    question, label = fields.text(given.get("question"), "question"), given.get("answer")
    if type(label) is not int or label not in ANSWERS:
        raise InputError(f"answer {label!r:.100}: expected 1 (yes) or 0 (no)")
    relation = RELATIONS.search(question)
    extra = {
        "image_id": image_id,
        "label": label,
        **{k: v for k, v in given.items() if k not in ("question", "answer")},
    }
    return Example(
        image, question, ANSWERS[label], relation[1] if relation else None, f"{image_id}-{number}", extra=extra
    )
