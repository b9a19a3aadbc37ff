"""Selection: against counts by grep and awk of the raw files, and plain loops."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from collections import Counter

import pytest
from helpers import dataset_files as own
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nnblip import datasets
from nnblip.datasets import Dataset, Problem, template_of
from nnblip.errors import InputError, NnblipError, NnblipWarning, PlaceError
from nnblip.examples import Example


def several(n=100):
    kinds = ("color", "number")
    return [Example("p.png", f"is it {i}", "yes", kinds[i % 2], f"e{i}", extra={"half": i // 50}) for i in range(n)]


def names(dataset):
    return [example.id for example in dataset]


def shell(command):
    return int(subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout)


def test_counts_are_those_of_grep_and_awk():
    path = own.real("palit/color_coco_qa.csv")
    dataset = datasets.palit(path)
    assert len(names(dataset)) == shell(f"tail -n +2 {path} | wc -l") == 13113
    # rows without a quoted comma: questions are the third cell
    seven = shell(f"grep -v '\"' {path} | tail -n +2 | cut -d, -f3 | awk 'NF == 7' | wc -l")
    unquoted = dataset.filter(lambda e: "," not in e.question)
    assert len(names(unquoted.where(words=7))) == seven > 13000
    template = shell(f"grep -cE '^[0-9]+,[0-9]+,what is the color of the [^,]+,' {path}")
    assert len(names(dataset.where(template="what is the color of the *"))) == template == 13059
    pairs = shell(f"tail -n +2 {path} | cut -d, -f2,3 | sort -u | wc -l")
    with pytest.warns(NnblipWarning, match="96 rows skipped"):
        assert len(names(dataset.distinct())) == pairs


def repeated():
    asked = [("a", "two", 1), ("a", "three", 1), ("A ?", "2", 1), ("a", "two", 2), ("b", None, 1), ("b", "red", 1)]
    return [Example("p", q, a, "t", f"e{i}", extra={"image_id": image}) for i, (q, a, image) in enumerate(asked)]


def test_contradictory_answers_are_told_of():
    with pytest.warns(NnblipWarning, match="1 rows skipped: id e1: 'a' is answered 'two' by e0 and 'three' by e1; the"):
        assert names(Dataset("d", repeated).distinct()) == ["e0", "e3", "e4"]
    with pytest.warns(NnblipWarning, match="1 rows skipped: id e0: .*; none is kept"):
        assert names(Dataset("d", repeated).distinct("none")) == ["e3", "e4"]
    with pytest.raises(InputError, match="id e1: 'a' is answered"):
        names(Dataset("d", repeated, strict=True).distinct())
    with pytest.raises(InputError, match="did you mean 'first'"):
        Dataset("d", repeated).distinct("frist")
    alike = [one for one in repeated() if one.answer != "three"]
    assert names(Dataset("d", lambda: alike).distinct()) == names(Dataset("d", lambda: alike).distinct("none"))


def test_types_by_a_field_or_by_groups():
    dataset = Dataset("d", several)
    by_half = list(dataset.typed("half"))
    assert [e.question_type for e in by_half] == [str(e.extra["half"]) for e in several()]
    assert [e.extra["given_type"] for e in by_half] == [e.question_type for e in several()]
    grouped = list(dataset.typed({"tint": ["color"]}))
    assert {e.question_type for e in grouped} == {"tint"}
    assert [e.id for e in grouped] == names(dataset.where(question_type="color"))
    assert {e.question_type for e in dataset.typed({"tint": "color", "count": ("number",)})} == {"tint", "count"}


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("hafl", "e0: field 'hafl' is unknown; did you mean 'half'"),
        ({"tint": "colour"}, "question type 'colour' is unknown; did you mean 'color'"),
        ({"tint": "color", "hue": ["color"]}, "'color' is in two groups, 'tint' and 'hue'"),
        ({}, "expected the name of a field, or groups"),
        (5, "expected the name of a field, or groups"),
    ],
)
def test_types_that_there_are_not(by, said):
    with pytest.raises(InputError, match=said):
        list(Dataset("d", several).typed(by))


def test_selections_chain_and_read_anew():
    dataset = Dataset("d", several)
    chosen = dataset.where(question_type="color", half=1).where(words=3)
    wanted = [e.id for e in several() if e.question_type == "color" and e.extra["half"] == 1]
    assert names(chosen) == names(chosen) == wanted and len(wanted) == 25
    assert names(dataset.where(question_type=("color", "number"))) == names(dataset)
    assert names(dataset.where(words=range(1, 3))) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(question_type="colour"), "none of 100 examples has the question_type 'colour'; did you mean 'color'?"),
        (dict(question_type=["color", "numbre"]), "'numbre'; did you mean 'number'? There is: 'color', 'number'."),
        (dict(hlaf=1), "no example has a field 'hlaf'; did you mean 'half'? There is: 'half', 'question_type'."),
        (dict(half=2), "none of 100 examples has the half 2. There is: 0, 1."),
        (dict(half=range(2, 9)), "none of 100 examples has the half range(2, 9)"),
        (dict(question_type="color", half="1"), "has the half '1'; did you mean 1? There is: 0, 1."),
    ],
)
def test_a_misspelt_selection_is_refused(asked, said):
    chosen = Dataset("d", several).where(**asked)
    for read in (names, len, lambda one: one.sample(3)):
        with pytest.raises(InputError, match=re.escape(said)):
            read(chosen)


def test_a_selection_of_nothing_and_of_what_is_there_is_not_misspelt():
    dataset = Dataset("d", several)
    assert len(dataset.where(half=range(1, 9))) == 50
    assert len(dataset.where(question_type="color", words=9)) == 0, "nothing fits both, and each is there"
    assert names(Dataset("none", list).where(question_type="colour")) == []


# --- by number --------------------------------------------------------------------------------


def test_length_and_places_are_those_of_what_is_iterated():
    reads = []
    dataset = Dataset("d", lambda: reads.append(1) or several())
    every = [e.id for e in several()]
    assert len(dataset) == 100 and dataset and len(reads) == 1
    assert [dataset[k].id for k in (0, 99, -1, -100)] == [every[k] for k in (0, 99, -1, -100)]
    for part in (slice(3), slice(-5, None), slice(None, None, 7), slice(200, 300)):
        assert names(dataset[part]) == every[part] and len(dataset[part]) == len(every[part])
    assert isinstance(dataset[:3], Dataset) and names(dataset[:60].where(half=1)) == every[50:60]
    assert names(dataset) == every and len(reads) == 1, "what was read is kept"
    with pytest.raises(PlaceError, match="example 100 of d: it has 100, 0 to 99"):
        dataset[100]
    with pytest.raises(IndexError):
        Dataset("d", list)[0]
    with pytest.raises(InputError, match="expected the number of an example, or a slice"):
        dataset["e3"]
    assert not Dataset("d", list) and not len(Dataset("d", list))


def test_a_list_reads_once_and_tells_of_problems_once():
    reads = []
    dataset = Dataset("d", lambda: reads.append(1) or rows())
    with pytest.warns(NnblipWarning, match="4 rows skipped") as told:
        assert [e.id for e in list(dataset)] == ["e0", "e1", "e2"]
    assert len(reads) == len(told) == 1
    assert len(dataset) == 3 and len(dataset.problems) == len(dataset[:2].problems) == 4
    assert repr(dataset) == "<Dataset d, 3 examples, 4 problems>"
    with pytest.raises(InputError, match="f:1: bad"):
        len(Dataset("d", rows, strict=True))


def test_a_notebook_shows_the_first_rows_and_their_pictures(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "p.png")
    made = []
    some = [
        Example(str(tmp_path / "p.png"), "is <it> red", "yes", "color", "a&b", extra={"half": "<i>"}),
        Example("none.png", "is it", id="b"),
        Example(lambda: made.append(1), "is it made", id="c"),
        *several(20),
    ]
    reads = []
    page = Dataset("<b>d</b>", lambda: (reads.append(one) or one for one in some))._repr_html_()
    assert "is &lt;it&gt; red" in page and "a&amp;b" in page and "half=&lt;i&gt;" in page and "&lt;b&gt;d" in page
    assert "<i>" not in page and "<b>d" not in page
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (56, 37)
    assert "there is no such file" in page and "made when it is needed" in page and not made
    assert page.count("<tr>") == 11 and len(reads) == 11, "only the rows that are shown are read"
    assert "did you mean &#x27;color&#x27;" in Dataset("d", several).where(question_type="colr")._repr_html_()


@pytest.mark.parametrize(
    ("template", "question", "fits"),
    [
        ("what is the color of the *", "What is the color of the big dog?", True),
        ("what is the color of the *", "what is the color of the", False),
        ("what is the color of the *", "so what is the color of the dog", False),
        ("what is the color of the *?", "what is the color  of the dog", True),
        ("* color *", "what color is it", True),
        ("* color *", "color is it", False),
        ("how many * are there", "how many big dogs are there ?", True),
        ("is it (a) dog.*", "is it (a) dog.*", True),
        ("is it a d.g", "is it a dog", False),
    ],
)
def test_templates(template, question, fits):
    dataset = Dataset("d", lambda: [Example("p.png", question, id="a")])
    assert bool(names(dataset.where(template=template))) is fits


def test_a_template_without_words_is_refused():
    with pytest.raises(InputError, match="expected a question"):
        Dataset("d", several).where(template=" ? ")


@pytest.mark.parametrize(
    ("question", "template"),
    [
        ("What is the color of the big dog?", "what is the color of the *"),
        ("how many stars are there", "how many * are there"),
        ("which shape is light blue", "which shape is *"),
        ("dog", "*"),
    ],
)
def test_the_template_of_a_question_and_the_question_fit(question, template):
    assert template_of(question) == template
    assert names(Dataset("d", lambda: [Example("p.png", question, id="a")]).where(template=template)) == ["a"]


def test_words_are_what_spaces_part_and_tokens_what_the_model_reads(model):
    questions = ["what is the color of the star", "what is the color of the star?", "where is it"]
    dataset = Dataset("d", lambda: [Example("p.png", q, id=q) for q in questions])
    assert names(dataset.where(words=7)) == questions[:2]
    assert names(dataset.where(tokens=9, model=model)) == questions[:1]  # [CLS] and [SEP] are tokens
    assert names(dataset.where(tokens=(5, 10), model=model)) == questions[1:]
    with pytest.raises(InputError, match="give model="):
        dataset.where(tokens=9)


# --- samples ----------------------------------------------------------------------------------


@given(st.integers(1, 100), st.integers(0, 2**40))
def test_a_sample_is_seeded_in_order_and_without_replacement(n, seed):
    drawn = names(Dataset("d", several).sample(n, seed))
    assert len(drawn) == n == len(set(drawn))
    assert drawn == sorted(drawn, key=lambda name: int(name[1:]))
    assert drawn == names(Dataset("d", several).sample(n, seed))
    assert {*drawn} == {*names(Dataset("d", lambda: several()[::-1]).sample(n, seed))}
    assert {*drawn} <= {*names(Dataset("d", several).sample(min(100, n + 7), seed))}


def test_every_example_is_drawn_about_equally_often():
    counts = Counter(name for seed in range(400) for name in names(Dataset("d", several).sample(10, seed)))
    # 40 expected, standard deviation 6: five of them either way
    assert len(counts) == 100 and min(counts.values()) >= 10 and max(counts.values()) <= 70


@pytest.mark.parametrize("n", [0, -1, 2.5, True, None])
def test_a_sample_of_no_number_is_refused(n):
    with pytest.raises(NnblipError, match="sample n"):
        Dataset("d", several).sample(n, 0)


def test_a_sample_larger_than_the_data_set_says_how_many_there_are():
    with pytest.raises(InputError, match="there are only 50"):
        Dataset("d", several).where(question_type="color").sample(51, 0)


# --- problems ---------------------------------------------------------------------------------


def rows():
    return [Problem("f:1", "bad"), *several(3), Problem("f:5", "worse"), several(1)[0], Example("p", "q", id=None)]


def test_problems_are_those_of_the_latest_complete_reading():
    dataset = Dataset("d", rows)
    half = iter(dataset)
    assert next(half).id == "e0" and dataset.problems == []
    for _ in range(2):
        with pytest.warns(NnblipWarning, match="d: 4 rows skipped: f:1: bad; f:5: worse; id e0: .*; ..."):
            assert names(dataset) == ["e0", "e1", "e2"]
        assert [str(p) for p in dataset.problems] == [
            "f:1: bad", "f:5: worse", "id e0: this id came before", "id None: no id",
        ]  # fmt: skip


def test_a_selection_tells_of_the_problems_too():
    for select in (lambda d: d.where(question_type="color"), lambda d: d.distinct(), lambda d: d.sample(2)):
        with pytest.warns(NnblipWarning, match="4 rows skipped"):
            chosen = select(Dataset("d", rows))
            assert len(names(chosen)) >= 2
        assert len(chosen.problems) == 4
        with pytest.raises(InputError, match="f:1: bad"):
            names(select(Dataset("d", rows, strict=True)))


def test_a_sample_keeps_its_problems_without_telling_of_them_again():
    with pytest.warns(NnblipWarning):
        chosen = Dataset("d", rows).sample(2)
    assert len(names(chosen)) == 2 and len(chosen.problems) == 4  # a second warning would be an error here
    assert len(names(chosen.where(words=3))) == 2 and len(chosen.where(words=3).problems) == 4
