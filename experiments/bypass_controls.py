#!/usr/bin/env python
"""Is "late layers matter" computation, or how BLIP is built?

    nnblip experiment bypass_controls
    nnblip experiment bypass_controls --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER \\
        --images download --nu 5 --draws 10 --n 100

What is divided is **later minus earlier**: the mean indirect effect on P(answer) of a layer's states in the later half
of the layers minus that in the earlier half, mean over tokens. The last layer is left out: its states together are all
that is read of them, so that they restore by construction. Three runs of the same examples divide it:

    later minus earlier = construction + reading again + computation

    construction    what random weights give, cross-attention frozen: a state that is put in late has less left to lose
    reading again   what goes when cross-attention is frozen (`freeze=`): each later layer adds what it adds in the
                    corrupted run, so that a restored state cannot change what is read of the image (in the answer
                    decoder: of the question)
    computation     the rest: what frozen cross-attention leaves, and random weights do not give

Parts can be below 0: what is built against late layers, or random weights that give more than the trained ones. Each
example has random weights of its own, with an own total effect of at least 0.1; what they give is a share of that, and
is multiplied by the example's own total effect. So intervals over examples are over weights, too.

Beside it stand other controls: the stream alone (what comes before a layer is restored, and no sublayer from there on
reacts to it), what each sublayer adds, restored alone; damage in a clean run (noising); states of another example, of
another word, and random ones; attention edges cut in the clean run; and edges (`nnblip.Edge`) in the place of states.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from tqdm.auto import tqdm

import nnblip
from nnblip import effects, sites
from nnblip.examples import Example
from nnblip.experiments import Experiment, Run
from nnblip.experiments import controls
from nnblip.experiments.claims import FAILS, HOLDS, OPEN, Verdict, above, everywhere, of_several
from nnblip.experiments.experiment import Defaults
from nnblip.experiments.figures import STYLES, legend, line, profiles, tidy
from nnblip.experiments.maps import by_layer, later_minus_earlier, strongest
from nnblip.experiments.numbers import Mean, bounds, intervals_are, mean, share
from nnblip.experiments.texts import table
from nnblip.sites import TEXT_COMPONENTS

QUESTION, ANSWER = TEXT_COMPONENTS
#: What a layer's sublayers add.
ADDED = ("attention_out", "crossattention_out", "mlp_out")
#: Which connections are cut.
CUT = ("image_to_question", "question_to_question", "question_to_answer")
#: Effects on P(answer) up to this are rounding in float32.
NOTHING = 1e-5
WHOLE, PARTS = "later minus earlier", ("construction", "reading again", "computation")

# ---- numbers of each example ------------------------------------------------------------------


def profile(tree: xr.DataTree, component: str, kind: str = "block", last: bool = False) -> xr.DataArray:
    """Mean indirect effect of a layer's states, (example, layer); without the last layer unless it is asked for."""
    effect = nnblip.indirect_effect(tree)[component].probability.isel(nu=0).sel(kind=kind).mean("draw")
    found = by_layer(effect.reset_coords(drop=True))
    layers = int(tree.attrs["layers"])
    return found if last else found.sel(layer=found.layer < layers - 1)


def total_of(tree: xr.DataTree) -> xr.DataArray:
    """The total effect of each example, (example)."""
    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0)
    return total.mean("draw").reset_coords(drop=True)


def parts_of(clean: xr.DataArray, frozen: xr.DataArray, random: xr.DataArray) -> dict[str, xr.DataArray]:
    """What later minus earlier is divided into, each of each example; they add up to `clean`.

    Args:
        clean: of each example, later minus earlier.
        frozen: with frozen cross-attention.
        random: with frozen cross-attention and random weights.
    """
    return dict(zip(PARTS, (random, clean - frozen, frozen - random), strict=True))


def by_receiver(tree: xr.DataTree, component: str) -> xr.DataArray:
    """Mean indirect effect of the edges into each layer of a component, (example, layer)."""
    edges = nnblip.indirect_effect(tree)["edges"].probability.isel(nu=0).mean("draw")
    mine = edges.isel(edge=np.flatnonzero(edges.receiver_component.values == component))
    layer = xr.DataArray(mine.receiver_layer.values, dims="edge", name="layer")
    return mine.reset_coords(drop=True).drop_vars("edge", errors="ignore").groupby(layer).mean("edge")


