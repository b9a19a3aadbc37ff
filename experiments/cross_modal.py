#!/usr/bin/env python
"""Are picture and words processed apart in the middle layers?

    nnblip experiment cross_modal
    nnblip experiment cross_modal --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download \\
        --types color --nu 5 --n 200

Palit et al. 2023 find that restoring states of the middle layers brings next to nothing back, and offer two readings:
picture and words are processed apart there, or the later layers override what the middle ones have found. Each reading
says more than that, and what it says is tried here on questions of one type, each about a picture of its own: maps for a
damaged picture beside maps for a damaged question, cross-attention (where it looks, what it adds), the likeness of states
with their picture, another one and none (debiased CKA), linear probes with control tasks (Hewitt and Liang 2019), what
the decoder says of each layer's states (`nnblip.lens`), and cross-attention cut layer by layer.

Early, middle and later are thirds of the question encoder's layers. A share is a ratio of means over examples. A reading
holds if all that it says does, and fails if something of it fails; the intervals of one reading hold together. The maps,
cuts, lens and attention are of the first examples only (see `TRACED`), CKA and probes of all.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import xarray as xr
from PIL import ImageStat

import nnblip
from nnblip import effects
from nnblip.effects import THRESHOLD
from nnblip.errors import SettingError
from nnblip.examples import Example, load_image
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import (
    ALPHA, FAILS, HOLDS, OPEN, Verdict, above, below, differ, everywhere, holm, of_several,
)  # fmt: skip
from nnblip.experiments.figures import line, tidy
from nnblip.experiments.gaze import gaze
from nnblip.experiments.numbers import bounds, compared, intervals_are, mean, means
from nnblip.experiments.parts import EXACT, share, shares, thirds
from nnblip.experiments.probes import by_lot, most_common, probe, require
from nnblip.experiments.readouts import EVERY, RUNS, readouts
from nnblip.experiments.similarity import chance, linear_cka, pseudovalues
from nnblip.experiments.texts import listed, table
from nnblip.sites import KnockOut, all_tokens

#: Of so many examples there are maps, cuts, lens and attention.
TRACED = 24
#: So many times a control task is drawn.
LOTS = 3
#: What is said to be next to nothing of an effect, and the most of it; and states that are said to be the same.
LITTLE, HALF, SAME = 0.1, 0.5, 0.9
#: What each of the paper's readings says, by the claims.
READINGS = {"apart": ("apart_cut", "apart_alike", "apart_probe", "apart_said"),
            "override": ("carried", "overridden", "later_suffice")}  # fmt: skip


# --- what is measured ----------------------------------------------------------------------


def questions(run: Run) -> list[Example]:
    """Of one type: else the type of a question would say something of its answer without any picture."""
    if len(run.sources) > 1:
        raise SettingError(
            f"dataset {' '.join(run.options.dataset)}: cross_modal takes one data set; run it for each, with its own --out"
        )
    source = run.sources[0]
    kinds = Counter(source.type_of(e) for e in source.examples)
    most = None if run.options.types or len(kinds) < 2 else kinds.most_common(1)[0][0]
    (group,) = run.choose(by_type=False, keep=lambda e: most is None or source.type_of(e) == most)
    asked = ", ".join(run.options.types) or most
    answers = Counter(str(e.answer) for e in group.examples)
    said = listed([f"{answer} {count}" for answer, count in answers.most_common(5)])
    run.section(
        "Examples",
        f"{len(group.examples)} questions{f' of type {asked}' if asked else ''} in"
        f" {len({e.question for e in group.examples})} wordings, each about a picture of its own. Their answers: {said}"
        f"{f' and {len(answers) - 5} more' if len(answers) > 5 else ''}. Maps, cuts, lens and attention are of the first"
        f" {min(TRACED, len(group.examples))}.",
    )
    return group.examples


def cuts(parts: dict[str, range]) -> dict[tuple[str, int], KnockOut]:
    """Layers whose cross-attention is cut: each alone, all up to it, all from it on, and the middle ones."""
    layers = parts["later"].stop
    spans = {("middle", 0): parts["middle"], ("all", 0): range(layers)}
    for layer in range(layers):
        spans |= {("alone", layer): range(layer, layer + 1), ("up to", layer): range(layer + 1),
                  ("from", layer): range(layer, layers)}  # fmt: skip
    return {name: nnblip.knock_out("image_to_question", layers=span) for name, span in spans.items()}


def cut_effects(tree: xr.DataTree, cells: dict[tuple[str, int], KnockOut]) -> xr.Dataset:
    """Effects on P(answer): `alone`, `up to` and `from` (example, layer), `middle` and `all` (example)."""
    effect = effects.knock_out_effect(tree).probability.reset_coords(drop=True)
    layers = sorted({layer for _, layer in cells})
    found = {}
    for how in dict.fromkeys(how for how, _ in cells):
        names = [cells[how, layer].name for layer in layers if (how, layer) in cells]
        one = effect.sel(knock_out=names)
        one = one.isel(knock_out=0, drop=True) if len(names) == 1 else one.rename(knock_out="layer")
        found[how] = one.drop_vars("layer", errors="ignore")
    return xr.Dataset(found).assign_coords(layer=layers)


def restored(tree: xr.DataTree, component: str = "question_encoder") -> xr.DataArray:
    """Effects on P(answer) of restoring one token's state, mean over tokens and draws: (example, layer)."""
    found = effects.indirect_effect(tree)[component].probability
    found = found.where(~effects.structural(tree)[component].structural)
    return found.isel(nu=0).sel(kind="block").mean(("draw", "token")).reset_coords(drop=True)


