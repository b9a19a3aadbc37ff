"""VQA's soft accuracy, against its formula and against what the official rules say of single answers."""

from __future__ import annotations

import itertools
import json
from statistics import mean

import pytest
from helpers import dataset_files as own
from hypothesis import given
from hypothesis import strategies as st

from nnblip.datasets import accuracy
from nnblip.datasets.vqa_accuracy import normalized


def formula(answer, people):
    """Accuracy = mean over the subsets of n-1 people of min(1, how many of them said it / 3)."""
    subsets = itertools.combinations(people, len(people) - 1)
    return mean(min(1, subset.count(answer) / 3) for subset in subsets)


@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=10, max_size=10), st.sampled_from(["red", "blue"]))
def test_accuracy_is_the_official_formula(people, answer):
    assert accuracy(answer, people) == pytest.approx(formula(answer, people), abs=1e-12)


@pytest.mark.parametrize(("times", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_by_how_many_of_ten_said_it(times, score):
    assert accuracy("red", ["red"] * times + ["blue"] * (10 - times)) == pytest.approx(score)


def test_people_who_agree_are_compared_letter_by_letter():
    # the official code brings answers to normal form only where people disagree
    assert accuracy("a dog", ["dog"] * 10) == 0
    assert accuracy("a dog", ["dog"] * 9 + ["cat"]) == 1
    assert accuracy("dog\n", ["dog"] * 10) == 1


def test_answers_of_the_people_are_normalized_too():
    assert accuracy("red", ["Red."] * 2 + ["the red"] * 2 + ["blue"] * 6) == 1


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("A dog", "dog"),
        ("the man and an apple", "man and apple"),
        ("None", "0"),
        ("two", "2"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("youre", "you're"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("yes.", "yes"),
        ("2.5", "2.5"),
        ("1,000", "1000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("what?", "what"),
        ("cat's", "cat's"),
        ("10:30", "10:30"),
        (" two\tdogs\n", "2 dogs"),
        ("the", ""),
    ],
)
def test_normal_forms(answer, form):
    assert normalized(answer) == form


def test_the_most_common_answer_of_real_questions_is_right():
    rows = json.loads(own.real("vqa2/v2_annotations.json").read_text())["annotations"]
    for row in rows:
        people = [one["answer"] for one in row["answers"]]
        plain = formula(row["multiple_choice_answer"], people)
        assert accuracy(row["multiple_choice_answer"], people) >= plain - 1e-12 > 0.2