def by_window(tree: xr.DataTree, edges: str, by: str, window: int) -> xr.DataArray:
    """What the answer loses when edges are cut in a window of layers, (example, layer), the first of the window."""
    cut = effects.knock_out_effect(tree).probability
    found = (cut.edges == edges) & (cut.by == by) & (cut.window == window)
    mine = cut.isel(knock_out=np.flatnonzero(found.values))
    return (
        mine.assign_coords(layer=("knock_out", mine.layer.values)).swap_dims(knock_out="layer").reset_coords(drop=True)
    )


def each(run: Run, name: str, examples: list[Example], make: Any) -> list[xr.Dataset]:
    """Of each example what `make` gives, one stage an example, so that a stopped run goes on."""
    bar = tqdm(examples, unit="example", desc=name, disable=None)
    return [
        run.stage(f"{name}/{number}", partial(make, example)).to_dataset().load() for number, example in enumerate(bar)
    ]


def random_weights(run: Run, example: Example) -> xr.Dataset:
    """Of a random model of this example's own: shares of the total effect, (trace, component, layer); or nothing."""
    settings = asked(run)
    made = controls.scrambled(run.model, example, run.options.seed, **settings)
    if made is None:
        return xr.Dataset(attrs={"tried": controls.TRIES})
    model, chosen = made
    own, found = Example(example.image, example.question, id=example.id), {}
    for name, freeze in (("plain", ()), ("frozen", ("crossattention",))):
        tree = nnblip.causal_trace(model, [own], freeze=freeze, progress=False, **settings)
        total = float(total_of(tree)[0])
        found[name] = xr.concat(
            [profile(tree, c)[0] / total for c in TEXT_COMPONENTS], xr.Variable("component", list(TEXT_COMPONENTS))
        )
    shares = xr.concat(list(found.values()), xr.Variable("trace", list(found)))
    return xr.Dataset({"share": shares.drop_vars("example", errors="ignore"), "total": total}, attrs=chosen)


def other_states(run: Run, others: list[Example], tokens: dict[str, int], example: Example) -> xr.Dataset:
    """Effects of a layer's states with other states in their place, (donor, layer); NaN where no example fits."""
    partner = controls.partner_of(example, others, tokens)
    found = {}
    for kind in controls.DONORS:
        if kind != "example" or partner is not None:
            tree = controls.trace_with(run.model, example, kind, partner, **asked(run))
            found[kind] = profile(tree, QUESTION)[0].drop_vars("example", errors="ignore")
    if partner is None:
        found["example"] = xr.full_like(found["token"], np.nan)
    donors = list(controls.DONORS)
    return xr.Dataset({"effect": xr.concat([found[kind] for kind in donors], xr.Variable("donor", donors))})


def asked(run: Run) -> dict[str, Any]:
    o = run.options
    return {"nu": o.nu, "draws": o.draws, "noise": o.noise[0], "seed": o.seed}


# ---- what is said -----------------------------------------------------------------------------


def part(found: xr.DataArray, whole: xr.DataArray, late: Verdict, limit: float, what: str) -> Verdict:
    """Whether a part is more than a share of the whole, where there is a whole."""
    if late.said != HOLDS:
        return Verdict(OPEN, f"there is nothing to divide: {late.because}")
    known = found.dropna("example")
    if known.size and float(abs(known).max()) <= NOTHING:
        return Verdict(FAILS, f"{what}: no more than rounding in any of {known.size} examples")
    return above(share(found, whole, of_several(len(PARTS))), limit, f"{what}, as a share of the whole")


def said(found: Mean) -> str:
    return str(found)


def division(run: Run, wholes: dict[str, xr.DataArray], parts: dict[str, dict[str, xr.DataArray]]) -> None:
    level = of_several(len(PARTS))
    rows = [["component", "part", "on P(answer)", "share of the whole"]]
    for c, whole in wholes.items():
        rows.append([c.replace("_", " "), WHOLE, str(mean(whole)), ""])
        divides = mean(whole).low > 0
        for name, values in parts[c].items():
            shown = str(share(values, whole, level)) if divides else "nothing to divide"
            rows.append(["", name, str(mean(values, level=level)), shown])
    run.section(
        "What later minus earlier is made of",
        "Construction is what random weights give with frozen cross-attention; reading again what goes when"
        " cross-attention is frozen; computation what is left, and random weights do not give. The three add up."
        f" The last layer is left out. {intervals_are().capitalize()}; those of the three parts hold together.\n\n"
        f"{table(*rows)}",
    )


