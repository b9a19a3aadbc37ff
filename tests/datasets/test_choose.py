"""Choosing by the model: against the oracle's greedy answers, plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from helpers import dataset_files as own

import nnblip
from nnblip import datasets
from nnblip.datasets import Dataset
from nnblip.datasets.choose import TOGETHER
from nnblip.errors import InputError, NnblipError
from nnblip.examples import Example
from nnblip.remote import client, errand
from nnblip.runs import envelope


def scenes(n=40):
    return list(datasets.generated_scenes(n, seed=77))


def says(model, image, question):
    """The tokens of the model's answer, from plain PyTorch."""
    encoded = model.encode(image, question)
    embeds = oracle.image_embeds(model._module, encoded.pixel_values)
    return oracle.greedy_answer(model._module, embeds, encoded.input_ids)


@pytest.fixture(scope="module")
def asked(model):
    """Scenes, some of them with a wrong answer, and what the model answers."""
    examples = scenes()
    wrong = {3, 8, 21}
    examples = [replace(e, answer="snow" if i in wrong else e.answer) for i, e in enumerate(examples)]
    return examples, [model.text(says(model, e.image, e.question)) for e in examples]


@pytest.mark.slow
def test_correct_keeps_what_the_model_answers_so(model, asked):
    examples, said = asked
    kept = datasets.correct(model, Dataset("scenes", lambda: examples))
    right = [e.id for e, text in zip(examples, said, strict=True) if text == e.answer]
    assert 20 < len(right) < 38, "this test needs both right and wrong answers"
    assert [e.id for e in kept] == [e.id for e in kept] == right
    assert kept.dropped == len(examples) - len(right) and kept.problems == []
    assert kept.summary == f"kept {len(right)} of 40 ({kept.dropped} left out)"
    reasons = {problem.where: problem.what for problem in kept.left_out}
    index = examples[3].id
    assert reasons[index] == f"the model answers {said[3]!r}, not 'snow'"
    assert [e.id for e in kept.sample(5, 0)] == [e.id for e in Dataset("d", lambda: kept).sample(5, 0)]


@pytest.mark.parametrize(
    ("answer", "answers", "right"),
    [
        ("{}", None, True),
        ("The {}.", None, True),
        ("{} dog", None, False),
        ("dog", ["{}"] * 2 + ["dog"] * 8, True),  # soft accuracy 0.6
        ("dog", ["{}"] + ["dog"] * 9, False),  # 0.3
        ("{}", ["dog"] * 10, False),
    ],
)
def test_correct_is_exact_or_soft(answer, answers, right, model, asked):
    example, said = asked[0][0], asked[1][0]
    extra = {} if answers is None else {"answers": tuple(one.format(said) for one in answers)}
    kept = datasets.correct(model, [replace(example, answer=answer.format(said), extra=extra)], least=0)
    if right:
        (own,) = kept
        assert own.answer == said, "what is traced is what the model says"
        given = answer.format(said)
        assert own.extra.get("given_answer", said) == given and ("given_answer" in own.extra) == (given != said)
    assert len(list(kept)) == right and kept.dropped == (not right)


def test_where_nothing_is_right_the_error_shows_what_was_answered(model, asked):
    wrong = [replace(e, answer="a dog") for e in asked[0][:7]]
    with pytest.raises(InputError) as caught:
        datasets.correct(model, Dataset("scenes", lambda: wrong))
    said = str(caught.value)
    assert said.startswith("scenes: 0 of 7 questions are answered correctly, expected at least 1: ")
    for example, text in list(zip(wrong, asked[1], strict=False))[:5]:
        assert f"{example.id}: the model answers {text!r}, not 'a dog'" in said
    assert wrong[5].id + ":" not in said and "; ..." in said and "another model" in said
    assert datasets.correct(model, Dataset("scenes", lambda: wrong), least=0).summary == "kept 0 of 7 (7 left out)"
    with pytest.raises(InputError, match=r"1 of 7 .* expected at least 2"):
        datasets.correct(model, [replace(wrong[0], answer=asked[1][0]), *wrong[1:]], least=2)
    with pytest.raises(InputError, match=r"0 of 0 .*there is no question"):
        datasets.correct(model, [])
    with pytest.raises(InputError, match=r"0 of 0 .*1 cannot be read.*no answer to compare"):
        datasets.correct(model, [replace(wrong[0], answer=None)])


