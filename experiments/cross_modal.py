#!/usr/bin/env python
"""Are picture and words processed apart in the middle layers?

    nnblip experiment cross_modal
    nnblip experiment cross_modal --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download \\
        --types color --nu 5 --n 200

Palit et al. 2023 find that restoring states of the middle layers brings next to nothing back, and offer two
readings: picture and words are processed apart there, or the later layers override what the middle ones have found.
Each says more than that, and what it says is tried here on questions of one type, each about a picture of its own:
maps for a damaged picture beside maps for a damaged question, cross-attention (where it looks, what it adds), the
likeness of states with their picture, another one and none (debiased CKA), linear probes with control tasks (Hewitt
and Liang 2019), what the decoder says of each layer's states (`nnblip.lens`), and cross-attention cut layer by layer.

Early, middle and later are thirds of the question encoder's layers. A share is a ratio of means over examples. A
reading holds if all that it says does, and fails if something of it fails; the intervals of one reading hold together.
Maps, cuts, lens and attention are of the first examples only (see `TRACED`), CKA and probes of all.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nnblip
from nnblip import effects
from nnblip.effects import THRESHOLD
from nnblip.examples import Example
from nnblip.experiments import Defaults, Experiment, Run, claims, maps
from nnblip.experiments.claims import ALPHA, FAILS, HOLDS, OPEN, Verdict, of_several
from nnblip.experiments.evidence import LOTS, likeness, probed
from nnblip.experiments.figures import line, tidy
from nnblip.experiments.gaze import gaze
from nnblip.experiments.grids import grids
from nnblip.experiments.maps import by_layer, of_examples
from nnblip.experiments.numbers import SHARE, bounds, compared, intervals_are, mean, means
from nnblip.experiments.parts import EXACT, cut_effects, cuts, share, shares, thirds
from nnblip.experiments.probes import require
from nnblip.experiments.readouts import EVERY, readouts
from nnblip.experiments.sources import Source
from nnblip.experiments.texts import listed, table
from nnblip.sites import all_tokens

#: Of so many examples there are maps, cuts, lens and attention.
TRACED = 24
#: What is said to be next to nothing of an effect, and the most of it; and states that are said to be the same.
LITTLE, HALF, SAME = 0.1, 0.5, 0.9
#: What each of the paper's readings says: claims, and what tells of them.
READINGS = {
    "apart": {"apart_cut": "cuts", "apart_alike": "CKA", "apart_probe": "probes", "apart_said": "the lens"},
    "override": {"carried": "probes", "overridden": "restored states", "later_suffice": "cuts"},
}


# --- what is measured ----------------------------------------------------------------------


def hardest(source: Source, n: int) -> str | None:
    """The type of at least n questions whose answers are the hardest to guess; None where there are no types."""
    answers: dict[str, Counter[str]] = {}
    for e in source.examples:
        answers.setdefault(source.type_of(e), Counter())[str(e.answer)] += 1
    guess = {kind: max(one.values()) / one.total() for kind, one in answers.items() if one.total() >= n}
    return min(guess, key=lambda kind: guess[kind]) if len(answers) > 1 and guess else None


def questions(run: Run) -> list[Example]:
    """Of one type: else the type of a question would say something of its answer without any picture."""
    source = run.source
    most = None if run.options.types else hardest(source, run.options.n)
    (group,) = run.choose(by_type=False, keep=lambda e: most is None or source.type_of(e) == most)
    asked = ", ".join(run.options.types) or most
    answers = Counter(str(e.answer) for e in group.examples)
    wordings = len({e.question for e in group.examples})
    said = listed([f"{answer} {count}" for answer, count in answers.most_common(5)])
    run.section(
        "Examples",
        f"{len(group.examples)} questions{f' of type {asked}' if asked else ''} in"
        f" {wordings} wording{'s' * (wordings > 1)}, each about a picture of its own. Their answers: {said}"
        f"{f' and {len(answers) - 5} more' if len(answers) > 5 else ''}. Maps, cuts, lens and attention are of the"
        f" first {min(TRACED, len(group.examples))}.",
    )
    return group.examples


def restored(tree: xr.DataTree) -> xr.DataArray:
    """Effects on P(answer) of restoring one token of the question, mean over tokens and draws: (example, layer)."""
    return by_layer(of_examples(maps.restored(tree), "question_encoder"))


def restored_whole(tree: xr.DataTree) -> xr.DataArray:
    """The same of all its tokens together; those of the last layer restore by construction."""
    found = effects.indirect_effect(tree)["cells"].probability.isel(nu=0).mean("draw")
    return found.assign_coords(cell=found.layer.values).reset_coords(drop=True).rename(cell="layer")


def damage(tree: xr.DataTree) -> xr.DataArray:
    return effects.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").reset_coords(drop=True)


# --- what is said of it --------------------------------------------------------------------


def entering(run: Run, found: xr.Dataset, states: xr.Dataset) -> None:
    """Where the picture comes in: cross-attention cut, and the first layer whose states are other ones."""
    layers = found.layer.values
    part = {how: shares(found[how], found["all"]) for how in ("alone", "up to", "from")}
    tested = compared(found["alone"], xr.zeros_like(found["alone"]), paired=True)
    needed = layers[((tested.p_corrected < ALPHA) & (tested.difference > 0)).values].tolist()
    other = changed(states)
    added = {place[0]: one for place, one in means(states.added, (0.0, np.inf)).items()}
    rows = [["layer", "alone", "corrected p", "up to it", "from it on", "adds to the stream"]]
    for at, layer in enumerate(layers):
        cells = [share(part[how].sel(layer=layer)).bare for how in part]
        rows.append([str(layer), cells[0], f"{tested.p_corrected.values[at]:.3g}", *cells[1:], added[at].bare])
    place = one_place({int(n): part["alone"].sel(layer=n) for n in layers})
    if place.said == HOLDS and needed == other[:1]:
        said = f"The picture enters at layer {needed[0]}, and without any other's cross-attention little is lost."
    elif needed:
        layers_are = f"layer{'s' * (len(needed) > 1)} {listed([str(one) for one in needed])}"
        said = f"Of single layers, the answer needs the cross-attention of {layers_are}."
    else:
        said = "That the answer needs the cross-attention of any single layer is not established."
    depends = f"Layer {other[0]} is the first whose states depend on it." if other else "No state depends on it."
    run.section(
        "Where the picture enters",
        f"{said} {depends}\n\nWhat the answer loses in a clean run whose question encoder cannot read the picture in"
        f" some layers, as a share of what it loses where it never can (of P(answer): {mean(found['all'])}), with"
        f" {intervals_are()}; p of a permutation test that it loses nothing, corrected for all layers. What"
        f" cross-attention adds is measured beside the stream.\n\n{table(*rows)}",
    )
    run.claim("one_place", place)


def changed(states: xr.Dataset) -> list[int]:
    """The layers of which any state is another one with another picture."""
    apart = abs(states.states.sel(run="clean") - states.states.sel(run="another picture"))
    most = apart.max(("example", "readout", "hidden"))
    return most.layer.values[(most > EXACT).values].tolist()


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


def damages(run: Run, trees: dict[str, xr.DataTree], parts: dict[str, range]) -> dict[str, xr.DataArray]:
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
    later = share(inside["picture"]["later"] - inside["picture"]["middle"])
    run.claim("late", claims.above(later, 0, "later minus middle"))
    pair = {"picture minus question": compared(profile["picture"], profile["question"], paired=True)}
    little = [Verdict(OPEN, f"a damaged {name} has too little effect: {lost[name]}") for name in weak]
    run.claim("maps", little[0] if weak else claims.differ(pair, "pairs of profiles"))
    return profile


def role_of(looks: xr.Dataset) -> str:
    """The word that names what is asked about, by its role."""
    name = "last content word"
    return name if name in looks.role.values else str(looks.role.values[-1])


def looking(run: Run, looks: xr.Dataset, parts: dict[str, range]) -> None:
    """Where cross-attention looks."""
    role = role_of(looks)
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
        found = tested.layer.values[((tested.p_corrected < ALPHA) & (tested.difference > 0)).values]
        excess = claims.above(mean((at_object - area).mean("layer")), 0, "weight minus area, mean over layers")
        verdict = Verdict(
            excess.said, f"{excess.because}; by corrected tests in layers {listed([str(one) for one in found])}"
        )
    run.claim("looks", verdict)


def tells(run: Run, alike: xr.Dataset, probes: xr.Dataset, said: xr.DataArray, lens: xr.DataArray) -> None:
    """Tables of CKA, probes and lens by layer."""
    compared_at = {
        (at, pair): alike.sel(pair=pair, layer=at) for at in alike.layer.values for pair in alike.pair.values
    }
    corrected = claims.holm({f"{at} {pair}": float(one.p) for (at, pair), one in compared_at.items()})
    text = {place: mean(one["values"], SHARE).bare for place, one in compared_at.items()}
    for at, pair in compared_at:
        if text[at, pair] and not corrected[f"{at} {pair}"] < ALPHA:
            text[at, pair] += " (as by chance)"
    rows = [["layer", *alike.pair.values]]
    rows += [[str(at), *(text[at, pair] for pair in alike.pair.values)] for at in alike.layer.values]
    run.section(
        "States with and without the picture",
        f"Debiased linear CKA of the question encoder's states, mean over tokens, of {alike.sizes['example']} examples,"
        f" by jackknife with {intervals_are()}. As by chance: a test that pairs examples by chance, corrected for all"
        f" of these by Holm, does not tell them from that.\n\n{table(*rows)}",
    )
    guess = [f" (guess {one:.2f})" if np.isfinite(one) else " (no task)" for one in probes.guess.values]
    tasks = [f"{task}{known}" for task, known in zip(probes.task.values, guess, strict=True)]
    rows = [["layer", *tasks, "selectivity"]]
    selective = probes.right.sel(task="answer") - probes.right.sel(task="control")
    for layer in probes.layer.values:
        right = [mean(one.sel(layer=layer), (0, 1)).bare for one in probes.right]
        rows.append([str(layer), *right, mean(selective.sel(layer=layer)).bare])
    run.section(
        "What linear probes read",
        "Of which share of examples a probe that has not seen them reads it out of the mean over tokens. The control"
        f" task gives each wording of a question one of the answers by lot ({LOTS} lots); selectivity is how much"
        " better the answer is read than that (below 0: the words are read better). Guess: the most common label."
        " Intervals are of the probes as they were learnt."
        f"\n\n{table(*rows)}",
    )
    rows = [["layer", "P(answer) by the decoder lens", "share of what the picture brings", "says what the last says"]]
    for layer in said.layer.values:
        agreed = float((said.said.sel(layer=layer) == said.said.isel(layer=-1)).mean())
        brought = [mean(said.sel(layer=layer), (0, 1)).bare, share(lens.sel(layer=layer)).bare]
        rows.append([str(layer), *brought, f"{agreed:.2f}"])
    run.section(
        "What the decoder says of each layer",
        "The answer decoder reads the states of a layer in place of the last one's (`nnblip.lens`). What the picture"
        f" brings is P(answer) minus what is left of it where no layer can read the picture.\n\n{table(*rows)}",
    )


def readings(
    run: Run, found: xr.Dataset, states: xr.Dataset, alike: xr.Dataset, probes: xr.Dataset, whole: xr.DataArray,
    lens: xr.DataArray, parts: dict[str, range],
) -> None:  # fmt: skip
    """What each of the paper's two readings says, and whether it is so; `whole` and `lens` are shares by layer."""
    middle, last = list(parts["middle"]), parts["middle"][-1]
    level = {name: of_several(len(own)) for name, own in READINGS.items()}
    read = probes.right.sel(layer=middle).mean("layer")
    gain = read.sel(task="answer") - read.sel(task="answer, no picture")
    same = alike["values"].sel(pair="same words, another picture", layer=middle).mean("layer")
    cut = share(shares(found["middle"], found["all"]), level["apart"])
    without = share(shares(found["up to"].sel(layer=last), found["all"]), level["override"])
    gains = {name: mean(gain, level=one) for name, one in level.items()}
    verdicts = {
        "apart_cut": claims.below(cut, LITTLE, "share of cutting all"),
        "apart_alike": claims.above(mean(same, SHARE, level["apart"]), SAME, "CKA"),
        "apart_probe": claims.below(gains["apart"], LITTLE, "share read with the picture minus without"),
        "apart_said": claims.below(share(lens.sel(layer=last), level["apart"]), HALF, f"share after layer {last}"),
        "carried": claims.above(gains["override"], LITTLE, "share read with the picture minus without"),
        "overridden": claims.below(share(whole.sel(layer=last), level["override"]), HALF, f"share by layer {last}"),
        "later_suffice": claims.below(without, HALF, "share of cutting all"),
    }
    if not {*middle} & {*changed(states)}:  # then there is nothing to estimate
        told = f"no state of theirs depends on the picture, n = {states.sizes['example']}"
        verdicts |= {name: Verdict(HOLDS, told) for name in ("apart_alike", "apart_probe")}
        verdicts["carried"] = Verdict(FAILS, told)
    for name, verdict in verdicts.items():
        run.claim(name, verdict)
    speaks = {HOLDS: "for it", FAILS: "against it", OPEN: "undecided"}
    text = []
    for name, own in READINGS.items():
        run.claim(name, claims.everywhere({short: verdicts[one] for one, short in own.items()}))
        rows = [[CLAIMS[one], speaks[verdicts[one].said], verdicts[one].because] for one in own]
        text.append(f"{CLAIMS[name]}\n\n{table(['if so', 'speaks', 'because'], *rows)}")
    run.section("For and against", "\n\n".join(text))