def restored_whole(tree: xr.DataTree) -> xr.DataArray:
    """The same of all tokens of a layer together; the last layer's restore by construction."""
    found = effects.indirect_effect(tree)["cells"].probability.isel(nu=0).mean("draw")
    return found.assign_coords(cell=found.layer.values).reset_coords(drop=True).rename(cell="layer")


def damage(tree: xr.DataTree) -> xr.DataArray:
    return effects.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").reset_coords(drop=True)


def likeness(states: xr.DataArray) -> xr.Dataset:
    """Debiased CKA by pair of runs and layer: `cka`, `values` of each example, `p` against chance, and `chance`.

    Args:
        states: (example, run, layer, hidden), runs as `readouts` has them.
    """
    run = {name: states.sel(run=name).values for name in RUNS}
    shifted = np.roll(run["clean"], -1, 0)
    pairs = {
        "same words, another picture": (run["clean"], run["another picture"]),
        "same picture, other words": (shifted, run["another picture"]),
        "same words, no picture": (run["clean"], run["no picture"]),
        "same words, damaged picture": (run["clean"], run["damaged picture"]),
    }
    found: dict[str, list[list[object]]] = {name: [] for name in ("cka", "values", "p", "chance")}
    for a, b in pairs.values():
        each = [(a[:, layer], b[:, layer]) for layer in range(a.shape[1])]
        nulls = [chance(*one) for one in each]
        rows = ([linear_cka(*one) for one in each], [pseudovalues(*one) for one in each],
                [one.p for one in nulls], [one.high for one in nulls])  # fmt: skip
        for name, row in zip(found, rows, strict=True):
            found[name].append(list(row))
    dims = {name: ("pair", "layer", "example") if name == "values" else ("pair", "layer") for name in found}
    coords = {"pair": list(pairs), "layer": states.layer.values, "example": states.example.values}
    return xr.Dataset({name: (dims[name], np.array(rows)) for name, rows in found.items()}, coords)


def contents(examples: list[Example]) -> dict[str, list[str]]:
    """What is in each picture whatever is asked: its brightness, and how many objects, where the data set says so."""
    light = [ImageStat.Stat(load_image(e.image).convert("L")).mean[0] for e in examples]
    found = {"brightness": ["bright" if one > np.median(light) else "dark" for one in light]}
    if all("objects" in e.extra for e in examples):
        found["objects"] = [str(e.extra["objects"]) for e in examples]
    return found


