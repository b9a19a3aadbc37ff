"""Is the answer that is traced the model's, a right one, one of all its tokens, and one that numbers can hold?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import LOG, LOGITS, MOST, PROBABILITY, Look
from nnblip.diagnosis.maps import STREAM
from nnblip.effects.numbers import mean_known
from nnblip.effects.shares import thresholds

#: Coordinates in which a data set says its own answer, where it is not the traced one.
TRUE_ANSWERS = ("true_answer", "ground_truth", "multiple_choice_answer")
#: Of what log-probability loses, nearly all: what is left to the other tokens is less than the least total effect that
#: is divided by.
FIRST = 0.95
#: The spacing of numbers from 1 to 2, by dtype of the model. Results are float32 whatever the model is.
SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
#: The logarithm of float32's smallest normal number: smaller probabilities lose their digits, and then are 0.
VANISHED = float(np.log(np.finfo(np.float32).tiny))
#: Numbers that differ by so many spacings differ by more than their rounding.
ROUNDINGS = 4


@check(
    "answered wrongly",
    limits=f"the model's own answer in all examples; a warning where more than {MOST:g} are answered otherwise",
    why="Of a wrong answer the map shows where a mistake comes from, or, where the right answer is traced,"
    " what would make"
    " an answer likelier that the model does not give.",
    reference="Meng et al. (2202.05262), who trace what the model knows",
    remedy="Keep what is answered rightly (`datasets.correct`, `--correct-only`), or report the two apart.",
)
def wrong(look: Look) -> Iterator[Seen]:
    predicted, asked = look.texts("predicted"), [look.texts(name) for name in TRUE_ANSWERS]
    if not look.attrs.get("knock_out"):  # else what the model says is with what is cut, and differs on purpose
        asked.append(look.texts("answer"))
    known = ~np.isnan(look.clean[PROBABILITY])
    bad = [bool(known[k]) and any(_differ(true[k], predicted[k]) for true in asked) for k in range(len(known))]
    if any(bad):
        where = tuple(f"{look.examples[k]}: {predicted[k]}" for k in np.flatnonzero(bad))
        level = "warning" if sum(bad) > MOST * known.sum() else "note"
        yield Seen(level, f"{sum(bad)} of {known.sum()} examples are answered otherwise", "none", where)


@check(
    "decided by the first token",
    limits=f"less than {FIRST:g} of an answer's loss in its first token",
    why="The other tokens follow from the first, so the decoder's state there, in its last layer, restores nearly by"
    " construction, and states at later tokens can show nothing.",
    reference="the joint probability of an answer is a product over its tokens",
    remedy="Read it as an answer of one token; trace answers that differ in their second token to tell those apart.",
)
def first_token(look: Look) -> Iterator[Seen]:
    for one in look.maps:
        if one.node != "answer_decoder" or one.kind not in STREAM[:3]:
            continue
        last = int(look.attrs.get("layers", 0)) - 1 if look.attrs.get("layers") else int(one.layers.max(initial=-1))
        cell = (one.layers == last) & (one.tokens == 0)
        tokens = np.array([len({*one.tokens[~np.isnan(rows).all((0, 1))]}) for rows in one.effects[PROBABILITY]])
        if one.kind == "attention" or cell.sum() != 1:
            continue
        whole = np.zeros(look.mean_total.shape, bool)
        for variable in (PROBABILITY, LOG):
            total = mean_known(look.total[variable], 2)
            effect = mean_known(one.effects[variable][..., cell][..., 0], 2)
            whole |= look.visible & (total >= thresholds()[variable]) & (effect >= FIRST * total)
        whole &= (tokens > 1)[:, None]
        if whole.any():
            said = f"{one}: the first token has nearly all of an answer's loss"
            yield Seen("note", said, f"less than {FIRST:g}", look.at(whole))
            return


@check(
    "edge of precision",
    limits=f"a clean probability between float32's smallest normal number and 1 less {ROUNDINGS} spacings of the"
    " dtype, and"
    f" total effects on the logits of more than {ROUNDINGS} spacings",
    why="Beyond it numbers are rounding: a probability of 1 cannot rise, one of 0 has no digits, and"
    " bfloat16 knows logits"
    " from 8 on to a sixteenth.",
    reference="IEEE 754; Zhang and Nanda (2309.16042) on saturated probabilities",
    remedy="Look at logit differences, and load the model in float32 (`dtype=`) or float64.",
)
def precision(look: Look) -> Iterator[Seen]:
    dtype = str(look.attrs.get("dtype", "float32")).removeprefix("torch.")
    spacing = SPACING.get(dtype, SPACING["float32"])
    clean, log = look.clean[PROBABILITY], look.clean[LOG]
    gone = (log < VANISHED) | (clean < np.exp(VANISHED))
    if gone.any():
        said = f"clean probability vanishes in float32 (log-probability {np.nanmin(log[gone]):.0f})"
        level = "severe" if gone[~np.isnan(clean)].all() else "warning"
        yield Seen(level, said, f"at least {VANISHED:.0f}", _names(look, gone))
    sure = 1 - clean < ROUNDINGS * max(spacing, SPACING["float32"]) / 2  # below 1 numbers are half as far apart
    if sure.any():
        level = "warning" if spacing <= SPACING["float32"] else "note"
        said = f"clean probability is within rounding of 1 in {dtype}"
        yield Seen(level, said, f"at least {ROUNDINGS} spacings below", _names(look, sure))
    total = mean_known(look.total[LOGITS], 2)
    size = np.maximum(
        np.abs(look.clean[LOGITS])[:, None],
        mean_known(np.abs(look.clean[LOGITS][:, None, None] - look.total[LOGITS]), 2),
    )
    known = ~np.isnan(total) & np.array([nu > 0 for nu in look.nus])
    lost = known & (np.abs(total) < ROUNDINGS * spacing * size)
    if lost.any() and look.mean_total[lost].max() < spacing * ROUNDINGS:
        level = "severe" if lost[known].all() else "note"
        said = f"effects on the logits are within rounding of {dtype}"
        yield Seen(level, said, f"more than {ROUNDINGS} spacings", look.at(lost))


def _differ(true: str, said: str) -> bool:
    """Whether two answers are known and are not the same in VQA's normal form."""
    if not true or not said or true.casefold() == said.casefold():
        return False
    from nnblip.datasets.vqa_accuracy import normalized  # loads what a model needs

    return normalized(true) != normalized(said)


def _names(look: Look, places: np.ndarray) -> tuple[str, ...]:
    return tuple(look.examples[k] for k in np.flatnonzero(places))