# --- figures -------------------------------------------------------------------------------


def answer_figure(
    profile: dict[str, xr.DataArray], whole: xr.DataArray, found: xr.Dataset, alike: xr.Dataset, probes: xr.Dataset,
    lens: xr.DataArray, looks: xr.Dataset, parts: dict[str, range], title: str,
) -> Figure:  # fmt: skip
    """Six panels by layer; the middle layers are shaded."""
    cut = {how: shares(found[how], found["all"]) for how in ("alone", "up to", "from")}
    role = looks["object"].sel(role=role_of(looks)).mean("head")
    where = {"entropy": looks.entropy.mean(("head", "role")), "on [CLS]": looks.cls.mean(("head", "role")),
             "on the object": role, "the object's area": looks.area.broadcast_like(role)}  # fmt: skip
    where = {name: values for name, values in where.items() if values.notnull().any()}
    gain = probes.right.transpose("task", "example", "layer")
    panels: dict[tuple[str, str], dict[str, xr.DataArray]] = {
        ("One token restored", "share of total effect"): {f"damaged {name}": one for name, one in profile.items()},
        ("Cross-attention cut", "share of cutting all"): {"this layer": cut["alone"], "up to it": cut["up to"],
                                                          "from it on": cut["from"]},
        ("One layer's states alone", "share"): {"all tokens restored": whole, "decoder lens": lens},
        ("States alike", "debiased CKA"): {str(one.pair.item()): one for one in alike["values"]},
        ("Where cross-attention looks", "entropy, weight"): where,
        ("Linear probes", "read rightly"): {str(task): one for task, one in zip(gain.task.values, gain, strict=True)},
    }  # fmt: skip
    figure = Figure(figsize=(7.2, 6.8), layout="constrained")
    every = figure.subplots(2, 3, sharex=True).ravel()
    for axes, ((name, y), lines) in zip(every, panels.items(), strict=True):
        axes.axvspan(parts["middle"][0] - 0.5, parts["middle"][-1] + 0.5, color="0.94", linewidth=0, zorder=0)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        for number, (label, values) in enumerate(lines.items()):
            plain = values.reset_coords(drop=True).transpose("example", "layer")
            line(axes, plain.layer.values, bounds(plain, SHARE), number, label)
        tidy(axes, name, "layer" if axes in every[3:] else "", y)
        axes.set_xticks(found.layer.values)
        below = {"loc": "upper left", "bbox_to_anchor": (-0.05, -0.02 if axes in every[:3] else -0.16)}
        axes.legend(frameon=False, fontsize=6.5, handlelength=1.2, labelspacing=0.25, **below)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def gaze_panels(looks: xr.Dataset) -> dict[str, xr.DataArray]:
    """Means over examples and words, (layer, head): entropy, weight on [CLS], and on the object where it is known."""
    found = {"entropy": looks.entropy.mean(("example", "role")), "weight on [CLS]": looks.cls.mean(("example", "role"))}
    excess = (looks["object"].sel(role=role_of(looks)) - looks.area).mean("example")
    if bool(excess.notnull().any()):
        found["on the object minus its area"] = excess
    return {name: one.reset_coords(drop=True).transpose("layer", "head") for name, one in found.items()}


