"""Broken rows are named, counted and skipped, or stop the run; broken files always stop it."""

from __future__ import annotations

import io
import json
import os
from functools import partial

import pytest
from helpers import dataset_files as own
from hypothesis import given
from hypothesis import strategies as st

from nnblip import datasets
from nnblip.datasets.json_bytes import Pairs
from nnblip.errors import InputError, NnblipWarning

DEEP = "[" * 100_000


def broken(make, ids, *said):
    """The rows that are left have these ids, each problem says one of `said`, and `strict` stops at the first."""
    dataset = make(strict=False)
    with pytest.warns(NnblipWarning, match=f"{len(said)} rows skipped"):
        assert [example.id for example in dataset] == list(ids)
    assert len(dataset.problems) == len(said), dataset.problems
    for problem, (where, what) in zip(dataset.problems, said, strict=True):
        assert where in problem.where and what in problem.what, problem
    with pytest.raises(InputError) as caught:
        list(make(strict=True))
    assert said[0][0] in str(caught.value) and said[0][1] in str(caught.value)


def refused(make, *said):
    """A file that cannot be used stops the run, strict or not; the error says what is wrong."""
    for strict in (False, True):
        with pytest.raises(InputError) as caught:
            list(make(strict=strict))
        for part in said:
            assert part in str(caught.value), caught.value


# --- COCO-QA --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("", "two", "71", "1"), "question ''"),
        (("how many", "  ", "71", "1"), "answer"),
        (("how many", "two", "seventy", "1"), "image id 'seventy'"),
        (("how many", "two", "-71", "1"), "image id '-71'"),
        (("how many", "two", "7" * 30, "1"), "image id"),
        (("how many", "two", "71", "4"), "type '4'"),
        (("how many", "two", "71", ""), "type ''"),
    ],
)
def test_cocoqa_rows(row, what, tmp_path):
    own.cocoqa(tmp_path / "train", [own.COCOQA[0], row, own.COCOQA[2]])
    broken(lambda strict: datasets.cocoqa(tmp_path, strict=strict), ["cocoqa-train-1", "cocoqa-train-3"], (":2", what))


def test_cocoqa_bytes_that_are_no_utf8_break_one_row(tmp_path):
    path = own.cocoqa(tmp_path / "test") / "answers.txt"
    path.write_bytes(path.read_bytes().replace(b"brown", b"br\xff\xfewn"))
    ids = [f"cocoqa-test-{line}" for line in (1, 2, 4)]
    broken(lambda strict: datasets.cocoqa(tmp_path, strict=strict), ids, (":3", "not UTF-8"))


@pytest.mark.parametrize("short", ["questions", "answers", "img_ids", "types"])
@pytest.mark.parametrize("left", [0, 3])
def test_four_files_of_different_lengths_cannot_be_matched(short, left, tmp_path):
    path = own.cocoqa(tmp_path / "train") / f"{short}.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:left]))
    refused(
        lambda strict: datasets.cocoqa(tmp_path, strict=strict), f"{short}.txt {left}", "different numbers of lines"
    )


def test_cocoqa_that_is_not_there(tmp_path):
    refused(lambda strict: datasets.cocoqa(tmp_path / "none", strict=strict), "no such folder")
    refused(lambda strict: datasets.cocoqa(tmp_path, strict=strict), "expected questions.txt")
    (own.cocoqa(tmp_path / "train") / "types.txt").unlink()
    refused(lambda strict: datasets.cocoqa(tmp_path, strict=strict), "types.txt", "no such file")
    own.cocoqa(tmp_path / "train")
    refused(lambda strict: datasets.cocoqa(tmp_path, tmp_path / "jpg", strict=strict), "jpg", "no such folder")


# --- CSV --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"9,71,,red", "question ''"),
        (b"9,71,what is it,", "answer ''"),
        (b"9,COCO_71,what is it,red", "image id 'COCO_71'"),
        (b"9,71,what is it", "3 cells, expected 4"),
        (b"9,71,what is it,red,blue", "5 cells, expected 4"),
        (b"9,71,what is \xff it,red", "not UTF-8"),
        (b'9,71,"what" is it,red', "no CSV"),
        (b"nine,71,what is it,red", "index 'nine'"),
        (b"0,71,what is it,red", "this id came before"),
    ],
)
def test_palit_rows(line, what, tmp_path):
    path = own.palit(tmp_path / "color.csv", own.PALIT[:1])
    path.write_bytes(path.read_bytes() + line + b"\r\n2,71,what is the color of it,red\r\n")
    where = "id palit-color-0" if "id came" in what else "color.csv:3"
    broken(lambda strict: datasets.palit(path, strict=strict), ["palit-color-0", "palit-color-2"], (where, what))


