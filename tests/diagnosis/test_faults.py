"""A fault in a result is found by its name and at its level, and nothing else is claimed because of it."""

import numpy as np
import pytest
from helpers.faults import FAULTS, put, sound

import nnblip
from nnblip import effects
from nnblip.diagnosis import CHECKS
from nnblip.diagnosis.findings import LEVELS

#: What cannot but come with a fault: a ratio is unstable because draws differ, and where probability is gone, so are
#: its effects.
WITH = {
    "draws contradict": {"halves of the draws disagree"},
    "beyond float32": {"weak corruption", "undefined share"},
}


@pytest.fixture(scope="module")
def whole():
    return sound()


def found(whole, fault):
    name, _, make = FAULTS[fault]
    changed = make(whole)
    return nnblip.diagnose(whole, changed) if name == "noises disagree" else nnblip.diagnose(changed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("examples", [1, 3, 10])
def test_a_result_without_a_fault_has_notes_at_most(examples, seed):
    tree = sound(examples, seed=seed)
    assert float(effects.total_effect(tree)["corrupted"].probability.mean("draw").min()) > 0.2
    assert not nnblip.diagnose(tree, sound(examples, seed=seed)).at_least("warning")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_name_and_no_other_is_claimed(whole, fault):
    name, level, _ = FAULTS[fault]
    findings = found(whole, fault)
    own = [one for one in findings if one.name == name]
    assert own, findings
    assert max(LEVELS.index(one.level) for one in own) >= LEVELS.index(level), findings
    assert set(findings.at_least("warning").names) <= {name} | WITH.get(fault, set()), findings


def test_there_is_a_fault_for_every_check_that_can_warn():
    made = {name for name, _, _ in FAULTS.values()}
    assert {check.name for check in CHECKS} - made == {"restored by construction first", "examples without numbers"}


def test_what_is_measured_is_what_is_there(whole):
    (weak,) = [one for one in found(whole, "the damage is weak") if one.name == "weak corruption"]
    assert "mean total effect 0.065 " in weak.measured and weak.limit == "at least 0.1"
    assert set(weak.where) == {f"q{k}" for k in range(10)}
    tree = FAULTS["one example"][2](whole)
    (one,) = [one for one in nnblip.diagnose(tree) if one.name == "dominated mean"]
    assert f"{0.85 / (0.85 + 9 * 0.06):.2f} of the total effect" in one.measured and one.where == ("q0",)
    (harm,) = [one for one in found(whole, "restoring harms") if one.name == "significantly negative relevance"]
    share = effects.relevance(FAULTS["restoring harms"][2](whole))["question_encoder"].probability
    assert f"{float(share.min()):.2f} in 3 cells" in harm.measured and float(share.min()) < -0.5
    assert harm.where[0] == "question_encoder block layer 2 token 0 (word0)"


def test_the_level_follows_how_many_examples_and_which_nu(whole):
    """Of a ladder of ν one may be too weak; of ten examples one may be answered wrongly."""
    weak = FAULTS["the damage is weak"][2](whole)
    ladder = sound(nus=(0.5, 1.0))
    for node in ladder.children:
        for name in ("probability", "log_probability", "logit_difference"):
            if node != "clean":
                ladder[node][name].values[:, 0] = weak[node][name].values[:, 0]
    (one,) = [one for one in nnblip.diagnose(ladder) if one.name == "weak corruption"]
    assert one.level == "note" and "ν = 0.5" in one.measured and "ν = 1" not in one.measured
    tree = whole.copy(deep=True)
    said = [*tree.answer.values[:3], "a cat", *tree.answer.values[4:]]
    tree.dataset = tree.to_dataset().assign_coords(predicted=("example", said))
    (one,) = [one for one in nnblip.diagnose(tree) if one.name == "answered wrongly"]
    assert one.level == "note" and one.where == ("q3: a cat",)


def test_nothing_at_all_to_restore_is_severe(whole):
    clean = whole["clean"].probability.values
    before = clean[:, None, None] + np.random.default_rng(0).normal(0, 0.003, whole["corrupted"].probability.shape)
    tree = put(
        whole,
        corrupted=before,
        question_encoder=before[..., None, None, None] + 0 * whole["question_encoder"].probability.values,
    )
    (weak,) = [one for one in nnblip.diagnose(tree) if one.name == "weak corruption"]
    assert weak.level == "severe"


def test_the_same_answer_in_other_words_is_no_wrong_one(whole):
    tree = whole.copy(deep=True)
    said = {"red": "Red", "two": "2", "dog": "a dog", "yes": "yes"}
    tree.dataset = tree.to_dataset().assign_coords(predicted=("example", [said[one] for one in tree.answer.values]))
    assert "answered wrongly" not in nnblip.diagnose(tree).names


def test_a_width_that_is_asked_for_says_how_many_draws_or_examples_it_takes(whole):
    assert not nnblip.diagnose(whole, width=0.5).at_least("warning")
    warned = nnblip.diagnose(whole, width=0.005).at_least("warning")
    assert warned.names == ["too few draws or examples"]
    (few,) = [one for one in warned if one.measured.startswith("question_encoder")]
    needed = effects.examples_needed(whole, 0.005)["question_encoder"].examples
    assert "10 examples" in few.measured and few.limit == f"{int(needed.max())} examples"
    one = whole.isel(example=[0])
    needed = effects.draws_needed(one, 0.05)["question_encoder"].draws
    said = [one for one in nnblip.diagnose(one, width=0.05) if one.name == "too few draws or examples"]
    (said,) = [one for one in said if one.measured.startswith("question_encoder")]
    assert said.limit == f"{int(needed.max())} draws" and len(said.where) == int((needed > 16).sum())


def test_what_restores_by_construction_is_named(whole):
    (one,) = nnblip.diagnose(whole)
    assert one.name == "restored by construction first" and one.where == (
        "answer_decoder block layer 5 token 0 ([DEC])",
    )
