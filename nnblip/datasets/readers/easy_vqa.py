"""easy-VQA (Victor Zhou 2019): shapes of one colour on white, from the package of that name."""

from __future__ import annotations

from collections.abc import Iterator

from nnblip.datasets import fields
from nnblip.datasets.records import Dataset, Problem, attempt
from nnblip.errors import InputError, one_of
from nnblip.examples import Example


def easy_vqa(split: str = "test", strict: bool = False) -> Dataset:
    """Its questions; the id is split and number, "easy-vqa-test-17". Images lie in the package.

    `question_type` is "color", "shape" or "yes/no", told from answer and question.

    Args:
        split: "train" (38,575 questions) or "test" (9,673).
        strict: stop at the first broken row.

    Raises:
        InputError: for another split, or if the package is not installed.
    """
    one_of(split, ("train", "test"), "split", InputError)
    try:
        import easy_vqa as package
    except ImportError as error:
        raise InputError("easy-vqa is not installed: pip install 'nnblip[datasets]'") from error

    def rows() -> Iterator[Example | Problem]:
        asked = getattr(package, f"get_{split}_questions")()
        images = getattr(package, f"get_{split}_image_paths")()
        for number, row in enumerate(zip(*asked, strict=True)):
            yield attempt(f"easy-vqa {split} {number}", example, number, row, images)

    def example(number: int, row: tuple[str, str, int], images: dict[int, str]) -> Example:
        question, answer, image_id = fields.text(row[0], "question"), fields.text(row[1], "answer"), row[2]
        if image_id not in images:
            raise InputError(f"image {image_id} is not in the package")
        kind = "yes/no" if answer in ("yes", "no") else "color" if "color" in question else "shape"
        extra = {"image_id": image_id, "split": split}
        return Example(images[image_id], question, answer, kind, f"easy-vqa-{split}-{number}", extra=extra)

    return Dataset("easy-vqa", rows, strict)