def test_a_quote_that_is_never_closed_is_told_of_with_all_it_swallows(tmp_path):
    path = own.palit(tmp_path / "color.csv")
    path.write_text(path.read_text().replace("what is the color of the sky", '"what is the color of the sky'))
    broken(
        lambda strict: datasets.palit(path, strict=strict),
        ["palit-color-0"],
        ("color.csv:3", "lines 3 to 7"),
    )


def test_cells_are_not_guessed_to_be_missing_values(tmp_path):
    answers = ["none", "NA", "nan", "null", "None", "1", "1.0", "True"]
    path = own.palit(tmp_path / "number.csv", [("71", f"how many {answer}", answer) for answer in answers])
    assert [example.answer for example in datasets.palit(path)] == answers


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_no_part_of_the_first_column(mark, tmp_path):
    path = tmp_path / "color.csv"
    path.write_text(f"{mark}question,answer,image_id\nwhat is it,red,71\n", encoding="utf-8")
    assert [(e.id, e.question) for e in datasets.palit(path)] == [("palit-color-0", "what is it")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        (",train_image_id,question\n0,71,what\n", "no column for the answer"),
        (",question,question,answer\n", "two columns have one name"),
        ("\n", "empty"),
    ],
)
def test_csv_files_without_the_columns(content, said, tmp_path):
    for name, read in (("color.csv", datasets.palit), ("t.csv", datasets.table)):
        path = tmp_path / name
        path.write_text(content)
        refused(lambda strict, read=read, path=path: read(path, strict=strict), "column")
    refused(lambda strict: datasets.palit(tmp_path / "color.csv", strict=strict), said)


def test_a_palit_file_whose_name_tells_no_type(tmp_path):
    path = own.palit(tmp_path / "questions.csv")
    refused(lambda strict: datasets.palit(path, strict=strict), "tells no question type", "question_type=")


# --- CLEVR ------------------------------------------------------------------------------------

GOOD = ("CLEVR_val_1", [("Is it left of the ball?", 1)])


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (("CLEVR_val_2", "[{'question': 'Is it?', 'answer': 1}"), "no Python literal"),
        (("CLEVR_val_2", "__import__('pathlib').Path(NAME).touch()"), "no Python literal"),
        (("CLEVR_val_2", "[__import__('pathlib').Path(NAME).touch()]"), "no Python literal"),
        (("CLEVR_val_2", DEEP), "no Python literal"),
        (("CLEVR_val_2", ""), "no Python literal"),
        (("CLEVR_val_2", "[]"), "expected a list"),
        (("CLEVR_val_2", "{'question': 'Is it?', 'answer': 1}"), "expected a list"),
        (("../../CLEVR_val_2", "[{'question': 'Is it?', 'answer': 1}]"), "image id"),
        (("CLEVR_val_2", "[{'question': 'Is it?', 'answer': 2}]"), "answer 2"),
        (("CLEVR_val_2", "[{'question': 'Is it?', 'answer': True}]"), "answer True"),
        (("CLEVR_val_2", "[{'question': 'Is it?'}]"), "answer None"),
        (("CLEVR_val_2", "[{'question': '', 'answer': 1}]"), "question ''"),
        (("CLEVR_val_2", "['Is it?']"), "expected names with values"),
        (("CLEVR_val_2", "[" + "0," * 200_000 + "]"), "field larger than field limit"),
    ],
)
def test_clevr_rows(row, what, tmp_path):
    image, cell = row
    path = own.clevr(tmp_path / "c.csv", [GOOD, (image, cell.replace("NAME", repr(str(tmp_path / "ran")))), GOOD])
    path.write_text(path.read_text()[::-1].replace("CLEVR_val_1"[::-1], "CLEVR_val_3"[::-1], 1)[::-1])
    broken(lambda strict: datasets.clevr(path, strict=strict), ["CLEVR_val_1-0", "CLEVR_val_3-0"], ("c.csv:3", what))
    assert not (tmp_path / "ran").exists()