def probed(states: xr.DataArray, examples: list[Example], seed: int) -> xr.Dataset:
    """Which examples linear probes read, `right` (task, layer, example) and `by_role` (readout, layer, example).

    The tasks are the answer, the same out of states without a picture, a control task, and what is in the picture.
    `guess` (task) is how often the most common label would be right.
    """
    answers, words = [str(e.answer) for e in examples], [e.question for e in examples]

    def over(labels: list[str], run: str = "clean", readout: str = EVERY) -> list[np.ndarray]:
        chosen = states.sel(run=run, readout=readout)
        return [probe(chosen.sel(layer=layer).values, labels, seed=seed) for layer in states.layer.values]

    lots = [by_lot(answers, words, seed + number) for number in range(LOTS)]
    right = {"answer": over(answers), "answer, no picture": over(answers, "no picture"),
             "control": list(np.mean([over(lot) for lot in lots], 0))}  # fmt: skip
    guess = [most_common(answers)] * 2 + [np.mean([most_common(lot) for lot in lots])]
    for name, labels in contents(examples).items():
        right[name], guess = over(labels), [*guess, most_common(labels)]
    by_role = [over(answers, readout=readout) for readout in states.readout.values]
    return xr.Dataset(
        {
            "right": (("task", "layer", "example"), np.array(list(right.values()))),
            "by_role": (("readout", "layer", "example"), np.array(by_role)),
            "guess": ("task", guess),
        },
        {"task": list(right), "layer": states.layer, "readout": states.readout, "example": states.example},
    )


# --- what is said of it --------------------------------------------------------------------


def entering(run: Run, found: xr.Dataset, states: xr.Dataset) -> None:
    """Where the picture comes in: cross-attention cut, and the first layer whose states are other ones."""
    layers = found.layer.values
    part = {how: shares(found[how], found["all"]) for how in ("alone", "up to", "from")}
    tested = compared(found["alone"], xr.zeros_like(found["alone"]), paired=True)
    needed = [int(n) for n, p, d in zip(layers, tested.p_corrected, tested.difference, strict=True) if p < ALPHA and d > 0]
    apart = abs(states.states.sel(run="clean") - states.states.sel(run="another picture"))
    untouched = [int(n) for n, d in zip(layers, apart.max(("example", "readout", "hidden")), strict=True) if d > EXACT]
    added = {place[0]: one for place, one in means(states.added, (0.0, np.inf)).items()}
    rows = [["layer", "alone", "corrected p", "up to it", "from it on", "adds to the stream"]]
    for at, layer in enumerate(layers):
        cells = [share(part[how].sel(layer=layer)).bare for how in part]
        rows.append([str(layer), cells[0], f"{tested.p_corrected.values[at]:.3g}", *cells[1:], added[at].bare])
    if len(needed) == 1:
        said = f"The picture enters at layer {needed[0]}: of single layers, the answer needs the cross-attention of that one."
    elif needed:
        said = f"Of single layers, the answer needs the cross-attention of {listed([str(one) for one in needed])}."
    else:
        said = "That the answer needs the cross-attention of any single layer is not established."
    first = untouched[0] if untouched else None
    depends = "No layer's states depend on the picture." if first is None else (
        f"Layer {first} is the first whose states depend on the picture."
    )  # fmt: skip
    run.section(
        "Where the picture enters",
        f"{said} {depends}\n\nWhat the answer loses in a clean run whose question encoder cannot read the picture in some"
        f" layers, as a share of what it loses where it never can ({mean(found['all'])} of P(answer)), with"
        f" {intervals_are()}; p of a permutation test that it loses nothing, corrected for all layers. What"
        f" cross-attention adds is measured beside the stream.\n\n{table(*rows)}",
    )
    run.claim("one_place", one_place({int(n): part["alone"].sel(layer=n) for n in layers}))


def one_place(parts: dict[int, xr.DataArray]) -> Verdict:
    """Whether one layer alone brings the picture in, by the share that is lost without each."""
    found = {layer: share(values, of_several(len(parts))) for layer, values in parts.items()}
    most = [layer for layer, one in found.items() if one.low > HALF]
    some = [layer for layer, one in found.items() if one.low > LITTLE]
    little = [layer for layer, one in found.items() if one.high < LITTLE]
    told = "; ".join(f"layer {layer} {found[layer]}" for layer in found if layer not in little) or "none of them"
    if little:
        told += f"; less than {LITTLE:g} each: {listed([str(one) for one in little])}"
    if len(most) == 1 and len(little) == len(found) - 1:
        return Verdict(HOLDS, told)
    fails = len(some) > 1 or all(one.high < HALF for one in found.values())
    return Verdict(FAILS if fails else OPEN, told)