def compare_controls(run: Run, late: dict[str, dict[str, xr.DataArray]]) -> None:
    rows = [["restored", *(c.replace("_", " ") for c in TEXT_COMPONENTS)]]
    rows += [[name, *(str(mean(of[c])) if c in of else "" for c in TEXT_COMPONENTS)] for name, of in late.items()]
    run.section(
        "Later minus earlier under controls",
        f"Mean indirect effect on P(answer) of the later half of the layers minus that of the earlier half, mean over"
        f" tokens, {intervals_are()}.\n\n{table(*rows)}",
    )


def cuts(run: Run, tree: xr.DataTree, half: int) -> Verdict:
    rows = [["cut", "by", f"first {half} layers", f"last {half} layers", "last minus first", "strongest single layer"]]
    panels: dict[str, dict[str, xr.Dataset]] = {}
    verdict = Verdict(OPEN, "")
    for edges in CUT:
        panels[edges.replace("_", " ")] = lines = {}
        for by in ("mask", "mean"):
            wide, single = (by_window(tree, edges, by, width) for width in (half, 1))
            first, last = wide.isel(layer=0, drop=True), wide.isel(layer=-1, drop=True)
            where, value, _ = strongest(single, ("layer",))
            difference = mean(last - first)
            told = where if value is None else f"{where}: {value}"
            rows.append([edges.replace("_", " "), by, str(mean(first)), str(mean(last)), str(difference), told])
            if (edges, by) == ("image_to_question", "mask"):
                verdict = above(difference, 0, f"lost without reading in the last {half} layers minus in the first")
            for width, values in (
                (("1 layer", single), (f"{half} layers", wide)) if half > 1 else (("1 layer", single),)
            ):
                lines[f"{width}, by {by}"] = bounds(values)
    run.section(
        "Where connections are needed",
        "What P(answer) loses in the clean run when attention edges are cut in some layers: from the image to the"
        " question, between the question's tokens, from the question to the answer. By mask what is left of attention"
        " sums to one; by the mean its values are replaced by their mean. The strongest layer is chosen by one half of"
        f" the examples and measured on the other. {intervals_are().capitalize()}.\n\n{table(*rows)}",
    )
    run.figure("knock_outs", cut_lines(panels))
    return verdict