def test_one_broken_question_of_a_clevr_cell_leaves_the_others(tmp_path):
    path = own.clevr(
        tmp_path / "c.csv", [("CLEVR_val_1", [("Is it left of it?", 1), ("Is it?", "yes"), ("Is it?", 0)])]
    )
    read = lambda strict: datasets.clevr(path, strict=strict)  # noqa: E731
    broken(read, ["CLEVR_val_1-0", "CLEVR_val_1-2"], ("c.csv:2, question 1", "answer 'yes'"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"question": ""}, "question ''"),
        ({"answer": 5}, "answer 5"),
        ({"image_filename": "../../secret.png"}, "image id '../../secret'"),
        ({"image_filename": None}, "image_filename None"),
        ({"split": None}, "split None"),
        ({"question_index": "x"}, "question_index 'x'"),
        ({"question_index": 0}, "this id came before"),
        ({"program": []}, "program []"),
        ({"program": ["count"]}, "function 'count'"),
        ({"program": [{"inputs": []}]}, "function None"),
    ],
)
def test_clevr_questions(change, what, tmp_path):
    rows = own.clevr_rows()
    rows[1] |= change
    path = own.clevr_json(tmp_path / "c.json", [*rows, rows[0] | {"question_index": 7}])
    where = "id clevr-val-0" if "came before" in what else "questions[1]"
    broken(lambda strict: datasets.clevr(path, strict=strict), ["clevr-val-0", "clevr-val-7"], (where, what))


# --- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"[]", "begins with '['"),
        (b"null", "begins with 'n'"),
        (b"{}", ""),
        (b"{", "no whole JSON"),
        (b'{"questions": [{"question_id": 1', "no whole JSON"),
        (b'{"a": {"question": "what \xff\xfe"}}', ""),
        (b'{"questions": {}, "annotations": 5}', ""),
        (b'{"a": ' + DEEP.encode(), ""),
        (b"\x80\x04\x95", "begins with"),
        (b"\x00" * 100, "begins with"),
    ],
)
def test_json_that_is_not_what_it_should_be(content, said, tmp_path):
    path, good = tmp_path / "bad.json", own.vqa2(tmp_path)
    path.write_bytes(content)
    refused(lambda strict: datasets.vqa2(path, good[1], strict=strict), str(path), said)
    refused(lambda strict: datasets.vqa2(good[0], path, strict=strict), str(path), said)
    if b"questions" not in content or "no whole" in said:
        refused(lambda strict: datasets.gqa(path, strict=strict), str(path), said)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_json_cut_short(share, tmp_path):
    paths, cut = own.vqa2(tmp_path), tmp_path / "cut.json"
    for place, path in enumerate(paths):
        data = path.read_bytes()
        cut.write_bytes(data[: int(len(data) * share)])
        pair = [*paths]
        pair[place] = cut
        refused(lambda strict, pair=pair: datasets.vqa2(*pair, strict=strict), str(cut), "no whole JSON")
    data = own.gqa(cut).read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    refused(lambda strict: datasets.gqa(cut, strict=strict), str(cut), "no whole JSON")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"question_id": 5}, "the file of questions does not have it"),
        ({"question_id": "x"}, "question_id 'x'"),
        ({"image_id": 72}, "the question is about image 86"),
        ({"answers": []}, "answers []"),
        ({"answers": ["red"]}, "answer 'red'"),
        ({"answers": [{"answer": None}]}, "answer None"),
        ({"multiple_choice_answer": ""}, "multiple_choice_answer ''"),
        ({"question_type": None}, "question_type None"),
    ],
)
def test_vqa2_annotations(change, what, tmp_path):
    questions, annotations = own.vqa2_rows()
    annotations[0] |= change
    paths = own.vqa2(tmp_path, questions, annotations)
    said = [("annotations[0]", what)]
    if "question_id" in change:
        said.append(("question_id 86001", "no annotation"))
    broken(lambda strict: datasets.vqa2(*paths, strict=strict), ["71002"], *said)


def test_vqa2_ids_that_repeat(tmp_path):
    questions, annotations = own.vqa2_rows()
    paths = own.vqa2(tmp_path, [*questions, questions[0]], [*annotations, annotations[0]])
    broken(
        lambda strict: datasets.vqa2(*paths, strict=strict),
        ["86001", "71002"],
        ("questions[2]", "came before"),
        ("annotations[2]", "came before"),
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"question": ""}, "question ''"),
        ({"answer": 5}, "answer 5"),
        ({"imageId": "../../secret"}, "imageId"),
        ({"imageId": None}, "imageId None"),
        ({"types": None}, "types None"),
        ({"types": {"structural": "query"}}, "semantic type None"),
    ],
)
def test_gqa_rows(change, what, tmp_path):
    rows = own.gqa_rows()
    rows["00126851"] |= change
    path = own.gqa(tmp_path / "g.json", rows)
    broken(lambda strict: datasets.gqa(path, strict=strict), ["202218649"], ("00126851", what))