def maps(run: Run, trees: dict[str, xr.DataTree], parts: dict[str, range]) -> dict[str, xr.DataArray]:
    """Damaged picture beside damaged question: shares restored by single tokens, (example, layer)."""
    total = {name: damage(tree) for name, tree in trees.items()}
    lost = {name: mean(one) for name, one in total.items()}
    profile = {name: shares(restored(tree), total[name]) for name, tree in trees.items()}
    inside = {name: {third: one.sel(layer=list(at)).mean("layer") for third, at in parts.items()}
              for name, one in profile.items()}  # fmt: skip
    rows = [["damaged", "total effect", *(f"{third} layers" for third in parts)]]
    rows += [[name, str(lost[name]), *(share(one).bare for one in inside[name].values())] for name in trees]
    weak = [name for name in trees if not (lost[name].value >= THRESHOLD and lost[name].low > 0)]
    note = f"\n\nOf a damaged {' and '.join(weak)} there is next to nothing to restore." if weak else ""
    run.section(
        "A damaged picture beside a damaged question",
        f"Share of the total effect that restoring one token's state brings back, mean over tokens and layers of each"
        f" third, with {intervals_are()}.\n\n{table(*rows)}{note}",
    )
    run.claim("late", above(share(inside["picture"]["later"] - inside["picture"]["middle"]), 0, "later minus middle"))
    run.claim("maps", Verdict(OPEN, f"a damaged {weak[0]} has too little effect: {lost[weak[0]]}") if weak else differ(
        {"by layer": compared(profile["picture"], profile["question"], paired=True)}, "profiles"))  # fmt: skip
    return profile


def looking(run: Run, looks: xr.Dataset, parts: dict[str, range]) -> None:
    """Where cross-attention looks."""
    role = "last content word" if "last content word" in looks.role.values else str(looks.role.values[-1])
    by_layer = {name: looks[name].mean(("head", "role")) for name in ("entropy", "cls")}
    at_object = looks["object"].sel(role=role).mean("head")
    known = bool(at_object.notnull().any())
    rows = [["layers", "entropy", "on [CLS]", *(["on the object", "its area"] if known else [])]]
    for third, at in parts.items():
        cells = [mean(one.sel(layer=list(at)).mean("layer"), (0, 1)).bare for one in by_layer.values()]
        if known:
            cells += [mean(one, (0, 1)).bare for one in (at_object.sel(layer=list(at)).mean("layer"), looks.area)]
        rows.append([third, *cells])
    told = f" Weight on the object that is asked about is that of the {role}'s look at patches." if known else (
        " The data set does not say where the objects are."
    )  # fmt: skip
    run.section(
        "Where cross-attention looks",
        f"Means over heads and words, with {intervals_are()}. Entropy is 1 where all of the picture weighs the same;"
        f" [CLS] is no patch.{told}\n\n{table(*rows)}",
    )
    verdict = Verdict(OPEN, "the data set has no boxes")
    if known:
        area = looks.area.broadcast_like(at_object)
        tested = compared(at_object, area, paired=True)
        sure = [str(layer) for layer, p, d in zip(tested.layer.values, tested.p_corrected, tested.difference, strict=True)
                if p < ALPHA and d > 0]  # fmt: skip
        excess = above(mean((at_object - area).mean("layer")), 0, "weight minus area, mean over layers")
        verdict = Verdict(excess.said, f"{excess.because}; by corrected tests in layers {listed(sure)}")
    run.claim("looks", verdict)