# --- all of it -----------------------------------------------------------------------------


def run(run: Run) -> None:
    require()
    parts = thirds(len(run.model.question_encoder.layer))
    examples = questions(run)
    first, o, cells = examples[:TRACED], run.options, cuts(parts)
    every = [all_tokens(), *{one.name: one for one in cells.values()}.values()]
    trees = {"picture": run.sweep("picture", first, kinds=["block"], cells=every),
             "question": run.sweep("question", first, noise_at="question")}  # fmt: skip
    states = run.stage("states", lambda: readouts(run.model, examples, o.nu[0], o.noise[0], o.seed)).to_dataset()
    looks = run.stage("attention", lambda: gaze(run.model, first)).to_dataset()
    says = run.stage("lens", lambda: nnblip.lens(run.model, first))
    probes = run.stage("probes", lambda: probed(states.states, examples, o.seed)).to_dataset()
    states, looks = states.load(), looks.load()
    alike = likeness(states.states.sel(readout=EVERY))
    found = cut_effects(trees["picture"], cells)
    said = says["decoder_lens"].probability.load()
    left = trees["picture"]["clean"].probability.reset_coords(drop=True) - found["all"]
    lens = shares(said.reset_coords(drop=True) - left, found["all"])
    whole = shares(restored_whole(trees["picture"]), damage(trees["picture"]))

    entering(run, found, states)
    profile = damages(run, trees, parts)
    looking(run, looks, parts)
    tells(run, alike, probes, said, lens)
    readings(run, found, states, alike, probes, whole, lens, parts)

    run.keep("numbers", xr.DataTree.from_dict({"cuts": found, "alike": alike, "restored": xr.Dataset(profile)}))
    title = f"{o.noise[0]}, ν = {o.nu[0]:g}, {o.draws} draws; shaded: the middle layers"
    run.figure("cross_modal", answer_figure(profile, whole, found, alike, probes, lens, looks, parts, title))
    run.figure("attention", grids(gaze_panels(looks), "minus"))
    read = probes.by_role.mean("example").transpose("layer", "readout")
    run.figure("probes", grids({"answer read by a linear probe": read}))


