"""CLEVR: the official JSON (see `clevr_json`), or the CSV file of Palit et al. 2023.

That one has a Python literal in each cell. Columns: an index, `Image_IDs` ("CLEVR_val_000145")
and `Questions_Answers`, a list of dicts with `question` and `answer`, 1 for yes and 0 for no. All
ask how two objects lie.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files
from nnblip.datasets.images import Clevr, Finder, Images
from nnblip.datasets.readers.clevr_json import official
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import InputError
from nnblip.examples import Example

ANSWERS = {1: "yes", 0: "no"}
RELATIONS = re.compile(r"\b(right of|left of|behind|in front of)\b")


def clevr(file: str | Path, images: Images = None, strict: bool = False) -> Dataset:
    """The questions of CLEVR, from its official JSON or the CSV file of Palit et al.

    Of the JSON (`CLEVR_val_questions.json`) the id is split and question, "clevr-val-17", and `question_type` the last
    function of the question's program, which gives the answer: "exist", "count", "equal_integer", "greater_than",
    "less_than", "query_color" (or shape, size, material), "equal_color" (or ...). Extra fields: `question_group`, these
    in the five of Johnson et al. 2017 ("exist", "count", "compare integer", "query attribute", "compare attribute");
    `question_family_index`, the template, 0 to 89; `program`, its functions in order, as one text; `image_id`; all
    else that the file has. Questions without an answer (the test set's) have none, and no type.

    Of the CSV file the id is the image's and the question's number, "CLEVR_val_000145-3", `answer` is "yes" or "no",
    the extra field `label` the file's 1 or 0, and `question_type` the relation that is asked for, "right of",
    "left of", "behind" or "in front of".

    Args:
        file: such as `CLEVR_val_questions.json` or `clevr_vqa_dataset_3.csv`; JSON begins with a brace.
        images: a folder, or None to read questions only.
        strict: stop at the first broken row or question.

    Raises:
        InputError: for a missing file or column, or (when read) JSON that is not the official file.
    """
    path, find = files.existing(file, "CLEVR file"), Finder(images, Clevr())
    if files.begins_with_brace(path):
        return Dataset(f"clevr:{file}", partial(official, path, find), strict, path)
    fits = {
        "image id": lambda column: "image" in column and "id" in column,
        "questions and answers": lambda column: column.startswith("question"),
    }
    columns = files.pick(files.csv_header(path), fits, path)

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

    return Dataset(f"clevr:{file}", rows, strict, path)


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