def tells(run: Run, alike: xr.Dataset, probes: xr.Dataset, said: xr.DataArray, guessed: list[str]) -> None:
    """Tables of CKA, probes and lens by layer."""
    p = {f"{pair} {layer}": float(alike.p.sel(pair=pair, layer=layer)) for pair in alike.pair.values
         for layer in alike.layer.values}  # fmt: skip
    corrected = holm(p)
    rows = [["layer", *alike.pair.values]]
    for layer in alike.layer.values:
        cells = [f"{mean(alike['values'].sel(pair=pair, layer=layer), (-np.inf, np.inf)).bare}"
                 f"{'' if corrected[f'{pair} {layer}'] < ALPHA else ' (as by chance)'}" for pair in alike.pair.values]  # fmt: skip
        rows.append([str(layer), *cells])
    run.section(
        "States with and without the picture",
        f"Debiased linear CKA of the question encoder's states, mean over tokens, of {alike.sizes['example']} examples, by"
        f" jackknife with {intervals_are()}. As by chance: a test that pairs examples by chance, corrected for all of"
        f" these by Holm, does not tell them from that.\n\n{table(*rows)}",
    )
    rows = [["layer", *(f"{task} (guess {guess:.2f})" for task, guess in zip(probes.task.values, probes.guess.values,
             strict=True)), "selectivity"]]  # fmt: skip
    selective = probes.right.sel(task="answer") - probes.right.sel(task="control")
    for layer in probes.layer.values:
        cells = [mean(one.sel(layer=layer), (0, 1)).bare for one in probes.right]
        rows.append([str(layer), *cells, mean(selective.sel(layer=layer)).bare])
    run.section(
        "What linear probes read",
        "Of which share of examples a probe that has not seen them reads it out of the mean over tokens. The control task"
        f" gives each wording of a question one of the answers by lot ({LOTS} lots); selectivity is how much better the"
        f" answer is read than that (below 0: the words are read better). Guess: the most common label.\n\n{table(*rows)}",
    )
    rows = [["layer", "P(answer) by the decoder lens", "says the answer's first token"]]
    for layer in said.layer.values:
        says = np.mean([one == guess for one, guess in zip(said.said.sel(layer=layer).values, guessed, strict=True)])
        rows.append([str(layer), mean(said.sel(layer=layer), (0, 1)).bare, f"{says:.2f}"])
    run.section(
        "What the decoder says of each layer",
        f"The answer decoder reads the states of a layer in place of the last one's (`nnblip.lens`).\n\n{table(*rows)}",
    )


def readings(
    run: Run, found: xr.Dataset, alike: xr.Dataset, probes: xr.Dataset, said: xr.DataArray, picture: xr.DataTree,
    parts: dict[str, range],
) -> None:  # fmt: skip
    """What each of the paper's two readings says, and whether it is so."""
    middle, last = list(parts["middle"]), parts["middle"][-1]
    level = {name: of_several(len(claims)) for name, claims in READINGS.items()}
    gain = (probes.right.sel(task="answer") - probes.right.sel(task="answer, no picture")).sel(layer=middle).mean("layer")
    same = alike["values"].sel(pair="same words, another picture", layer=middle).mean("layer")
    whole = shares(restored_whole(picture), damage(picture)).sel(layer=last)
    lens, gained = shares(said, said.isel(layer=-1)).sel(layer=last), "share read with the picture minus without"
    verdicts = {
        "apart_cut": below(share(shares(found["middle"], found["all"]), level["apart"]), LITTLE, "share of cutting all"),
        "apart_alike": above(mean(same, (-np.inf, np.inf), level["apart"]), SAME, "CKA"),
        "apart_probe": below(mean(gain, level=level["apart"]), LITTLE, gained),
        "apart_said": below(share(lens, level["apart"]), HALF, f"share of P(answer) after layer {last}"),
        "carried": above(mean(gain, level=level["override"]), 0, gained),
        "overridden": below(share(whole, level["override"]), HALF, f"share restored by layer {last}"),
        "later_suffice": below(
            share(shares(found["up to"].sel(layer=last), found["all"]), level["override"]), HALF, "share of cutting all"
        ),
    }
    for name, verdict in verdicts.items():
        run.claim(name, verdict)
    speaks = {HOLDS: "for it", FAILS: "against it", OPEN: "undecided"}
    text = []
    for name, claims in READINGS.items():
        run.claim(name, everywhere({one: verdicts[one] for one in claims}))
        rows = [[CLAIMS[one], speaks[verdicts[one].said], verdicts[one].because] for one in claims]
        text.append(f"{CLAIMS[name]}\n\n{table(['if so', 'speaks', 'because'], *rows)}")
    run.section("For and against", "\n\n".join(text))
