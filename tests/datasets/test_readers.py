"""Each format gives the record that its files hold: against the files read in the plainest way."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import dataset_files as own
from PIL import Image

from nnblip import datasets
from nnblip.datasets import scenes
from nnblip.datasets.readers.palit import official_type
from nnblip.datasets.readers.vqa2 import group_of
from nnblip.errors import InputError
from nnblip.examples import Example, load_image


def read(dataset):
    """All examples, if no row is a problem and ids are distinct texts and the same at each reading."""
    found = list(dataset)
    assert not dataset.problems
    names = [example.id for example in found]
    assert len(set(names)) == len(names) and all(isinstance(name, str) and name for name in names)
    assert [example.id for example in dataset] == names
    assert all(isinstance(example, Example) for example in found)
    return found


@pytest.fixture(params=["own", "real"])
def sample(request, tmp_path):
    """Gives the path of a format's file: the project's own, or a real sample."""

    def of(made, name: str):
        return made(tmp_path / Path(name).name) if request.param == "own" else own.real(name)

    return of


# --- COCO-QA --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_cocoqa_gives_line_n_of_its_four_files(sample, split):
    folder = sample(own.cocoqa, f"cocoqa/{split}")
    four = [(folder / f"{n}.txt").read_text().splitlines() for n in ("questions", "answers", "img_ids", "types")]
    found = read(datasets.cocoqa(folder))
    names = ["object", "number", "color", "location"]
    assert [(e.question, e.answer, str(e.extra["image_id"]), names.index(e.question_type)) for e in found] == [
        (q, a, i, int(t)) for q, a, i, t in zip(*four, strict=True)
    ]
    assert [e.id for e in found] == [f"cocoqa-{split}-{line}" for line in range(1, len(found) + 1)]


def test_cocoqa_reads_both_splits_or_one(tmp_path):
    own.cocoqa(tmp_path / "train"), own.cocoqa(tmp_path / "test", own.COCOQA[:1])
    assert Counter(e.extra["split"] for e in read(datasets.cocoqa(tmp_path))) == {"train": 4, "test": 1}
    assert [e.id for e in read(datasets.cocoqa(tmp_path, split="test"))] == ["cocoqa-test-1"]
    with pytest.raises(InputError, match=r"'tset'.*did you mean 'test'"):
        datasets.cocoqa(tmp_path, split="tset")


# --- the CSV files of Palit et al. ------------------------------------------------------------


@pytest.mark.parametrize("name", ["color", "count", "location"])
def test_palit_gives_each_row_of_the_file(sample, name):
    path = sample(own.palit, f"palit/{name}_coco_qa.csv")
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    found = read(datasets.palit(path))
    label = {"count": "number"}.get(name, name)
    assert [[e.id, str(e.extra["image_id"]), e.question, e.answer] for e in found] == [
        [f"palit-{label}-{row[0]}", *row[1:]] for row in rows
    ]
    assert {e.question_type for e in found} == {label}


def test_palit_keeps_both_labels(tmp_path):
    found = read(datasets.palit(own.palit(tmp_path / "color_coco_qa.csv")))
    assert [e.extra["official_type"] for e in found] == ["color", "color", "number", "location", "object", "color"]
    assert {e.question_type for e in found} == {"color"}
    named = read(datasets.palit(own.palit(tmp_path / "new.csv"), question_type="odd"))
    assert {e.question_type for e in named} == {"odd"}


def test_palits_color_file_has_54_rows_of_another_official_type():
    path = own.real("palit/color_coco_qa.csv")
    count = subprocess.run(["grep", "-vc", ",what is the color of ", path], capture_output=True, text=True).stdout
    assert int(count) - 1 == 54  # without the header
    found = list(datasets.palit(path).where(official_type=("object", "number", "location")))
    colors = {"red", "orange", "yellow", "green", "blue", "black", "white", "brown", "gray", "purple"}  # COCO-QA's ten
    assert len(found) == 54 and not colors & {e.answer for e in found}
    rest = list(datasets.palit(path).where(official_type="color"))
    assert len(rest) == 13059 and {e.answer for e in rest} == colors  # COCO-QA's own count of its training set


def test_the_official_type_is_that_of_cocoqa():
    known = list(datasets.cocoqa(own.real("cocoqa")))
    assert len(known) > 800 and len({e.question_type for e in known}) == 4
    assert [official_type(e.question, e.answer) for e in known] == [e.question_type for e in known]


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("the man holding how many surfboards on the beach", "two", "number"),  # how many where the number stood
        ("there are how many boats in the water", "three", "number"),
        ("what is the color of the sky", "blue", "color"),
        ("what is the color of the sky", "kite", "object"),  # a caption that spoke of a color
        ("where is the cat", "sink", "location"),
        ("what is brown in color", "bears", "object"),
    ],
)
def test_the_official_type_rests_on_question_and_answer(question, answer, kind):
    assert official_type(question, answer) == kind


# --- CLEVR ------------------------------------------------------------------------------------


def test_clevr_gives_each_question_of_each_cell(sample):
    path = sample(own.clevr, "palit/clevr_vqa_dataset_3.csv")
    with path.open(newline="") as file:
        wanted = [
            (f"{image}-{n}", asked["question"], "yes" if asked["answer"] == 1 else "no", asked["answer"])
            for _, image, cell in list(csv.reader(file))[1:]
            for n, asked in enumerate(ast.literal_eval(cell))
        ]
    found = read(datasets.clevr(path))
    assert [(e.id, e.question, e.answer, e.extra["label"]) for e in found] == wanted
    assert all(e.question_type in e.question for e in found)
    assert {e.question_type for e in found} == {"right of", "left of", "behind", "in front of"}


def test_clevr_gives_each_question_of_the_official_file(tmp_path):
    path = own.clevr_json(tmp_path / "CLEVR_val_questions.json")
    rows = json.loads(path.read_text())["questions"]
    found = read(datasets.clevr(path))
    assert [e.id for e in found] == ["clevr-val-0", "clevr-val-1"]
    assert [(e.question, e.answer) for e in found] == [(row["question"], row["answer"]) for row in rows]
    assert [e.question_type for e in found] == [row["program"][-1]["function"] for row in rows]
    assert [e.extra["question_group"] for e in found] == ["exist", "query attribute"]
    assert [e.extra["question_family_index"] for e in found] == [12, 77]
    assert found[1].extra["program"] == "scene filter_color unique query_shape"
    assert {e.extra["image_id"] for e in found} == {"CLEVR_val_000000"}
    own.picture(tmp_path / "images" / "val" / "CLEVR_val_000000.png")
    assert [e.image for e in read(datasets.clevr(path, tmp_path))] == [
        str(tmp_path / "images" / "val" / "CLEVR_val_000000.png")
    ] * 2


def test_clevrs_test_set_has_no_answers(tmp_path):
    kept = ("question", "image_filename", "image_index", "question_index", "split")
    rows = [{key: row[key] for key in kept} for row in own.clevr_rows()]
    found = read(datasets.clevr(own.clevr_json(tmp_path / "c.json", rows)))
    assert [(e.answer, e.question_type) for e in found] == [(None, None)] * 2


# --- VQA v2 -----------------------------------------------------------------------------------


@pytest.fixture(params=["own", "real"])
def vqa2_files(request, tmp_path):
    if request.param == "own":
        return own.vqa2(tmp_path)
    return own.real("vqa2/v2_questions.json"), own.real("vqa2/v2_annotations.json")


def test_vqa2_joins_questions_and_annotations_by_id(vqa2_files):
    questions, annotations = (json.loads(path.read_text()) for path in vqa2_files)
    asked = {row["question_id"]: row for row in questions["questions"]}
    found = read(datasets.vqa2(*vqa2_files))
    assert len(found) == len(asked) >= 2
    for example, row in zip(found, annotations["annotations"], strict=True):
        assert example.id == str(row["question_id"])
        assert example.question == asked[row["question_id"]]["question"]
        assert example.answer == row["multiple_choice_answer"]
        assert example.question_type == row["question_type"]
        assert example.extra["answer_type"] == row["answer_type"]
        assert example.extra["image_id"] == row["image_id"]
        assert example.extra["answers"] == tuple(one["answer"] for one in row["answers"])
        assert len(example.extra["answers"]) == 10


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("what color is the", "color"), ("what color", "color"), ("how many people are in", "number"),
        ("what number is", "number"), ("how", "how"), ("what kind of", "kind"), ("what room is", "location"),
        ("where are the", "location"), ("what time", "time"), ("who is", "person"), ("what is the man", "what"),
        ("why", "reason"), ("which", "which"), ("what does the", "what"), ("is this a", "yes/no"),
        ("are there any", "yes/no"), ("none of the above", "other"), ("what sport is", "kind"),
    ],
)  # fmt: skip
def test_vqas_types_by_group(kind, group):
    assert group_of(kind) == group


def test_vqas_types_can_be_fewer(vqa2_files):
    found = list(datasets.vqa2(*vqa2_files))
    by_answer = list(datasets.vqa2(*vqa2_files).typed("answer_type"))
    assert [e.question_type for e in by_answer] == [e.extra["answer_type"] for e in found]
    assert [e.extra["given_type"] for e in by_answer] == [e.question_type for e in found]
    by_group = list(datasets.vqa2(*vqa2_files).typed("question_group"))
    assert [e.question_type for e in by_group] == [group_of(e.question_type) for e in found]


# --- GQA --------------------------------------------------------------------------------------


def test_gqa_keeps_all_that_the_file_says(sample):
    path = sample(own.gqa, "gqa/questions.json")
    rows = json.loads(path.read_text())
    found = read(datasets.gqa(path))
    assert [e.id for e in found] == list(rows)
    for example, row in zip(found, rows.values(), strict=True):
        assert (example.question, example.answer) == (row["question"], row["answer"])
        assert example.question_type == example.extra["structural_type"] == row["types"]["structural"]
        assert example.extra["semantic_type"] == row["types"]["semantic"]
        assert example.extra["detailed_type"] == row["types"]["detailed"]
        assert example.extra["image_id"] == row["imageId"]
        kept = {key: example.extra[key] for key in row if key not in ("question", "answer", "imageId", "types")}
        assert kept == {key: row[key] for key in kept}


# --- easy-VQA and scenes ----------------------------------------------------------------------


def test_easy_vqa_gives_the_packages_questions():
    package = pytest.importorskip("easy_vqa")
    raw = json.loads((Path(package.__file__).parent / "data" / "test" / "questions.json").read_text())
    found = read(datasets.easy_vqa())
    assert [[e.question, e.answer, int(Path(e.image).stem)] for e in found] == raw
    kinds = Counter("yes/no" if a in ("yes", "no") else "shape" if a in TRIO else "color" for _, a, _ in raw)
    assert Counter(e.question_type for e in found) == kinds == {"yes/no": 7136, "color": 1280, "shape": 1257}
    assert load_image(found[0].image).size == (64, 64)
    with pytest.raises(InputError, match="'val'"):
        datasets.easy_vqa("val")


TRIO = ("circle", "rectangle", "triangle")


def words(example):
    """Of a question: colors of two words are one."""
    return {*example.question.split(), example.question.partition(" is ")[2]}


def test_scenes_are_those_of_the_generator_and_drawn_when_needed():
    found = read(datasets.generated_scenes(50, seed=77))
    assert len(found) == 50
    asked = [
        (question.question, question.answer, question.type, index)
        for index in range(20)
        for question in scenes.questions(scenes.scene(77, index))
    ]
    assert [(e.question, e.answer, e.question_type, e.image.index) for e in found] == asked[:50]
    for example in found:
        scene, boxes = scenes.scene(77, example.image.index), example.extra["box"].split()
        shown = [
            item for item in scene.objects if {item.shape, scenes.PLURALS[item.shape], item.color} & words(example)
        ]
        assert len(boxes) == len(shown), "as many boxes as objects that the question means"
        for box, item in zip(boxes, shown, strict=True):
            left, upper, right, lower = map(int, box.split(","))
            mine = scene.owner == scene.objects.index(item)
            inside = mine[upper:lower, left:right]
            assert inside.sum() == mine.sum() > 0, "all of the object is in its box"
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any(), "and no more"
    last = found[-1]
    np.testing.assert_array_equal(np.asarray(load_image(last.image)), scenes.scene(77, last.image.index).pixels)
    assert [e.id for e in datasets.generated_scenes(3, seed=77)] == [e.id for e in found[:3]]


def test_scenes_without_end_are_read_as_far_as_needed():
    endless = iter(datasets.generated_scenes(None))
    assert len({next(endless).id for _ in range(1500)}) == 1500


# --- tables -----------------------------------------------------------------------------------


def test_a_table_names_its_fields_by_columns():
    path = own.real("triples.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = read(datasets.table(path, columns={"image": "image_file", "question_type": "type"}))
    assert len(found) == len(rows) == 49
    for example, row in zip(found, rows, strict=True):
        assert (example.question, example.answer, example.question_type) == (
            row["question"],
            row["answer"],
            row["type"],
        )
        assert example.image == str(own.SHARED / row["image_file"]) and example.extra == {"dataset": row["dataset"]}


ROWS = [
    {"image": "a.png", "question": "what is it", "answer": "NA", "type": "object", "id": "one", "weight": 0.5},
    {"image": "b.png", "question": 'is it a "dog", or not', "answer": "none", "type": "", "id": "two", "weight": 2.0},
]


@pytest.fixture
def pictures(tmp_path):
    for name in ("a.png", "b.png"):
        own.picture(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("form", ["csv", "parquet", "pandas", "split", "stream", "dicts"])
def test_a_table_is_the_same_whatever_holds_it(form, pictures):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    if form == "csv":
        frame.to_csv(pictures / "t.csv", index=False)
        source = pictures / "t.csv"
    elif form == "parquet":
        frame.to_parquet(pictures / "t.parquet")
        source = pictures / "t.parquet"
    elif form in ("split", "stream"):
        split = pytest.importorskip("datasets").Dataset.from_list(ROWS)
        source = split if form == "split" else split.to_iterable_dataset()
    else:
        source = frame if form == "pandas" else ROWS
    found = read(datasets.table(source, images=pictures))
    assert [(e.image, e.question, e.answer, e.question_type, e.id, float(e.extra["weight"])) for e in found] == [
        (str(pictures / r["image"]), r["question"], r["answer"], r["type"] or None, r["id"], r["weight"]) for r in ROWS
    ]


def test_a_table_without_answers_and_ids_gets_ids(pictures):
    found = read(datasets.table([{"image": r["image"], "question": r["question"]} for r in ROWS], images=pictures))
    assert [(e.id, e.answer) for e in found] == [("table-0", None), ("table-1", None)]


def test_a_table_may_have_ten_answers(pictures):
    rows = [{**ROWS[0], "answers": own.TEN}, {**ROWS[1], "answers": [{"answer": one} for one in own.TEN]}]
    assert {e.extra["answers"] for e in read(datasets.table(rows, images=pictures))} == {tuple(own.TEN)}


def test_pictures_of_a_split_are_not_decoded_before_they_are_needed(tmp_path):
    hugging = pytest.importorskip("datasets")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    own.picture(tmp_path / "whole.png")
    rows = [{"image": str(tmp_path / name), "question": "what is it"} for name in ("whole.png", "broken.png")]
    split = hugging.Dataset.from_list(rows).cast_column("image", hugging.Image())
    found = read(datasets.table(split))
    assert load_image(found[0].image).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(InputError):
        load_image(found[1].image)


def test_the_hub_gives_a_split_row_by_row(tmp_path):
    hugging = pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    rows = [{"image": Image.new("RGB", (4, 4), "blue"), "question": q} for q in ("what is it", "is it blue")]
    hugging.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "validation.parquet")
    stream = read(datasets.hub(str(tmp_path / "data"), "validation"))
    assert [load_image(e.image).getpixel((0, 0)) for e in stream] == [(0, 0, 255)] * 2
    with pytest.raises(InputError, match=r"'none'.*cannot be loaded"):
        datasets.hub(str(tmp_path / "data"), "none")


# --- all of them ------------------------------------------------------------------------------


def test_specs_open_each_format(tmp_path):
    q, a = own.vqa2(tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("image,question\np.png,what is it\n")
    own.picture(tmp_path / "p.png")
    counts = {
        f"cocoqa:{own.cocoqa(tmp_path / 'train')}": 4,
        f"palit:{own.palit(tmp_path / 'color.csv')}": 6,
        f"vqa2:{q},{a}": 2,
        f"gqa:{own.gqa(tmp_path / 'g.json')}": 2,
        f"clevr:{own.clevr(tmp_path / 'c.csv')}": 4,
        f"clevr:{own.clevr_json(tmp_path / 'c.json')}": 2,
        f"table:{table}": 1,
        "scenes": 1000,
        "scenes:7": 7,
    }
    for spec, count in counts.items():
        dataset = datasets.open_dataset(spec)
        assert dataset.name == spec and len(read(dataset)) == count
    assert datasets.open_dataset("easy-vqa").name == "easy-vqa"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cocoqua:x", "did you mean 'cocoqa'"),
        ("cocoqa", "cocoqa:FOLDER"),
        ("palit:", "palit:FILE.csv"),
        ("vqa2:a.json", "vqa2:QUESTIONS.json,ANNOTATIONS.json"),
        ("vqa2:a.json,", "vqa2:QUESTIONS.json,ANNOTATIONS.json"),
        ("scenes:many", "expected scenes, or scenes:N"),
        ("scenes:0", "n 0: expected a whole number of at least 1"),
        ("", "unknown"),
        (None, "expected a text"),
        ("palit:nowhere_color.csv", "no such file"),
        ("cocoqa:nowhere", "no such folder"),
        ("table:nowhere.csv", "no such file"),
    ],
)
def test_a_wrong_spec_says_what_is_right(spec, said):
    with pytest.raises(InputError) as caught:
        datasets.open_dataset(spec)
    assert said in str(caught.value)


def test_reading_opens_no_image(tmp_path):
    (tmp_path / "000000000071.jpg").write_bytes(b"no image")
    (tmp_path / "000000000086.jpg").touch()
    found = read(datasets.vqa2(*own.vqa2(tmp_path), images=tmp_path))
    for example in found:
        with pytest.raises(InputError):
            load_image(example.image)


def test_rows_are_read_one_at_a_time(tmp_path):
    # what follows the first rows is broken, and nobody has seen it yet
    path = own.gqa(tmp_path / "g.json")
    path.write_text(path.read_text()[:-1] + " " * 200_000 + ",,")
    rows = iter(datasets.gqa(path))
    assert next(rows).id == next(iter(own.gqa_rows()))
    with pytest.raises(InputError, match="no whole JSON, after"):
        list(rows)


def test_importing_the_package_is_light():
    heavy = ("torch", "pandas", "ijson", "pooch", "datasets", "pyarrow")
    code = f"import sys, nnblip.datasets; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert {*datasets.__all__} == {*datasets._NAMES} and all(getattr(datasets, name) for name in datasets.__all__)
