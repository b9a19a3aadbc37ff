"""Do the maps say where: is there more than one layer's share, is anything restored, and is it no construction?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import Array, Look, Map, graver, of_one
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.effects.numbers import half_width, mean_known, quotient
from nnblip.passes.reliability import LEAST_CELLS
from nnblip.sites import CELLS_NODE, HEADS_NODE

#: Standard deviation between layers over their mean, what draws leave of it taken away. Below a fifth the layers with
#: the largest and the smallest share differ by about half of the mean at most (of six to twelve layers the range is
#: two and a half to three standard deviations); profiles of sound traces have 0.5 and more.
FLAT = 0.2
#: A profile is only called flat if there is one: a mean relevance as large as the least total effect that is divided
#: by.
SOME = 0.05
#: Restoring takes away another tenth of the total effect, and the draws leave no doubt of it. That is common, down to a
#: third or so: one clean state among damaged ones fits neither. Where it is half, restoring is a damage of its own.
HARM, HURT = 0.1, 0.5
#: A tenth of the total effect in the one best cell. The best of many is rather too large, so that truly less is
#: restored.
LOW = 0.1
#: Effects that differ by less are the same but for rounding of float32.
SAME = 1e-5
#: The states of which one alone can restore much: a head's or a sublayer's share is small by nature.
STREAM = ("block", "block_input", "attention", "crossattention", "")


def relevances(one: Map, look: Look) -> Array:
    """Mean indirect over mean total effect, (example, nu, cell); NaN where undefined or by construction."""
    total = np.where(look.visible, look.mean_total, np.nan)
    return one.mean() / total[..., None]


def best(maps: Sequence[Map], look: Look) -> Array:
    """The largest relevance of any cell, (example, nu); NaN where there is none."""
    found = np.full(look.mean_total.shape, -np.inf)
    for one in maps:
        found = np.fmax(
            found, np.where(np.isnan(share := relevances(one, look)), -np.inf, share).max(-1, initial=-np.inf)
        )
    return np.where(np.isinf(found), np.nan, found)


@check(
    "uniform relevance over layers",
    limits=f"layers that differ by a standard deviation of at least {FLAT:g} of their mean",
    why="A map in which every layer restores as much says nothing of where: whatever is written anywhere is read.",
    reference="Hase et al. (2301.04213); Heimersheim and Nanda (2404.15255)",
    remedy="Look at what sublayers add (`attention_out`, `mlp_out`), freeze what later layers read, or knock"
    " layers out.",
)
def uniform(look: Look) -> Iterator[Seen]:
    for one in look.maps:
        layers = np.unique(one.layers)
        if one.node == CELLS_NODE or one.node.endswith(HEADS_NODE) or len(layers) < LEAST_CELLS:
            continue
        total = np.where(look.visible, look.mean_total, np.nan)[..., None]
        effects = np.where(one.structural[:, None, None], np.nan, one.effects["probability"])
        # of each layer the mean over its tokens, of each draw, (example, nu, draw, layer)
        draws = np.stack([mean_known(effects[..., one.layers == layer], 3) for layer in layers], -1)
        own = draws - mean_known(draws, 3)[..., None]
        profile, error = mean_known(draws, 2) / total, _variance(own) / total**2
        if len(look.examples) > 1:
            profile, error = (mean_known(values, 0)[None] for values in (profile, error))
            error = error / len(look.examples)
        known = (~np.isnan(profile)).sum(-1)
        mean = mean_known(profile, 2)
        between = quotient(np.nansum((profile - mean[..., None]) ** 2, -1), known - 1)
        noise = mean_known(error, 2)
        flat = np.sqrt(np.maximum(between - noise, 0)) < FLAT * mean
        # draws that leave more than that hide whether it is flat
        flat &= (mean >= SOME) & (known >= LEAST_CELLS) & (np.sqrt(noise) < FLAT * mean)
        if flat.any():
            said = ", ".join(f"{mean[0, k]:.2f} at ν = {look.nus[k]:g}" for k in np.flatnonzero(flat[0]))
            limit = f"layers that differ by {FLAT:g} of their mean"
            yield Seen("warning", f"{one}: relevance is {said}, whatever the layer", limit, (str(one),))


def _variance(draws: Array) -> Array:
    """Of the mean over draws, (example, nu, layer); 0 of a single draw."""
    count = (~np.isnan(draws)).sum(2)
    spread = np.nansum((draws - mean_known(draws, 2)[:, :, None]) ** 2, 2)
    return spread / np.maximum(count - 1, 1) / np.maximum(count, 1)


@check(
    "significantly negative relevance",
    limits=f"no cell whose relevance lies below −{HARM:g} in all that its draws allow (Student, Bonferroni over"
    f" the map); a warning below −{HURT:g}, and where Γ lies below −{SOME:g}; of the image encoder a note",
    why="A clean state that makes the answer less likely fits the damaged states around it no better than noise: the"
    " effect is of the mixture, not of what the state carries.",
    reference="Zhang and Nanda (2309.16042)",
    remedy='Hold it against another noise and `direction="noising"`; restore neighbouring states together.',
)
def negative(look: Look) -> Iterator[Seen]:
    for one in look.maps:
        effects = np.where(
            one.structural[:, None, None] | ~look.visible[..., None, None], np.nan, one.effects["probability"]
        )
        cells = max(1, int((~np.isnan(effects)).any((0, 1, 2)).sum()))
        high = _upper(np.moveaxis(effects, 2, -1), look.varied, cells)
        with np.errstate(invalid="ignore"):
            below = high < -HARM * look.mean_total[..., None]
        if below.any():
            much = high < -HURT * look.mean_total[..., None]
            level = graver(np.asarray(much.any(-1)), np.asarray((~np.isnan(high)).any(-1)))
            shares = mean_known(effects, 2) / look.mean_total[..., None]
            said = f"{one}: relevance down to {shares[below].min():.2f} in {below.any((0, 1)).sum()} cells"
            where = tuple(one.labels[cell] for cell in np.flatnonzero(below.any((0, 1))))
            yield Seen("note" if one.node == "image_encoder" else level, said, f"none below −{HARM:g}", where)
        # and on the whole: of each example over its draws, or over many examples
        together, total = mean_known(effects, 3), look.mean_total
        if len(look.examples) >= MIN_EXAMPLES:
            together, total = (
                mean_known(together, 2).T[None],
                mean_known(np.where(look.visible, total, np.nan), 0)[None],
            )
        with np.errstate(invalid="ignore"):
            harmed = _upper(together, look.varied or len(together) == 1, 1) < -SOME * total
        if harmed.any():
            lowest = (mean_known(together, 2) / total)[harmed].min()
            level = "note" if one.node == "image_encoder" else graver(harmed, ~np.isnan(total))
            yield Seen(
                level, f"{one}: the mean of its relevance (Γ) is {lowest:.2f}", f"not below −{SOME:g}", (str(one),)
            )


def _upper(units: Array, varied: bool, tests: int) -> Array:
    """Upper bound of the mean over the last axis in one of so many tests; the mean itself of what does not vary."""
    mean, count = mean_known(units, -1), (~np.isnan(units)).sum(-1)
    if not varied:
        return mean
    spread = np.sqrt(np.nansum((units - mean[..., None]) ** 2, -1) / np.maximum(count - 1, 1))
    return mean + np.where(count > 1, half_width(spread, count, 1 - 0.1 / tests), np.nan)


@check(
    "low restoration everywhere",
    limits=f"at least {LOW:g} of the total effect brought back by some cell",
    why="If no single state brings anything back, the answer does not pass through one: the map shows what"
    " is left over.",
    reference="Heimersheim and Nanda (2404.15255); Meng et al. (2202.05262), who restore windows of ten layers",
    remedy="Restore several states together (`sites.windows`, `sites.all_tokens`), or take a smaller ν.",
)
def low(look: Look) -> Iterator[Seen]:
    found = best(look.maps, look)
    known = ~np.isnan(found)
    nothing = known & (found < LOW)
    if not nothing.any():
        return
    stream = any(one.kind in STREAM for one in look.maps)
    everywhere = np.nanmax(quotient(nothing.sum(0).astype(float), known.sum(0)), initial=0) > 0.5
    said = f"the best cell restores {np.nanmax(found[nothing]):.3f} of the total effect at most"
    level = of_one(look, "warning" if stream and everywhere else "note")
    yield Seen(level, said, f"at least {LOW:g}", look.at(nothing))


@check(
    "restored by construction first",
    limits="a strongest cell that does not restore by construction",
    why="All that comes after these states follows from them: the decoder's last layer is the answer where that has one"
    " token, all tokens of the question encoder's last layer are all that the decoder sees, and `crossattention` of a"
    " token is its `block`. They say how BLIP is built.",
    reference="`effects.structural`",
    remedy="Rank with `effects.strongest`, which leaves them out.",
)
def by_construction(look: Look) -> Iterator[Seen]:
    if not look.maps:
        return
    effects = [mean_known(one.effects["probability"], 2) for one in look.maps]
    top = np.max([np.where(np.isnan(one), -np.inf, one).max(-1, initial=-np.inf) for one in effects], 0)
    where: dict[str, None] = {}
    for one, effect in zip(look.maps, effects, strict=True):
        first = (effect >= top[..., None] - SAME) & one.structural[:, None] & look.visible[..., None]
        where |= dict.fromkeys(one.labels[cell] for cell in np.flatnonzero(first.any((0, 1))))
    if where:
        said = f"{len(where)} of the strongest cells restore by construction"
        yield Seen("note", said, "findings first", tuple(where))
