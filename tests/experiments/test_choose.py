"""Questions that the model answers correctly: in order, each image once, counted, and never asked twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nnblip
from nnblip.datasets import open_dataset
from nnblip.experiments.choose import Asked, choose, passed_over, require
from nnblip.experiments.sources import image_of


@pytest.fixture(scope="module")
def scenes():
    """Color questions of seven words; the small model answers the first of them correctly."""
    every = open_dataset("scenes").where(question_type="color", words=7)
    seen: dict[str, nnblip.Example] = {}
    for example in every:
        seen.setdefault(image_of(example), example)
        if len(seen) == 6:
            break
    return list(seen.values())


def test_questions_are_passed_over_in_order_and_counted(model, scenes, tmp_path):
    wrong = replace(scenes[0], id="wrong", answer="purple circle")
    longer = replace(scenes[1], id="longer", question=f"{scenes[1].question} ?")
    broken = replace(scenes[2], id="broken", image="nowhere.png", extra={})
    given = [wrong, scenes[0], longer, broken, *scenes[1:]]
    (found,) = choose(Asked(model, tmp_path / "log"), {"these": given}, 3, aligned=True)
    assert [e.id for e in found.examples] == [e.id for e in scenes[:3]]
    assert {e.question_type for e in found.examples} == {"these"}
    assert (len(found.wrong), found.unaligned, len(found.unreadable), found.tried) == (1, 1, 1, 6), "not the last"
    assert "not 'purple circle'" in found.wrong[0] and "nowhere.png" in found.unreadable[0]
    row = passed_over([found], {"scenes": 2}).splitlines()[2]
    assert row == "| these | 3 | 6 | 1 | 1 | 1 | 0 |"


def test_an_image_is_asked_about_once_by_all_groups_together(model, scenes, tmp_path):
    twice = [replace(example, id=f"{example.id} again") for example in scenes]
    found = choose(Asked(model, tmp_path / "log"), {"a": scenes, "b": twice}, 3)
    taken = [image_of(example) for group in found for example in group.examples]
    assert len(taken) == len(set(taken)) == 6, "the groups take turns, so that none is left without images"
    assert [len(group.examples) for group in found] == [3, 3] and sum(group.repeated for group in found) >= 3
    together = choose(Asked(model, tmp_path / "log"), {"a": scenes[:2], "b": twice[:2]}, 2, apart=False)
    assert [len(group.examples) for group in together] == [2, 2] and not together[1].repeated


def test_what_was_asked_is_not_asked_again_after_a_stop(model, scenes, tmp_path, monkeypatch):
    log, asked = tmp_path / "log", []
    own = type(model).own_answers
    monkeypatch.setattr(type(model), "own_answers", lambda self, given: asked.extend(given) or own(self, given))
    first = choose(Asked(model, log), {"g": scenes}, 2)
    assert len(asked) == first[0].tried == 2
    log.write_text(log.read_text() + '{"id": "g/half of a li')  # stopped while it was written
    again = choose(Asked(model, log), {"g": scenes}, 3)
    assert len(asked) == 3, "one more"
    assert [e.id for e in again[0].examples] == [e.id for e in scenes[:3]]
    assert len(log.read_text().splitlines()) == 3


def test_what_is_traced_is_what_the_model_says(model, scenes, tmp_path):
    spelt = [replace(scenes[0], answer=f"The {scenes[0].answer}."), scenes[1]]
    for _ in range(2):  # asked, and remembered
        (found,) = choose(Asked(model, tmp_path / "log"), {"g": spelt}, 2)
        assert [e.answer for e in found.examples] == [e.answer for e in scenes[:2]]
        assert [e.extra.get("given_answer") for e in found.examples] == [spelt[0].answer, None]


def test_where_none_is_right_it_says_what_was_answered(model, scenes, tmp_path):
    wrong = [replace(example, answer="zebra") for example in scenes[:2]]
    with pytest.raises(nnblip.NnblipError, match=r"none of 2 questions correctly; such as what is .*not 'zebra'"):
        choose(Asked(model, tmp_path / "log"), {"g": wrong}, 1)
    without = [replace(example, answer=None) for example in scenes[:2]]
    with pytest.raises(nnblip.NnblipError, match="2 cannot be asked: it has no answer to compare"):
        choose(Asked(model, tmp_path / "other"), {"g": without}, 1)
    with pytest.raises(nnblip.NnblipError, match="there are no questions to ask"):
        choose(Asked(model, tmp_path / "none"), {"g": []}, 1)


def test_too_few_for_a_test_are_refused_with_their_numbers(model, scenes, tmp_path):
    found = choose(Asked(model, tmp_path / "log"), {"a": scenes[:2], "b": scenes[2:]}, 3)
    assert [group.name for group in require(found, 3, 8, 1)] == ["b"]
    with pytest.raises(nnblip.NnblipError, match=r"at least 3 .* of 2 groups; there are a 2 of 2 tried, b 3 of 3"):
        require(found, 3, 8, 2)


def test_a_word_in_several_pieces_does_not_align(model, scenes, tmp_path, monkeypatch):
    whole = model.processor.tokenizer.tokenize
    pieces = {scenes[0].question: ["what", "is", "the", "co", "##lor"]}
    monkeypatch.setattr(model.processor.tokenizer, "tokenize", lambda text: pieces.get(text) or whole(text))
    (found,) = choose(Asked(model, tmp_path / "log"), {"g": scenes[:3]}, 3, aligned=True)
    assert found.unaligned == sum(example.question == scenes[0].question for example in scenes[:3]) > 0


def test_pictures_in_memory_are_told_apart():
    one, other = np.zeros((4, 4, 3)), np.zeros((4, 4, 3))
    keys = {image_of(nnblip.Example(image, "what")) for image in (one, other, "a.png", "a.png")}
    assert len(keys) == 3
    assert image_of(nnblip.Example(one, "what", extra={"image_id": 3})) == "3"