def test_gqa_ids_that_repeat_are_not_lost_in_a_dict(tmp_path):
    path = own.gqa(tmp_path / "g.json")
    path.write_text(path.read_text()[:-1] + "," + json.dumps(own.gqa_rows())[1:])
    ids = list(own.gqa_rows())
    said = [(f"id {name}", "came before") for name in ids]
    broken(lambda strict: datasets.gqa(path, strict=strict), ids, *said)
    path.write_text(json.dumps({"1": 5, **own.gqa_rows()}))
    broken(lambda strict: datasets.gqa(path, strict=strict), ids, ("question '1'", "expected names with values"))


# --- half of a surrogate pair ------------------------------------------------------------------


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"\\\ud83d"])
def test_half_of_a_surrogate_pair_is_told_of_and_no_question_mark(half, tmp_path):
    path = own.gqa(tmp_path / "g.json")
    whole = path.read_text()
    for field in ("above the chalk", "picture"):  # the question, and the answer
        path.write_text(whole.replace(field, f"{field}{half}", 1))
        broken(lambda strict: datasets.gqa(path, strict=strict), ["00126851"], ("202218649", "half of a surrogate"))
    path.write_text(whole.replace("there is a cart", f"there is {half}", 1))  # a field that is only kept
    broken(lambda strict: datasets.gqa(path, strict=strict), ["202218649"], ("00126851", "fullAnswer"))


def test_what_is_nested_deep_is_looked_through(tmp_path):
    path = own.gqa(tmp_path / "g.json")
    deep = "[" * 900 + r'"\ud83d"' + "]" * 900
    path.write_text(path.read_text().replace('"fullAnswer"', f'"deep": {deep}, "fullAnswer"', 1))
    broken(lambda strict: datasets.gqa(path, strict=strict), ["202218649"], ("00126851", "question: deep"))


@pytest.mark.parametrize("text", [r"\ud83d\ude00", r"\\ud83d", r"\u00e9\\", r"\"\ud83d\ude00\""])
def test_whole_pairs_and_backslashes_are_what_json_says(text, tmp_path):
    path = own.gqa(tmp_path / "g.json")
    path.write_text(path.read_text().replace("chalkboard", text))
    assert json.loads(f'"{text}"') in list(datasets.gqa(path))[1].question


@given(
    st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\\", r"\n", r"\u0041", "ud83d", "a", " ", ","]), max_size=12),
    st.integers(1, 30),
)
def test_pairs_are_seen_wherever_a_file_is_cut(parts, size):
    text = "".join(parts)
    file = Pairs(io.BytesIO(f'["{text}"]'.encode()))
    read = b"".join(iter(partial(file.read, size), b""))
    wanted = json.loads(f'"{text}"')  # Python keeps halves
    marked = "".join("\ufffe" if "\ud800" <= one <= "\udfff" else one for one in wanted)
    assert json.loads(read) == [marked]


# --- the wrong reader ---------------------------------------------------------------------------


def files_of_all(folder):
    """A file of each format, with the spec that reads it."""
    questions, annotations = own.vqa2(folder)
    return {
        f"cocoqa:{own.cocoqa(folder / 'coco' / 'train').parent}": folder / "coco",
        f"palit:{own.palit(folder / 'color.csv')}": folder / "color.csv",
        f"clevr:{own.clevr(folder / 'count_clevr.csv')}": folder / "count_clevr.csv",
        f"clevr:{own.clevr_json(folder / 'clevr.json')}": folder / "clevr.json",
        f"gqa:{own.gqa(folder / 'gqa.json')}": folder / "gqa.json",
        f"vqa2:{questions},{annotations}": questions,
    }


