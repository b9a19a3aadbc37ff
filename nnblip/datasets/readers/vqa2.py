"""VQA v2 in its official format: one JSON file of questions, one of annotations with ten answers each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files
from nnblip.datasets.images import Coco, Finder, Images
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.datasets.vqa_accuracy import accuracy, normalized
from nnblip.errors import InputError
from nnblip.examples import Example

__all__ = ["accuracy", "normalized", "vqa2"]


def vqa2(questions: str | Path, annotations: str | Path, images: Images = None, strict: bool = False) -> Dataset:
    """Each annotated question; the id is its `question_id`.

    `answer` is the most common of the ten (`multiple_choice_answer`), `question_type` the
    official one ("what color is the"). Extra fields: `answers`, the ten as a tuple, which
    `accuracy` takes; `answer_confidences`; `answer_type` ("yes/no", "number", "other"); `question_group`, the 65
    types in a dozen (see `group_of`); `image_id`. `Dataset.typed` makes one of these the type.

    The questions are held in memory, the annotations read one at a time.

    Args:
        questions: such as `v2_OpenEnded_mscoco_val2014_questions.json`.
        annotations: such as `v2_mscoco_val2014_annotations.json`.
        images: a folder, "download", a `Download`, or None to read questions only.
        strict: stop at the first broken row.

    Raises:
        InputError: for a missing file, or (when read) one that is not the official JSON.
    """
    asked_file = files.existing(questions, "questions")
    answered_file = files.existing(annotations, "annotations")
    find = Finder(images, Coco())

    def rows() -> Iterator[Example | Problem]:
        asked: dict[int, dict[str, Any]] = {}
        for number, row in enumerate(files.json_objects(asked_file, "questions")):
            try:
                question_id = fields.number(fields.mapping(row, "question").get("question_id"), "question_id")
                if question_id in asked:
                    raise InputError(f"question_id {question_id}: this id came before")
            except InputError as error:
                yield Problem(f"{asked_file.name}, questions[{number}]", str(error))
                continue
            asked[question_id] = row
        for number, row in enumerate(files.json_objects(answered_file, "annotations")):
            where = f"{answered_file.name}, annotations[{number}]"
            if isinstance(row, dict) and "question_id" in row:
                where += f" (question_id {row['question_id']!r:.20})"
            yield attempt(where, _example, row, asked, find)
        for question_id, row in asked.items():
            if row is not _USED:
                yield Problem(f"{asked_file.name}, question_id {question_id}", f"no annotation in {answered_file.name}")

    return Dataset(f"vqa2:{questions},{annotations}", rows, strict, asked_file)


#: The groups of types by how they begin, first that fits; what fits none is "other", and all that asks for yes or no
#: is one group.
GROUPS = {
    "what color": "color",
    "how many": "number",
    "what number": "number",
    "how": "how",
    "what kind": "kind",
    "what type": "kind",
    "what brand": "kind",
    "what animal": "kind",
    "what sport": "kind",
    "what room": "location",
    "where": "location",
    "what time": "time",
    "who": "person",
    "what person": "person",
    "what man": "person",
    "what woman": "person",
    "why": "reason",
    "which": "which",
    "what": "what",
}
YES_NO = frozenset("is are was were do does did can could has have had will would should there".split())


def group_of(question_type: str) -> str:
    """Of one of VQA's 65 types: "color", "number", "location", "yes/no", ..., see `GROUPS`.

    Types are how questions begin ("what color is the"), so this is a group of beginnings; "is this a cat or a dog" is
    "yes/no" too.
    """
    words = question_type.lower().split()
    if words and words[0] in YES_NO:
        return "yes/no"
    text = " ".join(words) + " "
    return next((group for begin, group in GROUPS.items() if text.startswith(begin + " ")), "other")


#: Stands for a question whose annotation was read.
_USED: dict[str, Any] = {}


def _example(row: Any, asked: dict[int, dict[str, Any]], find: Finder) -> Example:
    given = fields.mapping(row, "annotation")
    question_id = fields.number(given.get("question_id"), "question_id")
    question = asked.get(question_id)
    if question is None:
        raise InputError(f"question_id {question_id}: the file of questions does not have it")
    if question is _USED:
        raise InputError(f"question_id {question_id}: this id came before")
    asked[question_id] = _USED
    image_id = fields.number(question.get("image_id"), "image_id")
    if given.get("image_id", image_id) != image_id:
        raise InputError(f"image_id {given['image_id']!r}: the question is about image {image_id}")
    ten = given.get("answers")
    if not isinstance(ten, list) or not ten:
        raise InputError(f"answers {ten!r:.100}: expected a list of answers")
    several = [fields.mapping(one, "answer") for one in ten]
    used = ("question_id", "image_id", "question", "question_type", "multiple_choice_answer", "answers")
    extra = {k: v for k, v in {**question, **given}.items() if k not in used} | {
        "image_id": image_id,
        "answers": tuple(fields.text(one.get("answer"), "answer") for one in several),
        "answer_confidences": tuple(one.get("answer_confidence") for one in several),
    }
    answer = fields.text(given.get("multiple_choice_answer"), "multiple_choice_answer")
    kind = fields.text(given.get("question_type"), "question_type")
    extra["question_group"] = group_of(kind)
    return Example(
        find(image_id), fields.text(question.get("question"), "question"), answer, kind, str(question_id), extra=extra
    )
