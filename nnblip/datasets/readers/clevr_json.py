"""CLEVR (Johnson et al. 2017) in its official JSON: a list of questions, each with the program that answers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnblip.datasets import fields, files
from nnblip.datasets.images import Finder
from nnblip.datasets.records import Problem, attempt
from nnblip.errors import InputError
from nnblip.examples import Example

#: What a program ends with, in the paper's five groups.
GROUPS = {
    "exist": "exist",
    "count": "count",
    "equal_integer": "compare integer",
    "greater_than": "compare integer",
    "less_than": "compare integer",
    **{f"query_{what}": "query attribute" for what in ("color", "shape", "size", "material")},
    **{f"equal_{what}": "compare attribute" for what in ("color", "shape", "size", "material")},
}


def official(path: Path, find: Finder) -> Iterator[Example | Problem]:
    """Each question of the file, one at a time."""
    for number, row in enumerate(files.json_objects(path, "questions")):
        where = f"{path.name}, questions[{number}]"
        if isinstance(row, dict) and "question_index" in row:
            where += f" (question_index {row['question_index']!r:.20})"
        yield attempt(where, _example, row, find)


def _example(row: Any, find: Finder) -> Example:
    given = fields.mapping(row, "question")
    question = fields.text(given.get("question"), "question")
    answer = fields.text(given["answer"], "answer") if "answer" in given else None
    image_id = fields.text(given.get("image_filename"), "image_filename").removesuffix(".png")
    split = fields.name(given.get("split"), "split")
    index = fields.number(given.get("question_index"), "question_index")
    extra = {k: v for k, v in given.items() if k not in ("question", "answer", "program")} | {"image_id": image_id}
    kind = None
    if "program" in given:
        functions = _functions(given["program"])
        kind = functions[-1]
        extra |= {"program": " ".join(functions), "question_group": GROUPS.get(kind, kind)}
    return Example(find(image_id), question, answer, kind, f"clevr-{split}-{index}", extra=extra)


def _functions(program: Any) -> list[str]:
    """The names of its functions, in the order in which they are called; older files call them types."""
    if not isinstance(program, list) or not program:
        raise InputError(f"program {program!r:.100}: expected a list of functions")
    steps = [fields.mapping(step, "function") for step in program]
    return [fields.name(step.get("function", step.get("type")), "function") for step in steps]