def cut_lines(panels: dict[str, dict[str, xr.Dataset]]) -> Figure:
    """A panel for each kind of edges, a line for each way of cutting; over the first layer that is cut."""
    figure = Figure(figsize=(6.9, 2.9), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, inner) in zip(drawn, panels.items(), strict=True):
        for number, (label, found) in enumerate(inner.items()):
            line(axes, found["layer"].values, found, number, label)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        tidy(axes, name, "first layer that is cut", "lost of P(answer)" if axes is drawn[0] else "")
        axes.set_xticks(
            next(iter(inner.values()))["layer"].values[:: max(1, len(next(iter(inner.values()))["layer"]) // 6)]
        )
    legend(figure, drawn[0])
    return figure


def forest(rows: dict[str, dict[str, Mean]], title: str) -> Figure:
    """A row for each way of restoring, a panel for each component; the whole and its parts are coloured."""
    figure = Figure(figsize=(6.9, 0.9 + 0.21 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(TEXT_COMPONENTS), sharey=True)
    names = list(rows)
    for axes, c in zip(panels, TEXT_COMPONENTS, strict=True):
        for place, name in enumerate(names):
            if c not in rows[name]:
                continue
            found = rows[name][c]
            colour = STYLES[0][0] if name == WHOLE else STYLES[1][0] if name in PARTS else "0.35"
            error = np.nan_to_num(np.maximum([[found.value - found.low], [found.high - found.value]], 0))
            axes.errorbar(
                [found.value], [place], xerr=error, fmt="o", color=colour, markersize=4, capsize=2, linewidth=1
            )
        axes.axvline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.axhline(len(PARTS) + 0.5, color="0.85", linewidth=0.8, zorder=0)
        tidy(axes, c.replace("_", " "), "later minus earlier half, on P(answer)")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


# ---- the experiment ---------------------------------------------------------------------------


def run(run: Run) -> None:
    controls.require_here(run.model, "bypass_controls")
    layers = run.model.config.text_config.num_hidden_layers
    if layers < 3:
        raise nnblip.SettingError(f"a model of {layers} layers: expected at least 3, of which the last is left out")
    half = layers // 2
    examples = [example for group in run.choose(by_type=False) for example in group.examples]

    families = [
        sites.knock_outs(edges, "all", "all", sorted({1, half}), by) for edges in CUT for by in ("mask", "mean")
    ]
    families += [sites.edges(component=QUESTION, inputs=("key", "value")), sites.edges(senders="block")]
    tree = run.sweep("result", examples, kinds=("block", *ADDED), cells=families)
    frozen = run.sweep("frozen", examples, freeze=("crossattention",))
    stream = run.sweep("stream", examples, kinds=("block_input",), freeze=("attention", "crossattention", "mlp_out"))
    noising = run.sweep("noising", examples, direction="noising")
    random = each(run, "random_weights", examples, partial(random_weights, run))
    tokens = question_tokens(tree)
    states = each(run, "other_states", examples, partial(other_states, run, examples, tokens))

    total = total_of(tree)
    shares = xr.concat([blank_like(one, random) for one in random], total.example)
    lent = xr.concat([one.effect for one in states], total.example)
    late: dict[str, dict[str, xr.DataArray]] = {}

    def row(name: str, profiles: dict[str, xr.DataArray]) -> None:
        late[name] = {c: later_minus_earlier(values) for c, values in profiles.items()}

    def both(of: xr.DataTree, kind: str = "block") -> dict[str, xr.DataArray]:
        return {c: profile(of, c, kind) for c in TEXT_COMPONENTS}

    def of_random(trace: str) -> dict[str, xr.DataArray]:
        return {c: shares.sel(trace=trace, component=c, drop=True) * total for c in TEXT_COMPONENTS}

    row("clean states", both(tree))
    row("the last layer, too", {QUESTION: profile(tree, QUESTION, last=True)})
    row("cross-attention frozen", both(frozen))
    row("the stream alone, all sublayers frozen", both(stream, "block_input"))
    for kind in ADDED:
        row(f"{kind} alone", both(tree, kind))
    row("damaged in a clean run", both(noising))
    row("random weights", of_random("plain"))
    row("random weights, cross-attention frozen", of_random("frozen"))
    for kind, what in controls.DONORS.items():
        row(f"states of {what}" if kind != "random" else what, {QUESTION: lent.sel(donor=kind, drop=True)})

    wholes = late["clean states"]
    parts = {
        c: parts_of(wholes[c], late["cross-attention frozen"][c], late["random weights, cross-attention frozen"][c])
        for c in wholes
    }
    division(run, wholes, parts)
    compare_controls(run, late)
    lost = sum(one.attrs.get("scale") is None for one in random)
    alone = int(lent.sel(donor="example").isnull().all("layer").sum())
    scales = [float(one.attrs["scale"]) for one in random if "scale" in one.attrs]
    run.section(
        "Controls that were made",
        f"Random weights: normal numbers of standard deviation {min(scales, default=np.nan):g} to"
        f" {max(scales, default=np.nan):g}, the smallest at which the total effect is at least {controls.LEAST:g}; own"
        f" ones for each example, none found for {lost} of {len(examples)}. States of another question: none has as"
        f" many tokens and another answer for {alone} of {len(examples)}.",
    )
    claim(run, late, parts, profile(tree, QUESTION), lent)
    run.claim("read", cuts(run, tree, half))
    run.claim("edges", edges(run, tree))

    shown = {WHOLE: {c: mean(values) for c, values in wholes.items()}}
    shown |= {name: {c: mean(parts[c][name], level=of_several(3)) for c in parts} for name in PARTS}
    shown |= {name: {c: mean(v) for c, v in of.items()} for name, of in late.items() if name != "clean states"}
    o = run.options
    run.figure("division", forest(shown, f"{o.noise[0]}, ν = {o.nu[0]:g}, {o.draws} draws; n = {len(examples)}"))
    lines = {
        "clean": profile(tree, QUESTION), "cross-attention frozen": profile(frozen, QUESTION),
        "stream alone": profile(stream, QUESTION, "block_input"), "damaged": profile(noising, QUESTION),
        "random weights": of_random("plain")[QUESTION], "random, frozen": of_random("frozen")[QUESTION],
        "another question's": lent.sel(donor="example", drop=True), "another word's": lent.sel(donor="token", drop=True),
    }  # fmt: skip
    run.figure("profiles", profiles({QUESTION: {n: bounds(v) for n, v in lines.items()}}, "effect on P(answer)"))
    kept = {f"{c}/{name}": xr.Dataset({"value": of[c]}) for name, of in late.items() for c in of}
    run.keep(
        "later_minus_earlier", xr.DataTree.from_dict({n.replace(" ", "_").replace(",", ""): d for n, d in kept.items()})
    )


def claim(
    run: Run, late: dict[str, dict[str, xr.DataArray]], parts: dict[str, dict[str, xr.DataArray]], own: xr.DataArray,
    lent: xr.DataArray,
) -> None:  # fmt: skip
    """All claims about later minus earlier in the question encoder."""
    whole = late["clean states"][QUESTION]
    verdict = above(mean(whole), 0, "later minus earlier half")
    run.claim("late", verdict)
    for name, values in parts[QUESTION].items():
        run.claim(name.split()[0], part(values, whole, verdict, 0, name))
    run.claim("mostly", part(parts[QUESTION]["computation"], whole, verdict, 0.5, "computation"))
    level = of_several(len(ADDED))
    alone = {kind: mean(late[f"{kind} alone"][QUESTION], level=level) for kind in ADDED}
    run.claim("sublayers", everywhere({kind: above(found, 0, kind) for kind, found in alone.items()}))
    run.claim("damaging", above(mean(late["damaged in a clean run"][QUESTION]), 0, "later minus earlier half"))
    level = of_several(len(controls.DONORS))
    more = {kind: (own - lent.sel(donor=kind, drop=True)).mean("layer") for kind in controls.DONORS}
    run.claim(
        "own",
        everywhere(
            {k: above(mean(v, level=level), 0, f"own minus those of {controls.DONORS[k]}") for k, v in more.items()}
        ),
    )
    rows = [["states in the place of clean ones", "clean ones restore more by"]]
    rows += [[controls.DONORS[kind], str(mean(values, level=level))] for kind, values in more.items()]
    run.section(
        "Does it take the example's own states?",
        f"Question encoder, mean over layers and tokens on P(answer); intervals hold together.\n\n{table(*rows)}",
    )


def edges(run: Run, tree: xr.DataTree) -> Verdict:
    """Edges in the place of states: what one layer reads, and no other."""
    rows, verdict = [["edges", "later minus earlier half", "strongest layer"]], Verdict(OPEN, "")
    for c, what in (
        (QUESTION, "from the picture into the question encoder"),
        (ANSWER, "from the question into the answer decoder"),
    ):
        values = by_receiver(tree, c)
        where, value, _ = strongest(values, ("layer",))
        found = mean(later_minus_earlier(values))
        rows.append([what, str(found), where if value is None else f"{where}: {value}"])
        if c == QUESTION:
            verdict = above(found, 0, "edges into the later minus those into the earlier half")
    run.section(
        "Edges in the place of states",
        "Mean indirect effect on P(answer) of what one token reads in one layer's cross-attention alone, by key or by"
        " value: from the picture or its [CLS], from a token of the question encoder's last layer. All layers count,"
        f" since an edge restores nothing by construction. {intervals_are().capitalize()}.\n\n{table(*rows)}",
    )
    return verdict


def question_tokens(tree: xr.DataTree) -> dict[str, int]:
    """How many tokens each question has."""
    there = tree[QUESTION].probability.isel(nu=0, draw=0, kind=0, layer=0).notnull().sum("token")
    return {str(name): int(count) for name, count in zip(there.example.values, there.values, strict=True)}


def blank_like(one: xr.Dataset, every: Iterable[xr.Dataset]) -> xr.DataArray:
    """Its shares, or as many NaN where there are none."""
    if "share" in one:
        return one.share
    like = next((other.share for other in every if "share" in other), None)
    if like is None:
        raise nnblip.NnblipError(
            f"random weights: no total effect of at least {controls.LEAST:g} for any example; expected stronger noise,"
            " such as a larger --nu"
        )
    return xr.full_like(like, np.nan)


EXPERIMENT = Experiment(
    name="bypass_controls",
    question='Is "late layers matter" computation, or how BLIP is built?',
    claims={
        "late": "Later layers of the question encoder restore more than earlier ones, the last left out",
        "construction": "A part of that is construction: random weights give it, too",
        "reading": "A part of it is reading again: it goes when cross-attention is frozen",
        "computation": "A part of it is computation: what is left then, and random weights do not give",
        "mostly": "More than half of it is computation",
        "sublayers": "What each sublayer adds, restored alone, matters more in later layers",
        "damaging": "Damaging states of the clean run shows the same as restoring: later ones matter more",
        "own": "It takes the example's own states: those of another example, another word, and random ones restore less",
        "read": "The answer needs the image to be read in later layers rather than in earlier ones",
        "edges": "What is read of the picture in one layer alone restores more in later layers",
    },
    run=run,
    figure="division",
    defaults=Defaults(dataset=("scenes",), n=16, draws=4),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