def test_choosing_stops_when_there_are_enough_and_goes_on_with_what_is_known(model, asked, monkeypatch):
    examples, said = asked
    right = [e.id for e, text in zip(examples, said, strict=True) if text == e.answer]
    read = []

    def rows():
        for example in examples[:12]:
            read.append(example.id)
            yield example

    known = {}
    first = datasets.correct(model, Dataset("scenes", rows), n=4, known=known)
    assert [e.id for e in first] == right[:4] and read[-1] == right[3] and len(read) < 12
    assert known == {e.id: text for e, text in zip(examples, said, strict=True) if e.id in read}
    before, asked_now = dict(known), []
    own_answers = type(model).own_answers
    monkeypatch.setattr(type(model), "own_answers", lambda self, e: (asked_now.extend(e), own_answers(self, e))[1])
    again = datasets.correct(model, Dataset("scenes", rows), known=known)
    assert [e.id for e in again] == [name for name in right if name in {e.id for e in examples[:12]}]
    assert len(asked_now) == 12 - len(before), "what is known is not asked again"
    assert known == {e.id: text for e, text in zip(examples[:12], said, strict=False)}


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", 1.5), ("least", -1)])
def test_how_many_is_a_number(name, value, model):
    with pytest.raises(InputError, match=f"{name} {value}: expected a whole number"):
        datasets.correct(model, [], **{name: value})


def test_numbers_are_the_same_in_words_and_digits(model, asked):
    number = next(i for i, e in enumerate(asked[0]) if e.question_type == "number" and asked[1][i] == "one")
    (kept,) = datasets.correct(model, [replace(asked[0][number], answer="1")])
    assert kept.answer == "one" and kept.extra["given_answer"] == "1"


def test_what_cannot_be_asked_is_a_problem_and_not_wrong(model, asked, tmp_path):
    good = asked[0][0]
    (tmp_path / "broken.png").write_bytes(b"no image")
    bad = [
        replace(good, id="image", image=str(tmp_path / "broken.png")),
        replace(good, id="long", question="what is the color of the star " * 80),
        replace(good, id="answer", answer=None),
    ]
    kept = datasets.correct(model, Dataset("d", lambda: [*bad, good]))
    assert [p.where for p in kept.problems] == ["image", "long", "answer"] and kept.dropped == 0
    assert kept.summary == "kept 1 of 1 (0 left out, 3 not readable)"
    with pytest.raises(InputError, match=r"image: .*not an image"):
        datasets.correct(model, Dataset("d", lambda: bad, strict=True))


@pytest.mark.slow
def test_a_partners_answer_begins_with_another_token(model):
    examples = scenes(60)
    found = datasets.partners(model, Dataset("scenes", lambda: examples))
    by_id = {e.id: e for e in examples}
    assert len(list(found)) > 40 and len(list(found)) + found.dropped == 60
    for example in list(found)[::4]:
        other = by_id[example.extra["partner_id"]]
        assert example.partner == other.image != example.image
        own_answer = model.encode_answer(example.answer)
        assert says(model, other.image, example.question)[0] != own_answer[0]
        assert replace(example, partner=None, extra=by_id[example.id].extra) == by_id[example.id]


def test_partners_serve_noise_swap(model):
    found = list(datasets.partners(model, datasets.generated_scenes(12, seed=77)))[:3]
    result = nnblip.causal_trace(model, found, nu=1, draws=1, noise="swap", max_rows=64)
    assert np.isfinite(result["corrupted"].probability).all()
    assert list(result["partner_id"].values) == [e.extra["partner_id"] for e in found]


@pytest.mark.slow
def test_the_same_question_is_preferred_then_the_template(model):
    examples = [e for e in scenes(150) if e.question_type == "color"]
    found = list(datasets.partners(model, examples))
    by_id = {e.id: e for e in examples}
    same = [by_id[e.extra["partner_id"]].question == e.question for e in found]
    assert len(same) > 20 and sum(same) / len(same) > 0.8
    first = examples[0]
    two = [first, next(e for e in examples if e.question != first.question and e.answer != first.answer)]
    pairs = {e.id: e.extra["partner_id"] for e in datasets.partners(model, two)}  # only the template is shared
    assert pairs[first.id] == two[1].id