CLAIMS = {
    "one_place": "The picture enters at one layer: cutting its cross-attention alone costs more than half of what"
    " cutting all does, and that of each other less than a tenth",
    "late": "One token of the later layers brings back more of a damaged picture than one of the middle layers",
    "maps": "A damaged question is restored in other layers than a damaged picture",
    "looks": "Cross-attention looks at the object that is asked about more than at as much of the rest",
    "apart_cut": "What the middle layers read of the picture is hardly needed: without it less than a tenth is lost",
    "apart_alike": "With another picture the middle layers' states are nearly the same: CKA above 0.9",
    "apart_probe": "Linear probes hardly read the answer out of the middle layers: of less than a tenth of the examples"
    " more than without a picture",
    "apart_said": "From the middle layers' states the decoder cannot say the answer yet: of what the picture brings to"
    " its probability, less than half is there",
    "carried": "The middle layers' states carry the picture: linear probes read the answer of at least a tenth of the"
    " examples more than without a picture",
    "overridden": "Middle states put back whole under a damaged picture are overridden: less than half comes back",
    "later_suffice": "The later layers alone read enough: without what the others read less than half is lost",
    "apart": "The paper's first reading: picture and words are processed apart in the middle layers",
    "override": "The paper's second reading: later layers override what the middle layers have found",
}

EXPERIMENT = Experiment(
    name="cross_modal",
    question="Are picture and words processed apart in the middle layers?",
    claims=CLAIMS,
    run=run,
    figure="cross_modal",
    needs=("images",),
    defaults=Defaults(dataset=("scenes",), n=64),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