@pytest.mark.parametrize("reader", ["clevr", "cocoqa", "gqa", "palit", "table", "vqa2"])
def test_a_reader_that_understands_nothing_says_which_one_would(reader, tmp_path):
    tried = 0
    for spec, path in files_of_all(tmp_path).items():
        name = spec.partition(":")[0]
        if name == reader:
            assert list(datasets.open_dataset(spec)), "its own files are read"
            continue
        wrong = f"{reader}:{path},{path}" if reader == "vqa2" else f"{reader}:{path}"
        for strict in (False, True):
            with pytest.raises(InputError) as caught:
                list(datasets.open_dataset(wrong, strict=strict))
        if reader == "table" and path.suffix != ".csv":
            continue  # it is told which files are tables
        tried += 1
        if not (reader == "palit" and path.suffix == ".json"):  # its name tells no type
            assert f"it looks like one for {name}:" in str(caught.value) or strict, caught.value
    assert tried >= 2


def test_gqa_does_not_read_clevr_as_nothing(tmp_path):
    path = own.clevr_json(tmp_path / "CLEVR_val_questions.json")
    with pytest.raises(InputError, match=r"not one of 2 rows can be used: .*it looks like one for clevr:FILE$"):
        list(datasets.open_dataset(f"gqa:{path}"))


def test_a_selection_of_nothing_is_nothing_and_rows_that_are_all_broken_are_an_error(tmp_path):
    path = own.palit(tmp_path / "color.csv", [("x", "what is it", "red")] * 5)
    with pytest.raises(InputError, match=r"not one of 5 rows can be used: color.csv:2: image id 'x'.*; \.\.\.$"):
        list(datasets.palit(path).where(words=3))
    own.palit(path)
    assert list(datasets.palit(path).where(words=100)) == []


# --- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"question": ""}, "question ''"),
        ({"answer": None}, "answer None"),
        ({"image": "none.png"}, "image 'none.png' is not in"),
        ({"image": ""}, "image ''"),
        ({"image": None}, "image None"),
        ({"id": None}, "id ''"),
        ({"id": "a"}, "this id came before"),
        ({"answers": "red"}, "answers 'red'"),
        ({"answers": [5]}, "answer 5"),
    ],
)
def test_table_rows(change, what, tmp_path):
    own.picture(tmp_path / "p.png")
    row = {"image": "p.png", "question": "what is it", "answer": "red", "answers": ["red"]}
    rows = [{"id": "a", **row}, {**row, "id": "b", **change}, {"id": "c", **row}]
    where = "id a" if change == {"id": "a"} else "row 1"
    broken(lambda strict: datasets.table(rows, images=tmp_path, strict=strict), ["a", "c"], (where, what))


def outside(tmp_path):
    """A table that a stranger has sent, and pictures beside its folder."""
    own.picture(tmp_path / "private.png")
    (tmp_path / "sent" / "deep").mkdir(parents=True)
    own.picture(tmp_path / "sent" / "p.png")
    own.picture(tmp_path / "sent" / "deep" / "p.png")
    (tmp_path / "sent" / "link.png").symlink_to(tmp_path / "private.png")
    (tmp_path / "sent" / "folder").symlink_to(tmp_path)
    (tmp_path / "sent" / "inner.png").symlink_to("p.png")
    (tmp_path / "sent" / "loop.png").symlink_to("loop.png")
    return tmp_path / "sent"


INSIDE = ["p.png", "deep/p.png", "deep/../p.png", "inner.png", "./p.png"]
OUTSIDE = ["../private.png", "link.png", "folder/private.png", "deep/../../private.png", "/etc/hostname", "../none.png"]
NOWHERE = ["none.png", "loop.png", "x" * 300, "a" * 5000, "deep", ""]


def test_a_table_names_images_of_its_own_folder_only(tmp_path):
    folder = outside(tmp_path)
    path = folder / "t.csv"
    names = [*INSIDE, str(folder / "p.png"), *OUTSIDE, str(tmp_path / "private.png"), *NOWHERE]
    path.write_text("image,question\n" + "".join(f"{name},what is it\n" for name in names))
    with pytest.warns(NnblipWarning, match="13 rows skipped"):
        found = list(datasets.table(path))
    dataset = datasets.table(path)
    with pytest.warns(NnblipWarning):
        assert len(list(dataset)) == len(found) == len(INSIDE) + 1
    said = [str(problem) for problem in dataset.problems]
    for number, name in enumerate([*OUTSIDE, str(tmp_path / "private.png")], len(INSIDE) + 3):
        remedy = f"image {name!r} lies outside {str(folder)!r}: --allow-outside (allow_outside=True) takes it"
        assert f"t.csv:{number}: {remedy}" in said
    assert sum("lies outside" in one for one in said) == len(OUTSIDE) + 1
    with pytest.raises(InputError, match=r"t.csv:8: image '../private.png' lies outside"):
        list(datasets.open_dataset(f"table:{path}", strict=True))
    with pytest.warns(NnblipWarning, match="7 rows skipped"):
        assert len(list(datasets.open_dataset(f"table:{path}", allow_outside=True))) == len(names) - 7


