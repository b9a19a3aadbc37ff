"""Probes read what is there, nothing else, and are scikit-learn's; control tasks depend on the words alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nnblip.errors import InputError, SettingError
from nnblip.experiments.probes import by_lot, common, most_common, probe, require

pytest.importorskip("sklearn")


@pytest.fixture
def planted() -> tuple[np.ndarray, list[str]]:
    """States of 60 examples in which a label lies in one direction, and what it is."""
    rng = np.random.default_rng(0)
    labels = [("red", "blue", "green")[number % 3] for number in range(60)]
    directions = {label: rng.normal(size=20) for label in ("red", "blue", "green")}
    states = rng.normal(size=(60, 20)) + 2 * np.array([directions[label] for label in labels])
    return states, labels


def test_what_is_planted_is_read_and_what_is_not_there_is_not(planted):
    states, labels = planted
    assert probe(states, labels).mean() > 0.95
    noise = np.random.default_rng(1).normal(size=states.shape)
    assert abs(probe(noise, labels).mean() - 1 / 3) < 0.15


def test_no_probe_has_seen_what_it_is_asked():
    """With more units than examples any labels can be learnt by heart: of labels by lot none is read."""
    from sklearn.linear_model import LogisticRegression

    rng, found = np.random.default_rng(2), []
    for _ in range(8):
        states, labels = rng.normal(size=(60, 300)), rng.permutation(["a", "b", "c"] * 20).tolist()
        assert LogisticRegression(max_iter=1000).fit(states, labels).score(states, labels) == 1
        found.append(probe(states, labels).mean())
    assert abs(np.mean(found) - 1 / 3) < 0.1


def test_it_is_what_scikit_learn_gives_by_itself(planted):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states, labels = planted
    weak = states * 0.1 + np.random.default_rng(3).normal(size=states.shape) * np.arange(1, 21)
    learner = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    said = cross_val_predict(learner, weak, labels, cv=StratifiedKFold(4, shuffle=True, random_state=5))
    found = probe(weak, labels, folds=4, seed=5, strength=0.3)
    assert found.tolist() == (said == np.array(labels)).astype(float).tolist() and 0.2 < found.mean() < 0.9


def test_labels_of_too_few_examples_are_left_out_and_one_label_alone_is_no_task(planted):
    states, labels = planted
    rare = ["gold"] * 3 + labels[3:]
    found = probe(states, rare)
    assert np.isnan(found[:3]).all() and not np.isnan(found[3:]).any()
    assert common(rare).tolist() == [False] * 3 + [True] * 57
    assert np.isnan(probe(states, ["red"] * 60)).all() and np.isnan(most_common(["red"] * 60))
    assert most_common(["a"] * 6 + ["b"] * 5 + ["c"] * 4) == pytest.approx(6 / 11)


def test_a_control_task_is_known_by_the_words_and_by_nothing_else():
    rng = np.random.default_rng(4)
    words = [f"what is the color of the {'abcdef'[number % 6]}" for number in range(120)]
    labels = rng.choice(["red", "blue", "green", "white"], 120).tolist()
    lots = [by_lot(labels, words, seed) for seed in range(20)]
    for lot in lots:
        assert {(word, label) for word, label in zip(words, lot, strict=True)} == dict(
            zip(words, lot, strict=True)
        ).items()
    assert lots[0] == by_lot(labels, words, 0) and len({tuple(lot) for lot in lots}) > 10
    assert {label for lot in lots for label in lot} == set(labels)
    lot = next(one for one in lots if len(set(one)) > 2)
    one_hot = np.eye(6)[np.arange(120) % 6]
    assert probe(one_hot, lot, strength=10).mean() > 0.99, "whoever knows the words knows it"
    assert probe(rng.normal(size=(120, 6)), lot).mean() < most_common(lot) + 0.15


def test_without_scikit_learn_it_says_what_to_install(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    for call in (require, lambda: probe(*planted)):
        with pytest.raises(SettingError, match=r"need scikit-learn: pip install 'nnblip\[experiments\]'"):
            call()


def test_what_cannot_be_probed_is_refused(planted):
    states, labels = planted
    with pytest.raises(InputError, match=r"states \(60, 20\) and labels \(59,\): expected"):
        probe(states, labels[1:])
    with pytest.raises(InputError, match="not finite"):
        probe(states * np.nan, labels)
    with pytest.raises(SettingError, match="strength 0: expected a number above 0"):
        probe(states, labels, strength=0)
    with pytest.raises(SettingError, match="folds 1"):
        probe(states, labels, folds=1)
