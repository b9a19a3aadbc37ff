#!/usr/bin/env python
"""Is "late layers matter" computation, or how BLIP is built?

    nnblip experiment bypass_controls
    nnblip experiment bypass_controls --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER \\
        --images download --nu 5 --draws 10 --n 100

What is divided is **later minus earlier**: the mean indirect effect on P(answer) of the later half of the layers minus
that of the earlier half, of all tokens of a layer together and of one token after the other (as in the paper's maps).
The last layer is left out: its states together are all that is read of them, so that they restore by construction.
Three kinds of runs of the same examples divide it:

    later minus earlier = construction + reading again + computation

    construction    what random weights give with frozen cross-attention
    reading again   what goes when cross-attention is frozen (`freeze=`): each later layer then adds what it adds in the
                    corrupted run, so that a restored state cannot change what is read of the image (in the answer
                    decoder: of the question)
    computation     the rest: what frozen cross-attention leaves, and random weights do not give

That later layers go on adding what the damaged image says is part of all these runs; frozen cross-attention only takes
away that they answer a restored state. Parts can be below 0, where something is against later layers. Each example has
random weights of its own, of which the total effect is at least half of its own one and at least 0.1; what they give is
taken as a share of that total effect and multiplied by the example's own. So intervals over examples are over weights,
too.

Beside it stand other controls: the stream alone (what a layer reads is restored, and no sublayer from there on reacts
to it); what each sublayer adds, restored alone; damage in a clean run (noising); states of another example, of another
word, and random ones; attention edges cut in the clean run; and edges (`nnblip.Edge`) in the place of states.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

import nnblip
from nnblip import sites
from nnblip.errors import SettingError
from nnblip.examples import Example
from nnblip.experiments import Experiment, Run, controls
from nnblip.experiments.claims import FAILS, HOLDS, OPEN, Verdict, above, everywhere, of_several
from nnblip.experiments.experiment import Defaults
from nnblip.experiments.figures import forest, profiles
from nnblip.experiments.late import (
    ANSWER,
    MEASURES,
    PARTS,
    QUESTION,
    TOGETHER,
    by_receiver,
    by_window,
    parts_of,
    profile,
    profiles_of,
    question_tokens,
    total_of,
)  # fmt: skip
from nnblip.experiments.maps import later_minus_earlier, strongest
from nnblip.experiments.numbers import bounds, intervals_are, mean, share
from nnblip.experiments.texts import table

#: What a layer's sublayers add.
ADDED = ("attention_out", "crossattention_out", "mlp_out")
#: Which connections are cut, and how.
CUT, BY = ("image_to_question", "question_to_question", "question_to_answer"), ("mask", "mean")
#: Effects on P(answer) up to this are rounding in float32.
NOTHING = 1e-5
FROZEN: dict[str, Any] = {"freeze": ("crossattention",)}
#: Of what other states are restored. All words of a question in another order are the same to all that reads them.
LENT = {"example": (TOGETHER, QUESTION), "token": (QUESTION,), "random": (TOGETHER, QUESTION)}
#: Rows of the table of controls.
CLEAN, FREEZE, RANDOM, RANDOM_FROZEN = (
    "later minus earlier", "cross-attention frozen", "random weights", "random weights, cross-attention frozen",
)  # fmt: skip
STREAM, DAMAGED, LAST = "the stream alone, all sublayers frozen", "damaged in a clean run", "with the last layer"

#: Of each row its numbers by measure, (example).
Rows = dict[str, dict[str, xr.DataArray]]


# ---- what is computed of each example ---------------------------------------------------------


def asked(run: Run) -> dict[str, Any]:
    """The settings of a trace that stands beside the sweeps."""
    o = run.options
    return {
        "nu": o.nu, "draws": o.draws, "noise": o.noise[0], "seed": o.seed, "kinds": ("block",),
        "cells": [sites.all_tokens()],
    }  # fmt: skip


def each(run: Run, name: str, examples: list[Example], make: Callable[[Example], xr.Dataset]) -> list[xr.Dataset]:
    """Of each example what `make` gives; each is a stage, so that a run that is stopped goes on."""
    bar = tqdm(examples, unit="example", desc=name.replace("_", " "), disable=None)
    stages = (run.stage(f"{name}/{number}", partial(make, example)) for number, example in enumerate(bar))
    return [one.to_dataset().load() for one in stages]


def random_weights(run: Run, totals: Mapping[str, float], example: Example) -> xr.Dataset:
    """What random weights of its own give, as shares of their total effect, (trace, measure, layer); or nothing."""
    settings, seed = asked(run), run.options.seed
    least = max(controls.LEAST, totals[str(example.id)] / 2)
    light = {name: value for name, value in settings.items() if name not in ("kinds", "cells")}
    made = controls.scrambled(run.model, example, seed, least, **light)
    if made is None:
        return xr.Dataset()
    model, chosen = made
    own, found = [Example(example.image, example.question, id=example.id)], {}
    for trace, freeze in (("plain", {}), ("frozen", FROZEN)):
        tree = nnblip.causal_trace(model, own, progress=False, **settings, **freeze)
        found[trace] = _stacked({one: of[0] / float(total_of(tree)[0]) for one, of in profiles_of(tree).items()})
    shares = xr.concat(list(found.values()), xr.Variable("trace", list(found)))
    return xr.Dataset({"share": shares}, attrs=chosen)


def other_states(run: Run, others: list[Example], tokens: Mapping[str, int], example: Example) -> xr.Dataset:
    """The effects with other states in the place of clean ones, (donor, measure, layer); NaN where no example fits."""
    partner, found = controls.partner_of(example, others, tokens), {}
    for kind in controls.DONORS:
        if kind != "example" or partner is not None:
            tree = controls.trace_with(run.model, example, kind, partner, **asked(run))
            found[kind] = _stacked({one: of[0] for one, of in profiles_of(tree).items()})
    every = [found.get(kind, xr.full_like(found["token"], np.nan)) for kind in controls.DONORS]
    return xr.Dataset({"effect": xr.concat(every, xr.Variable("donor", list(controls.DONORS)))})


def _stacked(by_measure: Mapping[str, xr.DataArray]) -> xr.DataArray:
    bare = [one.reset_coords(drop=True) for one in by_measure.values()]
    return xr.concat(bare, xr.Variable("measure", list(by_measure)))


def joined(found: list[xr.Dataset], name: str, example: xr.DataArray) -> xr.DataArray | None:
    """Those of all examples, NaN where one has none; None if none has."""
    like = next((one[name] for one in found if name in one), None)
    if like is None:
        return None
    return xr.concat(
        [one.get(name, xr.full_like(like, np.nan)) for one in found], xr.Variable("example", example.values)
    )


# ---- what is said -----------------------------------------------------------------------------


def more(values: xr.DataArray, what: str, level: float = 0.95) -> Verdict:
    """Whether the mean of a difference of effects on P(answer) is above 0."""
    return _rounding(values, what) or above(mean(values, level=level), 0, what)


def part(values: xr.DataArray, whole: xr.DataArray, late: Verdict, limit: float, what: str) -> Verdict:
    """Whether a part is more than a share of the whole, where there is a whole."""
    if late.said != HOLDS:
        return Verdict(OPEN, f"there is nothing to divide: {late.because}")
    level = of_several(len(PARTS))
    return _rounding(values, what) or above(share(values, whole, level), limit, f"{what}, as a share of the whole")


def _rounding(values: xr.DataArray, what: str) -> Verdict | None:
    known = values.dropna("example")
    if known.size and float(abs(known).max()) <= NOTHING:
        return Verdict(FAILS, f"{what}: no more than rounding in any of {known.size} examples")
    return None


def division(run: Run, late: Rows, parts: dict[str, dict[str, xr.DataArray]]) -> None:
    level = of_several(len(PARTS))
    rows = [["restored", "part", "on P(answer)", "share of the whole"]]
    for measure, whole in late[CLEAN].items():
        rows.append([measure.replace("_", " "), CLEAN, str(mean(whole)), ""])
        divides = more(whole, "").said == HOLDS
        for name, values in parts[measure].items():
            shown = str(share(values, whole, level)) if divides else "nothing to divide"
            rows.append(["", name, str(mean(values, level=level)), shown])
    run.section(
        "What later minus earlier is made of",
        "Construction is what random weights give with frozen cross-attention; reading again what goes when"
        " cross-attention is frozen; computation what is left then, and random weights do not give. The three add up."
        f" The last layer is left out. There are {intervals_are()}; those of three parts hold together.\n\n"
        f"{table(*rows)}",
    )


def compare_controls(run: Run, late: Rows, notes: str) -> None:
    rows = [["restored", *(one.replace("_", " ") for one in MEASURES)]]
    rows += [[name, *(str(mean(of[one])) if one in of else "" for one in MEASURES)] for name, of in late.items()]
    run.section(
        "Later minus earlier under controls",
        "Mean indirect effect on P(answer) of the later half of the layers minus that of the earlier half; where not"
        f" all tokens are restored together, means over tokens. {notes} There are {intervals_are()}.\n\n{table(*rows)}",
    )


def own_states(run: Run, own: Mapping[str, xr.DataArray], lent: xr.DataArray) -> Verdict:
    level = of_several(len(controls.DONORS))
    rows, verdicts = [["in the place of clean states", "restored", "clean ones restore more by"]], {}
    for kind, what in controls.DONORS.items():
        for measure in LENT[kind]:
            difference = (own[measure] - lent.sel(donor=kind, measure=measure, drop=True)).mean("layer")
            rows.append([what, measure.replace("_", " "), str(mean(difference, level=level))])
            if measure == LENT[kind][0]:
                verdicts[what] = more(difference, "clean states minus others", level)
    run.section(
        "Does it take the example's own states?",
        "Mean over layers on P(answer), with intervals of which three hold together. All words of a question in another"
        f" order are the same to all that reads them, so another word's state is restored alone.\n\n{table(*rows)}",
    )
    return everywhere(verdicts)


def strongest_layer(values: xr.DataArray) -> str:
    """Which layer has the largest effect, chosen by one half of the examples and measured on the other."""
    if float(abs(values).max()) <= NOTHING:
        return "none: no layer has any effect"
    where, value, _ = strongest(values, ("layer",))
    return where if value is None else f"{where}: {value}"


def cuts(run: Run, tree: xr.DataTree, half: int) -> Verdict:
    rows = [["cut", "by", f"first {half} layers", f"last {half} layers", "last minus first", "strongest single layer"]]
    panels: dict[str, dict[str, xr.Dataset]] = {name.replace("_", " "): {} for name in CUT}
    verdict = Verdict(OPEN, "")
    for name in CUT:
        for by in BY:
            wide, single = (by_window(tree, name, by, width) for width in (half, 1))
            first, last = wide.isel(layer=0, drop=True), wide.isel(layer=-1, drop=True)
            said = [str(mean(one)) for one in (first, last, last - first)]
            rows.append([name.replace("_", " "), by, *said, strongest_layer(single)])
            if (name, by) == (CUT[0], BY[0]):
                verdict = more(last - first, f"lost without the last {half} layers' reading minus without the first's")
            for width, values in {"1 layer": single, f"{half} layers": wide}.items():
                panels[name.replace("_", " ")][f"{width}, by {by}"] = bounds(values)
    run.section(
        "Where connections are needed",
        "What P(answer) loses in the clean run when all attention edges of a kind are cut in some layers: from the"
        " image to the question, between the question's tokens (a token's own included), from the question to the"
        " answer. By mask nothing is read there; by the mean each source counts as the mean of all, so that only"
        " which of them is read is lost. The strongest layer is chosen by one half of the examples and measured on"
        f" the other. There are {intervals_are()}.\n\n{table(*rows)}",
    )
    run.figure("knock_outs", profiles(panels, "lost of P(answer)", "Over the first of the layers that are cut"))
    return verdict


def edges(run: Run, tree: xr.DataTree) -> Verdict:
    """Edges in the place of states: what is read in one layer, and in no other."""
    rows, verdicts = [["edges", "later minus earlier half", "strongest layer"]], {}
    for component, what in (
        (QUESTION, "from the picture into the question encoder"),
        (ANSWER, "from the question into the answer decoder"),
    ):
        values = by_receiver(tree, component)
        later = later_minus_earlier(values)
        rows.append([what, str(mean(later)), strongest_layer(values)])
        verdicts[component] = more(later, "edges into the later half minus those into the earlier half")
    run.section(
        "Edges in the place of states",
        "Mean indirect effect on P(answer) of what one token reads in one layer's cross-attention alone, by key or by"
        " value: of the picture or its [CLS], or of one token of the question encoder's last layer. All layers count,"
        f" since no edge restores by construction. There are {intervals_are()}.\n\n{table(*rows)}",
    )
    return verdicts[QUESTION]


# ---- the experiment ---------------------------------------------------------------------------


def require(run: Run) -> int:
    """How many layers there are; raises `SettingError` for what the experiment cannot do."""
    controls.require_here(run.model, "bypass_controls")
    if run.options.noise[0] == "mean" and run.options.nu[0] == 1:
        raise SettingError(
            "noise mean at nu 1: all image embeddings become one, so that what is read of them cannot change, frozen or"
            " not; expected a smaller nu, such as 0.7, or another noise"
        )
    layers = int(run.model.config.text_config.num_hidden_layers)
    if layers < 3:
        raise SettingError(f"a model of {layers} layers: expected at least 3, of which the last is left out")
    return layers


def run(run: Run) -> None:
    half = require(run) // 2
    examples = [example for group in run.choose(by_type=False) for example in group.examples]
    families: list[Any] = [sites.knock_outs(name, "all", "all", sorted({1, half}), by) for name in CUT for by in BY]
    families += [sites.edges(component=QUESTION, inputs=("key", "value")), sites.edges(senders="block")]
    together = [sites.all_tokens(kind=kind) for kind in ("block", *ADDED)]
    tree = run.sweep("result", examples, kinds=("block", *ADDED), cells=[*together, *families])
    frozen = run.sweep("frozen", examples, kinds=("block",), cells=together[:1], **FROZEN)
    every: dict[str, Any] = {
        "freeze": ("attention", "crossattention", "mlp_out"),
        "cells": [sites.all_tokens(kind="block_input")],
    }
    stream = run.sweep("stream", examples, kinds=("block_input",), **every)
    noising = run.sweep("noising", examples, kinds=("block",), cells=together[:1], direction="noising")
    total = total_of(tree)
    totals = dict(zip(map(str, total.example.values), total.values.tolist(), strict=True))
    random = each(run, "random_weights", examples, partial(random_weights, run, totals))
    states = each(run, "other_states", examples, partial(other_states, run, examples, question_tokens(tree)))

    shown = {
        CLEAN: profiles_of(tree), LAST: {QUESTION: profile(tree, QUESTION, last=True)}, FREEZE: profiles_of(frozen),
        STREAM: profiles_of(stream, "block_input"), **{f"{kind} alone": profiles_of(tree, kind) for kind in ADDED},
        DAMAGED: profiles_of(noising),
    }  # fmt: skip
    shares, lent = joined(random, "share", total.example), joined(states, "effect", total.example)
    for name, trace in ((RANDOM, "plain"), (RANDOM_FROZEN, "frozen")):
        nothing = {one: xr.full_like(of, np.nan) for one, of in shown[CLEAN].items()}
        given = {} if shares is None else {
            one: shares.sel(trace=trace, measure=one, drop=True) * total for one in MEASURES
        }  # fmt: skip
        shown[name] = given or nothing
    assert lent is not None
    for kind, what in controls.DONORS.items():
        shown[what] = {one: lent.sel(donor=kind, measure=one, drop=True) for one in LENT[kind]}
    late: Rows = {name: {one: later_minus_earlier(v) for one, v in of.items()} for name, of in shown.items()}
    parts = {one: parts_of(*(late[name][one] for name in (CLEAN, FREEZE, RANDOM_FROZEN))) for one in MEASURES}

    division(run, late, parts)
    compare_controls(run, late, notes(random, lent))
    whole = late[CLEAN][TOGETHER]
    verdict = more(whole, CLEAN)
    run.claim("late", verdict)
    run.claim("single", more(late[CLEAN][QUESTION], CLEAN))
    for name, values in parts[TOGETHER].items():
        run.claim(name.split()[0], part(values, whole, verdict, 0, name))
    run.claim("mostly", part(parts[TOGETHER]["computation"], whole, verdict, 0.5, "computation"))
    level = of_several(len(ADDED))
    alone = {kind: more(late[f"{kind} alone"][TOGETHER], kind, level) for kind in ADDED}
    run.claim("sublayers", everywhere(alone))
    run.claim("damaging", more(late[DAMAGED][TOGETHER], CLEAN))
    run.claim("own", own_states(run, shown[CLEAN], lent))
    run.claim("read", cuts(run, tree, half))
    run.claim("edges", edges(run, tree))

    o, means = run.options, {name: {one: mean(v) for one, v in of.items()} for name, of in late.items()}
    divided = {name: {one: mean(parts[one][name], level=of_several(3)) for one in MEASURES} for name in PARTS}
    colours = {CLEAN: 0, **dict.fromkeys(PARTS, 1)}
    title = f"{o.noise[0]}, ν = {o.nu[0]:g}, {o.draws} draws; n = {len(examples)}; 95 % intervals"
    rows = {CLEAN: means.pop(CLEAN), **divided, **means}
    run.figure("division", forest(rows, "on P(answer)", f"Later minus earlier half: {title}", colours))
    lines = [name for name in (CLEAN, FREEZE, STREAM, DAMAGED, RANDOM_FROZEN, *controls.DONORS.values())
             if TOGETHER in shown[name]]  # fmt: skip
    drawn = {"clean" if name == CLEAN else name: bounds(shown[name][TOGETHER]) for name in lines}
    run.figure("profiles", profiles({TOGETHER: drawn}, "effect on P(answer)", title))
    kept = {f"/{name}": xr.Dataset({one: of[one] for one in of}) for name, of in late.items()}
    run.keep(
        "later_minus_earlier", xr.DataTree.from_dict({n.replace(" ", "_").replace(",", ""): d for n, d in kept.items()})
    )


def notes(random: list[xr.Dataset], lent: xr.DataArray) -> str:
    """How the controls were made, and for which examples there are none."""
    scales = [float(one.attrs["scale"]) for one in random if "scale" in one.attrs]
    told = f"of standard deviation {min(scales):g} to {max(scales):g}" if scales else "of any size tried"
    alone = int(lent.sel(donor="example").isnull().all(("layer", "measure")).sum())
    return (
        f"Random weights are {told}, the smallest at which the total effect is half of the trained one and"
        f" at least {controls.LEAST:g}; none was found for {len(random) - len(scales)} of {len(random)} examples."
        f" {alone} of them have no other example with as many tokens and another answer."
    )


EXPERIMENT = Experiment(
    name="bypass_controls",
    question='Is "late layers matter" computation, or how BLIP is built?',
    claims={
        "late": "Later layers of the question encoder restore more than earlier ones (all tokens; the last left out)",
        "single": "So do single tokens, as in the paper's maps",
        "construction": "A part of that is construction: random weights give it, too",
        "reading": "A part of it is reading again: it goes when cross-attention is frozen",
        "computation": "A part of it is computation: what is left then, and random weights do not give",
        "mostly": "More than half of it is computation",
        "sublayers": "What each sublayer adds, restored alone, matters more in later layers",
        "damaging": "Damage in the clean run shows the same as restoring: later layers matter more",
        "own": "It takes the example's own states: those of another example or word, and random ones, restore less",
        "read": "The answer needs the image to be read in later layers more than in earlier ones",
        "edges": "What is read of the picture in one layer alone restores more in later layers",
    },
    run=run,
    figure="division",
    defaults=Defaults(dataset=("scenes",), n=16, draws=4),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