def test_images_of_the_folder_that_is_given_are_inside(tmp_path):
    folder = outside(tmp_path)
    rows = [{"image": name, "question": "what is it"} for name in ("private.png", "sent/p.png", "sent/link.png")]
    (folder / "t.csv").write_text("image,question\nprivate.png,what is it\nsent/link.png,what is it\n")
    assert len(list(datasets.table(folder / "t.csv", images=tmp_path))) == 2
    assert len(list(datasets.table(rows, images=tmp_path))) == 3
    (tmp_path / "elsewhere").symlink_to(folder)
    assert len(list(datasets.table([{"image": "p.png", "question": "q"}], images=tmp_path / "elsewhere"))) == 1
    refused(lambda strict: datasets.table(rows[:2], images=folder, strict=strict), "row 0", "is not in")
    private = [{"image": str(tmp_path / "private.png"), "question": "what is it"}]
    refused(lambda strict: datasets.table(private, images=folder, strict=strict), "row 0", "lies outside")
    assert len(list(datasets.table(private))) == 1, "rows in memory are the caller's own"


def test_a_split_of_the_hub_names_no_files_of_this_machine(tmp_path):
    hugging = pytest.importorskip("datasets")
    own.picture(tmp_path / "private.png")
    (tmp_path / "data").mkdir()
    rows = [{"image": str(tmp_path / "private.png"), "question": "what is it"}]
    hugging.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "train.parquet")
    refused(
        lambda strict: datasets.hub(str(tmp_path / "data"), "train", strict=strict),
        "row 0: image ", "lies on this machine, not in the data set: --allow-outside (allow_outside=True) takes it",
    )  # fmt: skip
    assert len(list(datasets.hub(str(tmp_path / "data"), "train", allow_outside=True))) == 1
    assert len(list(datasets.hub(str(tmp_path / "data"), "train", images=tmp_path))) == 1


def test_tables_that_are_none(tmp_path):
    for source in (5, iter([{}]), {"image": 1}, object()):
        refused(lambda strict, source=source: datasets.table(source, strict=strict), "expected a file, a pandas frame")
    for name, said in (("t.parquet", "no Parquet file"), ("t.xlsx", "'.xlsx' is unknown")):
        (tmp_path / name).write_bytes(b"PAR1 but no more than that PAR1")
        refused(lambda strict, name=name: datasets.table(tmp_path / name, strict=strict), said)
    refused(lambda strict: datasets.table([], strict=strict), "no column for the image")
    refused(lambda strict: datasets.table([{"question": "q", "photo": "p"}], strict=strict), "columns={'image': ...}")
    rows = [{"question": "q", "photo": "p"}]
    refused(lambda strict: datasets.table(rows, {"image": "foto"}, strict=strict), "did you mean 'photo'")
    refused(lambda strict: datasets.table(rows, {"imgae": "photo"}, strict=strict), "did you mean 'image'")
    refused(lambda strict: datasets.table(rows, images="download", strict=strict), "images=FOLDER")


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "table"), ("datasets", "table"), ("easy_vqa", "datasets")])
def test_a_package_that_is_missing_is_told_with_its_extra(package, extra, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "t.parquet").touch()
    ask = {
        "pyarrow": lambda: datasets.table(tmp_path / "t.parquet"),
        "datasets": lambda: datasets.hub("x/y", "test"),
        "easy_vqa": datasets.easy_vqa,
    }
    with pytest.raises(InputError, match=rf"pip install 'nnblip\[{extra}\]'"):
        ask[package]()


def test_the_extras_that_errors_name_are_there():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {"datasets", "pyarrow"} == {name.split(">")[0] for name in extras["table"]}
    assert "easy-vqa==1.0" in extras["datasets"]


def test_a_file_named_by_nothing_readable(tmp_path):
    for read in (datasets.palit, datasets.clevr, datasets.gqa, datasets.table):
        refused(lambda strict, read=read: read(tmp_path, strict=strict), "no such file")
    assert os.access(tmp_path, os.R_OK)
