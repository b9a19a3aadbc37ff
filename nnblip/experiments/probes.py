"""Linear probes: can something be read out of states, and is it the states that say it, or the probe?

Plain arrays, and scikit-learn, which `pip install "nnblip[experiments]"` brings. A probe that is right says that the
states hold something, not that the model uses it. How much of that is the probe's own work, a control task tells
(Hewitt and Liang 2019, 1909.03368): each question, by its words alone, is given an answer by lot, and the same probe
learns these. Selectivity is how much better it is at the real task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnblip.errors import InputError, SettingError, whole

#: Inverse strength of regularisation of the logistic regression, on states of unit variance.
STRENGTH = 1.0
FOLDS = 5


def probe(
    states: NDArray[np.floating],
    labels: Sequence[str],
    folds: int = FOLDS,
    seed: int = 0,
    strength: float = STRENGTH,
) -> NDArray[np.float64]:
    """Of which examples a linear probe reads the label, each by a probe that has not seen it.

    Multinomial logistic regression on standardized states, cross-validated in stratified folds.

    Args:
        states: (example, hidden).
        labels: of each example.
        folds: how many; labels of fewer examples are left out.
        seed: of the folds.
        strength: scikit-learn's C, smaller is more regularised.

    Returns:
        (example): 1 if it is read, 0 if not, NaN for those whose label is too rare, or where fewer than two are left.

    Raises:
        SettingError: if scikit-learn is missing, or for a setting that cannot be used.
        InputError: for states that are no numbers, or other numbers of examples.
    """
    learn = _learner(strength)
    folds, seed = whole(folds, "folds", 2), whole(seed, "seed", 0)
    states, given = np.asarray(states, np.float64), np.asarray(labels, str)
    if states.ndim != 2 or given.shape != states.shape[:1]:
        raise InputError(f"states {states.shape} and labels {given.shape}: expected (example, hidden) and (example)")
    if not np.isfinite(states).all():
        raise InputError("states have numbers that are not finite")
    found, known = np.full(len(given), np.nan), np.flatnonzero(common(labels, folds))
    if not len(known):
        return found
    from sklearn.model_selection import StratifiedKFold

    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in parts.split(states[known], given[known]):
        learn.fit(states[known[train]], given[known[train]])
        found[known[test]] = learn.predict(states[known[test]]) == given[known[test]]
    return found


def common(labels: Sequence[str], least: int = FOLDS) -> NDArray[np.bool_]:
    """Which examples have a label of at least so many examples; none if that is but one label."""
    counts = Counter(labels)
    enough = {label for label, count in counts.items() if count >= least}
    return np.array([len(enough) > 1 and label in enough for label in labels], bool)


def most_common(labels: Sequence[str], least: int = FOLDS) -> float:
    """How often whoever always says the most common label is right, among those that a probe is asked."""
    counts = Counter(label for label, known in zip(labels, common(labels, least), strict=True) if known)
    return max(counts.values()) / counts.total() if counts else np.nan


def by_lot(labels: Sequence[str], types: Sequence[str], seed: int = 0) -> list[str]:
    """Labels of a control task: all examples of a type get the same, drawn as often as the labels have it.

    Args:
        labels: of the real task.
        types: what a probe could learn by heart: of each example the words of its question.
        seed: of the lot.

    Returns:
        One label for each example.
    """
    rng = np.random.default_rng(seed)
    drawn = {one: labels[int(rng.integers(len(labels)))] for one in sorted(set(types))}
    return [drawn[one] for one in types]


def require() -> None:
    """Raises `SettingError` if scikit-learn is missing."""
    _learner(STRENGTH)


def _learner(strength: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise SettingError("probes need scikit-learn: pip install 'nnblip[experiments]'") from error
    if not strength > 0:
        raise SettingError(f"strength {strength!r}: expected a number above 0")
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
