"""Small files in the formats of the data sets, and where the real samples are, if they are there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

#: Real samples of each format, beside the checkout; tests run without them too.
SHARED = Path(__file__).parents[3] / "shared" / "data"

COCOQA = [
    ("what is using umbrellas as a theme", "sculpture", "397899", "0"),
    ("how many boats are there", "two", "71", "1"),
    ("what is the color of the horses", "brown", "23004", "2"),
    ("where is the cat", "sink", "86", "3"),
]
PALIT = [
    ("71", "what is the color of the train", "red"),
    ("71", "what is the color of the sky", "blue"),
    ("86", "how many color bears are there", "two"),
    ("86", "where does the color fade", "room"),
    ("23004", "what is brown in color", "bears"),
    ("71", "what is the color of the train", "red"),
]
CLEVR = [
    ("CLEVR_val_000145", [("Is the large red cube right of the tiny ball?", 1), ("Is it behind the cube?", 0)]),
    ("CLEVR_val_000146", [("Is the cube in front of the ball?", 0), ("Is the cube left of the ball?", 1)]),
]
TEN = ["red", "red", "red", "dark red", "red", "red", "red", "Red.", "maroon", "red"]


def cocoqa(folder: Path, rows=COCOQA) -> Path:
    """COCO-QA's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in zip(("questions", "answers", "img_ids", "types"), zip(*rows, strict=True), strict=True):
        (folder / f"{name}.txt").write_text("".join(cell + "\n" for cell in column))
    return folder


def palit(path: Path, rows=PALIT) -> Path:
    """As the authors published it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "train_image_id_count", "question_count", "answer_count"])
        writer.writerows([number, *row] for number, row in enumerate(rows))
    return path


def clevr(path: Path, rows=CLEVR) -> Path:
    """A Python literal in each cell; a text in `rows` is written as it is."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Image_IDs", "Questions_Answers"])
        for number, (image, asked) in enumerate(rows):
            cell = asked if isinstance(asked, str) else repr([{"question": q, "answer": a} for q, a in asked])
            writer.writerow([number, image, cell])
    return path


def clevr_rows() -> list[dict]:
    """Two questions as CLEVR has them."""
    steps = [("scene", []), ("filter_color", ["red"]), ("unique", []), ("query_shape", [])]
    return [
        {
            "image_index": 0,
            "program": [{"inputs": [], "function": "scene", "value_inputs": []}, {"inputs": [0], "function": "exist"}],
            "question_index": 0,
            "image_filename": "CLEVR_val_000000.png",
            "question_family_index": 12,
            "split": "val",
            "answer": "yes",
            "question": "Are there any things?",
        },
        {
            "image_index": 0,
            "program": [{"inputs": [], "function": name, "value_inputs": values} for name, values in steps],
            "question_index": 1,
            "image_filename": "CLEVR_val_000000.png",
            "question_family_index": 77,
            "split": "val",
            "answer": "cube",
            "question": "What is the shape of the red thing?",
        },
    ]


def clevr_json(path: Path, rows=None) -> Path:
    """The official JSON."""
    info = {"split": "val", "license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}
    path.write_text(json.dumps({"info": info, "questions": clevr_rows() if rows is None else rows}))
    return path


def vqa2_rows() -> tuple[list[dict], list[dict]]:
    """Questions, and their annotations in another order."""
    questions = [
        {"image_id": 71, "question": "What color is the train?", "question_id": 71002},
        {"image_id": 86, "question": "Is it raining?", "question_id": 86001},
    ]
    annotations = [
        {
            "question_type": kind,
            "multiple_choice_answer": people[0],
            "answers": [{"answer": one, "answer_confidence": "yes", "answer_id": n} for n, one in enumerate(people, 1)],
            "image_id": asked["image_id"],
            "answer_type": answer_type,
            "question_id": asked["question_id"],
        }
        for asked, kind, people, answer_type in [
            (questions[1], "is it", ["no"] * 10, "yes/no"),
            (questions[0], "what color is the", TEN, "other"),
        ]
    ]
    return questions, annotations


def vqa2(folder: Path, questions=None, annotations=None) -> tuple[Path, Path]:
    """The two official JSON files."""
    rows = vqa2_rows()
    paths = folder / "questions.json", folder / "annotations.json"
    info = {"version": "2.0", "data_subtype": "val2014"}
    paths[0].write_text(json.dumps({"info": info, "questions": rows[0] if questions is None else questions}))
    paths[1].write_text(json.dumps({"info": info, "annotations": rows[1] if annotations is None else annotations}))
    return paths


def gqa_rows() -> dict[str, dict]:
    return {
        "00126851": {
            "semantic": [{"operation": "exist", "dependencies": [], "argument": "?"}],
            "question": "Are there carts near the pond?",
            "imageId": "1159529",
            "isBalanced": True,
            "groups": {"global": None, "local": "13-pond_cart"},
            "answer": "yes",
            "types": {"detailed": "existRelS", "semantic": "rel", "structural": "verify"},
            "fullAnswer": "Yes, there is a cart.",
        },
        "202218649": {
            "question": "What is hanging above the chalkboard?",
            "imageId": "n578564",
            "answer": "picture",
            "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
        },
    }


def gqa(path: Path, rows=None) -> Path:
    path.write_text(json.dumps(gqa_rows() if rows is None else rows))
    return path


def picture(path: Path, color: str = "red") -> Path:
    """A file that Pillow reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    return path


def real(name: str) -> Path:
    """A real sample, or the test is skipped."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no real sample {name} beside the checkout")
    return path
