"""Is the damage of a strength at which restoring says something, and is what it makes an image at all?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import LOGITS, PROBABILITY, Look, of_one
from nnblip.diagnosis.maps import LOW, best
from nnblip.effects.numbers import mean_interval, mean_known
from nnblip.effects.shares import THRESHOLD
from nnblip.sites import TEXT_COMPONENTS

#: Twice the least total effect that is divided by. The paper's published figure has 0.735 against about 0.80, a total
#: effect of 0.065: a hundredth or two by which a map of ten draws moves is then a quarter of all there is to restore.
WEAK = 2 * THRESHOLD
#: Of the clean probability: what is left is less than the hundredth by which maps move from one set of draws to the
#: next, so that a state that brings back nothing and one that brings back a little are told apart by the logarithm
#: only.
FLOOR = 0.01
#: Length of the damaged embeddings over that of clean ones. The lengths of clean images differ by a hundredth, because
#: the image encoder ends in a LayerNorm. √2 is as much noise as picture (in power), a note; √11 ten times as much.
AS_MUCH, FAR = 2**0.5, 11**0.5
#: Change of the attention's entropy, as a share of the largest: of 65 patches 0.15 is a factor of 2 in how many are
#: attended to, and 0.4 one of 5 (of 577 patches 2.6 and 13).
MOVED, SCATTERED = 0.15, 0.4


@check(
    "weak corruption",
    limits=f"a mean total effect of at least {WEAK:g}; severe where its interval ends below {THRESHOLD:g}",
    why="Where the damage takes next to nothing away there is next to nothing to restore, and shares of it are noise.",
    reference="Palit et al. 2023 (2308.14179), whose figure has 0.735 against 0.80; Zhang and Nanda (2309.16042)",
    remedy="Take a larger ν or another noise, or look at logit differences.",
)
def weak(look: Look) -> Iterator[Seen]:
    total = look.total[PROBABILITY]
    found = np.array([mean_interval(total[:, nu]) for nu in range(len(look.nus))])
    mean, high = found[:, 0], found[:, 2]
    if not look.varied and len(look.examples) == 1:
        high = mean
    few = mean < WEAK
    if not few.any():
        return
    known = ~np.isnan(mean)
    nothing = few[known].all() and bool((high[known] < THRESHOLD).all())
    level = "severe" if nothing else "warning" if few[known].all() else "note"
    logits = mean_known(mean_known(look.total[LOGITS], 2), 0)
    said = "; ".join(f"{mean[k]:.3f} ({logits[k]:.2f} logits) at ν = {look.nus[k]:g}" for k in np.flatnonzero(few))
    yield Seen(level, f"mean total effect {said}", f"at least {WEAK:g}", look.at((look.mean_total < WEAK) & few))


@check(
    "saturated corruption",
    limits=f"at least {FLOOR:g} of the clean probability left; a warning where single states restore less than {LOW:g}",
    why="Where the damage leaves nothing of the answer, the probability is at its floor: what a state brings"
    " back is not"
    " seen before it is nearly all.",
    reference="Heimersheim and Nanda (2404.15255); Zhang and Nanda (2309.16042)",
    remedy="Take a smaller ν, look at log-probability or logit difference, or restore several states"
    " (`sites.windows`).",
)
def saturated(look: Look) -> Iterator[Seen]:
    left = mean_known(look.corrupted[PROBABILITY], 2) / look.clean[PROBABILITY][:, None]
    gone = (left < FLOOR) & look.visible
    share = np.array([gone[:, nu].sum() / max(look.visible[:, nu].sum(), 1) for nu in range(len(look.nus))])
    most = share > 0.5
    if not most.any():
        return
    text = [best([one], look) for one in look.maps if one.node in TEXT_COMPONENTS]
    dark = any(np.median(one[gone & ~np.isnan(one)]) < LOW for one in text if (gone & ~np.isnan(one)).any())
    everywhere = most[look.visible.any(0)].all()
    said = ", ".join(f"{np.nanmedian(left[gone[:, k], k]):.4f} at ν = {look.nus[k]:g}" for k in np.flatnonzero(most))
    level = of_one(look, "warning" if everywhere and dark else "note")
    yield Seen(
        level, f"share of the clean probability that is left: {said}", f"at least {FLOOR:g}", look.at(gone & most)
    )


@check(
    "damage out of distribution",
    limits=f"embeddings {1 / AS_MUCH:.2f} to {AS_MUCH:.2f} times as long as clean ones, attention entropy"
    " changed by at most"
    f" {MOVED:g}; a warning beyond {1 / FAR:.2f} to {FAR:.2f} times and {SCATTERED:g}",
    why="Embeddings such as no image has put the model where it was never trained: what it then does need"
    " not be what it"
    " does without an image.",
    reference="Golovanevsky et al. 2024, NOTICE (2406.16320); Zhang and Nanda (2309.16042)",
    remedy='Take a smaller ν, or noise "shuffle" or "swap", which keep to embeddings of images.',
)
def unlike(look: Look) -> Iterator[Seen]:
    norm, entropy = look.damage("norm_ratio"), look.damage("entropy_change")
    length = np.ones(len(look.nus)) if norm is None else mean_known(norm, 0)
    moved = np.zeros(len(look.nus)) if entropy is None else mean_known(entropy, 0)
    with np.errstate(divide="ignore"):
        times = np.exp(np.abs(np.log(length)))
    some, much = ((times > limit) | (np.abs(moved) > most) for limit, most in ((AS_MUCH, MOVED), (FAR, SCATTERED)))
    if not some.any():
        return
    said = "; ".join(
        f"{length[k]:.2f} times as long, entropy {moved[k]:+.2f} at ν = {look.nus[k]:g}" for k in np.flatnonzero(some)
    )
    limit = f"{1 / AS_MUCH:.2f} to {AS_MUCH:.2f} and ±{MOVED:g}"
    yield Seen("warning" if much.all() else "note", f"damaged embeddings {said}", limit, look.nu_texts(some))