def test_plain_examples_are_named_by_their_place(model, asked):
    plain = [(e.image, e.question, text) for e, text in zip(*asked, strict=True)][:3]
    assert [e.id for e in datasets.correct(model, plain)] == ["0", "1", "2"]


@pytest.mark.slow
def test_partners_do_not_depend_on_the_order_and_do_on_the_seed(model):
    examples = scenes(25)

    def chosen(given, seed):
        return {e.id: e.extra["partner_id"] for e in datasets.partners(model, given, seed)}

    assert chosen(examples, 0) == chosen(examples[::-1], 0) != chosen(examples, 1)


@pytest.mark.slow
def test_the_traced_answer_is_the_models_own_if_none_is_given(model):
    examples = [replace(e, answer=None) for e in scenes(20)]
    for example in list(datasets.partners(model, examples))[::3]:
        first = says(model, example.image, example.question)[0]
        assert says(model, example.partner, example.question)[0] != first


def test_examples_without_a_partner_are_told_of(model):
    example = scenes(1)[0]
    twin, odd = replace(example, id="twin"), Example(example.image, "how many stars are there", "one", "odd", "odd")
    found = datasets.partners(model, [example, twin, odd])
    assert list(found) == [] and found.dropped == 3
    assert [p.what for p in found.left_out] == [
        f"no partner: the model's answer was the same on {n} other images" for n in (1, 1, 0)
    ]
    with pytest.raises(NnblipError, match="tries 0"):
        datasets.partners(model, [example], tries=0)


@pytest.mark.slow
def test_a_partner_whose_image_cannot_be_read_is_passed_over(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    examples = scenes(30)
    bad = [replace(e, id=f"bad{i}", image=str(tmp_path / "broken.png")) for i, e in enumerate(examples)]
    found = datasets.partners(model, [*examples, *bad])
    assert len(found.problems) == 30 and len(list(found)) > 15
    assert not [e for e in found if e.extra["partner_id"].startswith("bad")]


def test_the_papers_selection_from_real_rows(model):
    dataset = datasets.open_dataset(f"cocoqa:{own.real('cocoqa')}", own.SHARED / "coco")
    with pytest.warns(nnblip.NnblipWarning, match="rows skipped"):
        chosen = dataset.where(question_type="color", words=7).sample(3, seed=0)
    assert len(list(chosen)) == 3 and all(e.question.startswith("what is the color of the ") for e in chosen)


# --- on a server -----------------------------------------------------------------------------


@pytest.fixture
def there(model, monkeypatch):
    """A remote model whose server is the local one; `asked` has how many questions came in each request."""
    far = nnblip.BlipVQA(remote=True)
    far.asked = []

    def ask(_, name, *args):
        far.asked.append(len(args[0]))
        return envelope.opened(envelope.sealed(model, getattr(errand, name), *args))

    monkeypatch.setattr(client, "ask", ask)
    return far


@pytest.mark.slow
def test_a_server_is_asked_several_questions_at_a_time(model, there, asked, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    examples = [*asked[0][:20], replace(asked[0][0], id="bad", image=str(tmp_path / "broken.png"))]
    examples[4:4] = [replace(asked[0][1], id="answer", answer=None)]
    here, far = (datasets.correct(one, Dataset("d", lambda: examples)) for one in (model, there))
    assert 5 < len(list(here)) < 20
    assert [e.id for e in far] == [e.id for e in here]
    assert (far.left_out, far.problems, far.summary) == (here.left_out, here.problems, here.summary)
    assert there.asked == [7, 8, 5]
    with pytest.raises(InputError, match="bad: "):
        datasets.correct(there, Dataset("d", lambda: examples[-1:], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_partners_from_a_server_are_the_same_ones(model, there, given, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    examples = [replace(e, answer=e.answer if given else None) for e in scenes(24)]
    examples += [replace(e, id=f"bad{i}", image=str(tmp_path / "broken.png")) for i, e in enumerate(examples[:6])]
    here, far = (datasets.partners(one, Dataset("d", lambda: examples)) for one in (model, there))
    assert len(list(here)) > 10
    assert [(e.id, e.extra["partner_id"]) for e in far] == [(e.id, e.extra["partner_id"]) for e in here]
    assert (far.left_out, far.problems) == (here.left_out, here.problems)
    assert len(there.asked) <= len(examples) and 3 < max(there.asked) <= TOGETHER
