"""Would the ranking of the cells be another by another metric, another noise, or other draws?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import LOG, LOGITS, PROBABILITY, Array, Look, Map, graver, of_one
from nnblip.effects.intervals import MIN_DRAWS
from nnblip.effects.reading import noise_of, spoken
from nnblip.passes.reliability import LEAST_CELLS, LEAST_DRAWS, split_half

#: Weighted τ (Vigna 2015): strong cells count most, and the many without effect hardly. 0 is chance and 1 the same
#: order; below 0.3 fewer than two of three pairs stand in the same order. Sound maps have 0.56 and more between
#: metrics.
AGREE = 0.3
#: With fewer cells an order comes about by chance.
LEAST_RANKED = 8
#: Split-half reliability (Spearman-Brown): 0.8 is what measurements are commonly asked for (Nunnally 1978), 0.9 what
#: `draws="auto"` goes for. Below 0.3 other draws give another map.
RELIABLE, NONE = 0.8, 0.3


@check(
    "metrics disagree",
    limits=f"a weighted rank correlation of at least {AGREE:g} between maps by probability, log-probability and"
    " logit difference",
    why="The ranking is one of the metric. Probabilities near 0 and 1 hide effects, and a logit difference knows of one"
    " other answer only.",
    reference="Zhang and Nanda (2309.16042), who recommend logit differences",
    remedy="Report both, and take what holds for both; choose the other answer with `rival=`.",
)
def metrics(look: Look) -> Iterator[Seen]:
    for one in look.maps:
        for variable in (LOG, LOGITS):
            known = np.zeros(look.mean_total.shape, bool)
            apart, sure = known.copy(), known.copy()
            lowest = 1.0
            for place in np.argwhere(look.visible_by(variable)):
                at = tuple(place)
                # a logit difference is of the first token alone: nothing that is of later ones can act on it
                own = one.tokens <= 0 if variable == LOGITS and one.node.startswith("answer_decoder") else slice(None)
                first, second = (_draws(one, key, at, own) for key in (PROBABILITY, variable))
                if first.shape[1] < LEAST_RANKED:
                    continue
                agree = _agreement(first.mean(0), second.mean(0))
                known[at], apart[at] = not np.isnan(agree), agree < AGREE
                if apart[at]:
                    lowest = min(lowest, agree)
                    sure[at] = all(_reliability(values, look.varied) >= RELIABLE for values in (first, second))
            if apart.any():
                said = f"{one}: probability and {spoken(variable)} agree by {lowest:.2f}"
                level = graver(sure, known) if look.varied else of_one(look, graver(sure, known))
                yield Seen(level, said, f"at least {AGREE:g}", look.at(apart))


@check(
    "noises disagree",
    limits=f"a weighted rank correlation of at least {AGREE:g} between the maps of both results",
    why="What is found under one kind of damage only may be about the damage.",
    reference="Zhang and Nanda (2309.16042); Golovanevsky et al. 2024, NOTICE (2406.16320)",
    remedy='Take the noise whose maps are more reliable, hold both against "swap", and report what both show.',
)
def noises(look: Look) -> Iterator[Seen]:
    other = look.other
    if other is None:
        return
    mine = {name: place for place, name in enumerate(look.examples)}
    theirs = {(str(one)): one for one in other.maps}
    pairs = [(place, k) for k, name in enumerate(other.examples) if (place := mine.get(name)) is not None]
    steps = _steps(look, other)
    for one in look.maps:
        second = theirs.get(str(one))
        if second is None:
            continue
        columns = {label: place for place, label in enumerate(_plain(second))}
        both = [(place, columns[label]) for place, label in enumerate(_plain(one)) if label in columns]
        known = np.zeros(look.mean_total.shape, bool)
        apart, sure, lowest = known.copy(), known.copy(), 1.0
        for example, twin in pairs:
            for nu, step in steps:
                if not (look.visible[example, nu] and other.visible[twin, step]):
                    continue
                a = one.effects[PROBABILITY][example, nu][:, [place for place, _ in both]]
                b = second.effects[PROBABILITY][twin, step][:, [place for _, place in both]]
                built = one.structural[example, [place for place, _ in both]]
                a, b = _known(a[:, ~built]), _known(b[:, ~built])
                if a.shape[1] != b.shape[1] or a.shape[1] < LEAST_RANKED or not (len(a) and len(b)):
                    continue
                agree = _agreement(a.mean(0), b.mean(0))
                known[example, nu] |= not np.isnan(agree)
                if agree < AGREE:
                    apart[example, nu], lowest = True, min(lowest, agree)
                    sure[example, nu] |= min(_reliability(a, look.varied), _reliability(b, other.varied)) >= RELIABLE
        if apart.any():
            names = " and ".join(noise_of(side.tree) or "?" for side in (look, other))
            said = f"{one}: {names} agree by {lowest:.2f}"
            yield Seen(graver(sure, known), said, f"at least {AGREE:g}", look.at(apart))


@check(
    "halves of the draws disagree",
    limits=f"a split-half reliability of at least {RELIABLE:g} (Spearman-Brown), without cells that restore by"
    " construction;"
    f" severe below {NONE:g} of {MIN_DRAWS} and more draws",
    why="Other draws of the noise would give another map: which cells are strong is then chance.",
    reference="Spearman 1910, Brown 1910; Nunnally 1978",
    remedy='Take more draws (`draws="auto"`), or noise "shuffle" of patch embeddings at ν = 0.5, whose maps come out'
    " again.",
)
def halves(look: Look) -> Iterator[Seen]:
    if not look.varied:
        return
    for one in look.maps:
        found, told = np.full(look.mean_total.shape, np.nan), np.zeros(look.mean_total.shape, bool)
        for place in np.argwhere(look.visible):
            draws = _draws(one, PROBABILITY, tuple(place))
            if len(draws) >= LEAST_DRAWS and draws.shape[1] >= LEAST_CELLS:
                found[tuple(place)], told[tuple(place)] = split_half(draws), len(draws) >= MIN_DRAWS
        known = ~np.isnan(found)
        poor, none = known & (found < RELIABLE), known & told & (found < NONE)
        if poor.any():
            level = "severe" if graver(none, known) != "note" else graver(poor, known)
            middle = np.median(found[poor])
            several = f" (median of {poor.sum()} of {known.sum()} maps)" if known.sum() > 1 else ""
            said = f"{one}: reliability {middle:.2f}{several}"
            yield Seen(level, said, f"at least {RELIABLE:g}", look.at(poor))


def _draws(one: Map, variable: str, at: tuple[Any, ...], own: Any = slice(None)) -> Array:
    """The draws of an example at one ν, (draw, cell), of what is known and does not restore by construction."""
    return _known(np.where(one.structural[at[0]], np.nan, one.effects[variable][at])[:, own])


def _known(draws: Array) -> Array:
    draws = draws[:, ~np.isnan(draws).all(0)]
    return draws[~np.isnan(draws).any(1)]


def _reliability(draws: Array, varied: bool) -> float:
    """Of the mean map; NaN of fewer than four draws that differ, and 1 of draws that are all alike."""
    if not varied:
        return 1.0
    return split_half(draws) if len(draws) >= LEAST_DRAWS else float("nan")


def _agreement(a: Array, b: Array) -> float:
    """Vigna's weighted τ, NaN where either is all alike."""
    from scipy.stats import weightedtau

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(weightedtau(a, b).statistic)


def _steps(look: Look, other: Look) -> list[tuple[int, int]]:
    """Which ν of one is held against which of the other: the only ones, else those that both have."""
    if len(look.nus) == len(other.nus) == 1:
        return [(0, 0)]
    return [(i, k) for i, a in enumerate(look.nus) for k, b in enumerate(other.nus) if np.isclose(a, b, rtol=1e-6)]


def _plain(one: Map) -> list[str]:
    """Labels without the tokens' texts, which depend on what other examples there are."""
    return [label.rpartition(" (")[0] if label.endswith(")") and one.node != "cells" else label for label in one.labels]
