"""The CSV files that Palit et al. 2023 published: COCO-QA's training questions by type.

Columns: an index, an image id, a question and an answer (`train_image_id_count`,
`question_count`, `answer_count` in each file).

The authors chose "color" by the word "color" in the question. 54 of the 13,113 rows of their
color file are of another type in COCO-QA ("what is brown in color", bears: object). How COCO-QA
made its questions from captions (the code of github.com/renmengye/imageqa-qgen) tells the official
type from a row: the answer to a number question is a number, and no other is; "what is the color of
the ..." with one of ten colors is color; what begins with "where" is location; anything else object.

A question alone does not tell it. COCO-QA puts "how many" where the number stood in the caption,
which need not be the beginning ("there are how many boats"): of its 5,885 number questions for training
(Ren et al. 2015, table 1) 5,711 begin with "how many", all those of the authors' count file. The rule
gives the official type of all 833 rows of COCO-QA that the project has at hand, and of the color file
13,059 color rows, COCO-QA's own count. On the rest of COCO-QA it was not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nnblip.datasets import fields, files
from nnblip.datasets.images import Coco, Finder, Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import InputError
from nnblip.examples import Example

#: The type that a file's name tells of.
LABELS = {"color": "color", "count": "number", "number": "number", "location": "location", "object": "object"}
#: All answers to COCO-QA's questions for a color, and for a number.
COLORS = frozenset("red orange yellow green blue black white brown gray purple".split())
NUMBERS = frozenset("one two three four five six seven eight nine ten".split())


def palit(file: str | Path, images: Images = None, question_type: str | None = None, strict: bool = False) -> Dataset:
    """The questions of one file; the id is its type and index, "palit-color-17".

    `question_type` is the authors' label, the extra field `official_type` that of COCO-QA, see
    `official_type`.

    Args:
        file: such as `color_coco_qa.csv`.
        images: a folder, "download", a `Download`, or None to read questions only.
        question_type: the authors' label; from the file's name if None.
        strict: stop at the first broken row.

    Raises:
        InputError: for a missing file or column, or a name that tells no type.
    """
    path = files.existing(file, "CSV file")
    named = re.search("|".join(LABELS), path.stem.lower())
    label = question_type or (LABELS[named[0]] if named else None)
    if label is None:
        raise InputError(f"{path}: its name tells no question type ({', '.join(LABELS)}); give question_type=")
    header = files.csv_header(path)
    fits = {
        "image id": lambda column: "image" in column and "id" in column,
        "question": lambda column: column.startswith("question"),
        "answer": lambda column: column.startswith("answer"),
    }
    columns, find = files.pick(header, fits, path), Finder(images, Coco())

    def example(number: int, cells: dict[str, str]) -> Example:
        index = fields.number(cells[header[0]], "index") if header[0] not in columns.values() else number
        question = fields.text(cells[columns["question"]], "question")
        answer = fields.text(cells[columns["answer"]], "answer")
        image_id = fields.number(cells[columns["image id"]], "image id")
        extra = {"image_id": image_id, "official_type": official_type(question, answer)}
        return Example(find(image_id), question, answer, label, f"palit-{label}-{index}", extra=extra)

    def rows() -> Iterator[Example | Problem]:
        for number, row in enumerate(files.csv_rows(path)):
            yield row if isinstance(row, Problem) else attempt(row[0], example, number, row[1])

    return Dataset(f"palit:{file}", rows, strict, path)


def official_type(question: str, answer: str) -> str:
    """COCO-QA's type of one of its own rows, by how it made them; see above for what this rests on."""
    if answer in NUMBERS:
        return "number"
    if question.startswith("what is the color of ") and answer in COLORS:
        return "color"
    return "location" if question.startswith("where ") else "object"
