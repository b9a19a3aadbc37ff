#!/usr/bin/env python
"""What do four studies report, and what does this model give when it is asked the same?

    nnblip experiment replications
    nnblip experiment replications --model Salesforce/blip-vqa-base --dataset palit:color_coco_qa.csv \\
        --images download --n 200

One command runs all of them, on the same questions of one type (`--types`; "color" where there is one):

- *Palit et al. 2023* (2308.14179), first notebook: multiplicative noise, one state restored; second notebook:
  embeddings scaled by 0.7691, one state restored, and in the question encoder the stream after self- or cross-attention
  in windows of three layers. The maps themselves are those of `paper_heatmaps`, the ladder of ν is `noise_level`.
- *NOTICE* (Golovanevsky et al. 2024, 2406.16320): another picture, or another word in the question, instead of noise;
  the patching effect is (LD restored - LD corrupted) / (LD clean - LD corrupted), LD the logit of the answer minus that
  of what the corrupted run answers. Their attention modules are what each sublayer adds, before its dense layer, which
  is linear. What they call MLP is the block's output, because of post-LayerNorm; here are both.
- *Attention knock-outs* (Geva et al. 2023, 2304.14767; on vision-language models Zhang et al. 2024, 2411.18620):
  attention edges cut in windows of layers, and in single ones; relative change of P(answer) in per cent.
- *DecoderLens* (Langedijk et al. 2023, 2310.03686): the decoder reads each layer of the encoder.

"They report" is what the papers and their code say of their models; where they give no number, there is none. Numbers
of this model are means over examples with 95 % intervals. Cells that restore by construction are in none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nnblip
from nnblip import effects, sites
from nnblip.datasets import correct, partners
from nnblip.datasets.records import Dataset
from nnblip.edges import KnockOut
from nnblip.effects import THRESHOLD
from nnblip.errors import NnblipError
from nnblip.examples import Example
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import OPEN, Verdict, above, everywhere, of_several
from nnblip.experiments.figures import line, near_means, tidy
from nnblip.experiments.maps import by_layer, later_minus_earlier, of_examples, restored, strongest
from nnblip.experiments.numbers import SHARE, Mean, bounds, intervals_are, mean
from nnblip.experiments.pairs import KINDS, other_questions, patching
from nnblip.experiments.parts import share, shares
from nnblip.experiments.texts import table
from nnblip.sites import TEXT_COMPONENTS
from nnblip.states import spans

ENCODER, DECODER = TEXT_COMPONENTS
#: The study's windows, of their layers: 3 of 12 (Palit), 9 of 32 or 40 (Zhang).
WINDOW = 3
#: What the second notebook restores in windows: the stream after these sublayers.
STREAM = ("attention", "crossattention")
PICTURE, WORD = "another picture", "another word"
#: The support of a relative change.
PER_CENT = (-100.0, np.inf)
#: Of so many questions of each type it is asked how many are answered correctly.
ASKED = 30
FLOW = {"image_to_question": "image to question", "question_to_question": "between question tokens",
        "question_to_answer": "question to answer"}  # fmt: skip
NAMES = {"attention_out": "self-attention", "crossattention_out": "cross-attention", "mlp_out": "MLP, what it adds",
         "block": "MLP as they hook it (block)"}  # fmt: skip


# --- what is run ---------------------------------------------------------------------------


def color_of(run: Run) -> Callable[[Example], bool]:
    """Which questions are taken: the colors, as Palit et al. do, where there are such and no types are asked for."""
    typed = {run.source.type_of(example) for example in run.source.examples}
    if run.options.types or len(typed) < 2 or "color" not in typed:
        return lambda example: True
    return lambda example: run.source.type_of(example) == "color"


def accuracy(run: Run) -> xr.Dataset:
    """(type): how many of the first questions of each type are answered correctly, and how many were asked."""
    by_type: dict[str, list[Any]] = {}
    for example in run.source.examples:
        if len(some := by_type.setdefault(run.source.type_of(example), [])) < ASKED:
            some.append(example)
    kept = {name: correct(run.model, Dataset.of(name, some), progress=False, least=0) for name, some in by_type.items()}
    counts = {"right": [one.kept for one in kept.values()], "asked": [one.kept + one.dropped for one in kept.values()]}
    return xr.Dataset({name: ("type", values) for name, values in counts.items()}, {"type": list(kept)})


def cuts(layers: dict[str, int]) -> dict[tuple[str, int, int], KnockOut]:
    """By edges, width and the layer in the middle: cut short at the ends, as Palit's and ROME's windows are."""
    found = {}
    for edges in FLOW:
        component = DECODER if edges == "question_to_answer" else ENCODER
        for width in (1, WINDOW):
            for layer, span in enumerate(spans(width, layers[component], "center", "cut", component)):
                found[edges, width, layer] = nnblip.knock_out(edges, layers=span)
    return found


def relative_change(
    tree: xr.DataTree, cells: dict[tuple[str, int, int], KnockOut]
) -> dict[tuple[str, int], xr.DataArray]:
    """By edges and width: the change of P(answer) in per cent of what it was, (example, layer)."""
    clean = tree["clean"].to_dataset()["probability"].reset_coords(drop=True)
    cut = tree["knock_outs"].to_dataset()["probability"].reset_coords(drop=True)
    found = {}
    for key in dict.fromkeys((edges, width) for edges, width, _ in cells):
        places = {layer: one.name for (edges, width, layer), one in cells.items() if (edges, width) == key}
        values = cut.sel(knock_out=list(places.values())).rename(knock_out="layer").assign_coords(layer=list(places))
        found[key] = 100 * (values - clean) / clean
    return found


# --- what is said --------------------------------------------------------------------------


def highest(tree: xr.DataTree, component: str) -> Mean:
    """The largest P(answer) of each example's map, draws averaged first; without what restores by construction."""
    values = tree[component].to_dataset().where(~effects.structural(tree)[component].structural)["probability"]
    values = values.isel(nu=0, kind=0, drop=True).mean("draw")
    return mean(values.max([dim for dim in values.dims if dim != "example"]).reset_coords(drop=True), (0, 1))


def palit(run: Run, noisy: xr.DataTree, scaled: xr.DataTree, right: xr.Dataset) -> dict[str, xr.DataArray]:
    """Both notebooks; gives each component's layer profile under noise."""
    maps = restored(noisy)
    profile = {component: of_examples(maps, component) for component in TEXT_COMPONENTS}
    halves = {component: later_minus_earlier(one) for component, one in profile.items()}
    short = (noisy[DECODER].token_text != "").sum("token") == 1

    def p(tree: xr.DataTree, node: str) -> Mean:
        values = tree[node].to_dataset()["probability"].reset_coords(drop=True)
        return mean(values.isel(nu=0, drop=True).mean("draw") if node == "corrupted" else values, (0, 1))

    total = effects.total_effect(noisy)["corrupted"].to_dataset()["probability"].isel(nu=0, drop=True).mean("draw")
    nu = f"ν = {run.options.nu[0]:g}"
    two = {one: effects.gamma(noisy, estimator=one).sel(kind="block").isel(nu=0, drop=True).reset_coords(drop=True)
           for one in ("ratio_of_means", "mean_of_ratios")}  # fmt: skip
    said = "; ".join(f"{kind} {int(r)} of {int(n)}" for kind, r, n in
                     zip(right["type"].values, right.right.values, right.asked.values, strict=True))  # fmt: skip
    rows = [["quantity", "they report", "this model and data"]]
    rows += [
        ["questions", "466 of the first 500 color questions of seven words", f"{noisy.sizes['example']}"],
        ["answered correctly", "color 80 %, location 26 %, counting 3 %", said],
        ["high_score: P(answer), clean", "0.8970, of the saved run", str(p(noisy, "clean"))],
        [f"low_score: P(answer), corrupted, {nu}", "0.8970, of the saved run", str(p(noisy, "corrupted"))],
        ["total effect below 0.05", "not reported", f"{int((total < THRESHOLD).sum())} of {total.size} examples"],
        ["scores: highest of the question encoder's map", "not reported", str(highest(noisy, ENCODER))],
        ["scores: highest of the answer decoder's map", "not reported", str(highest(noisy, DECODER))],
        *([f"later minus earlier half of the layers, {component.replace('_', ' ')}, effect on P(answer)",
           "“causal relevance of later layer representations”, by eye", str(mean(one))]
          for component, one in halves.items()),
        *([f"Γ({nu}), {component.replace('_', ' ')}, {how}",
           "a curve of 200 examples, ten repeats; ν = 5 by eye" if "single" in how else "not reported",
           str(mean(two[one][component], SHARE))]
          for component in TEXT_COMPONENTS
          for one, how in (("mean_of_ratios", "mean of single ratios"), ("ratio_of_means", "ratio of means"))),
        ["second notebook, low_score: embeddings times 0.7691", "0.735, of one example", str(p(scaled, "corrupted"))],
        ["second notebook, scores: highest, question encoder", "0.749, of one example", str(highest(scaled, ENCODER))],
        ["second notebook, scores: highest, answer decoder",
         "0.803, of one example, of a map with the last layer, which restores by construction",
         str(highest(scaled, DECODER))],
        *([f"second notebook, scores: highest of three layers, {kind}, question encoder", "maps", str(best)]
          for kind, best in windows_of(scaled).items()),
    ]  # fmt: skip
    run.section(
        "Palit et al. 2023, both notebooks",
        f"Means with {intervals_are()}. Their ν is 5. Their P(answer) is that of the answer's first token, here it is"
        f" that of all: {int(short.sum())} of {short.size} answers have one.\n\n{table(*rows)}",
    )
    level = of_several(len(halves))
    run.claim("late", everywhere({
        component.replace("_", " "): above(mean(one, level=level), 0, "later minus earlier")
        for component, one in halves.items()
    }))  # fmt: skip
    return {component: shares(by_layer(one), total.reset_coords(drop=True)) for component, one in profile.items()}


def windows_of(tree: xr.DataTree) -> dict[str, Mean]:
    """By kind: the largest P(answer) of each example among windows, without those that restore by construction."""
    data = tree["cells"].to_dataset()
    given = effects.structural(tree)["cells"].to_dataset()["structural"]
    values = data["probability"].isel(nu=0, draw=0, drop=True).where(~given)
    return {kind: mean(values.isel(cell=np.flatnonzero(data.kind == kind)).max("cell").reset_coords(drop=True), (0, 1))
            for kind in STREAM}  # fmt: skip


def notice(run: Run, found: dict[str, xr.Dataset]) -> None:
    """Another picture beside another word."""
    rows = [["quantity", "they report", *(f"{name}, n = {one.sizes['example']}" for name, one in found.items())]]
    effect = {name: shares(one.effect, one.total) for name, one in found.items()}
    heads = {name: shares(one.heads, one.total) for name, one in found.items()}
    for name, of in (("P(answer), clean", "clean"), ("P(answer), corrupted", "corrupted")):
        rows.append([name, "not reported", *(mean(one[of], (0, 1)).bare for one in found.values())])
    for kind in KINDS:
        said = f"{NAMES[kind]}, mean over layers and tokens"
        single = [mean(one.patching_effect.sel(kind=kind).mean("layer"), SHARE).bare for one in found.values()]
        rows.append([f"patching effect, {said}", "maps", *single])
        means = [share(one.sel(kind=kind).mean("layer")).bare for one in effect.values()]
        rows.append([f"ratio of means, {said}", "not reported", *means])
    gap = {name: (one.sel(kind="crossattention_out") - one.sel(kind="attention_out")).mean("layer")
           for name, one in effect.items()}  # fmt: skip
    rows.append([
        "cross- minus self-attention, ratio of means", "cross-attention does the “image-grounding”; no number",
        *(share(one).bare for one in gap.values()),
    ])  # fmt: skip
    picked = {name: strongest(one, ("layer", "head")) for name, one in heads.items()}
    cells = [where if best is None else f"{where}: {best.bare}" for where, best, _ in picked.values()]
    rows.append(["strongest head of cross-attention, on examples that did not choose it", "in middle layers", *cells])
    level = of_several(2)
    where, best, values = picked[PICTURE]
    universal = Verdict(OPEN, f"head of cross-attention for {PICTURE}: {where}")
    cells = ["", ""]
    if best is not None:
        ((layer, head), *_), _ = effects.picked(heads[PICTURE], ("layer", "head"))
        other = heads[WORD].sel(layer=layer, head=head)
        cells = [best.bare, share(other).bare]
        universal = everywhere({
            PICTURE: above(mean(values, SHARE, level), 0, f"{where}, {PICTURE}"),
            WORD: above(share(other, level), 0, f"{where}, {WORD}"),
        })  # fmt: skip
    rows.append([f"the head that is strongest for {PICTURE}", "“universal” heads contribute to every task, for pictures"
                 " and words", *cells])  # fmt: skip
    rows.append(["what universal heads do", "implicit image segmentation, object inhibition, outlier inhibition",
                 *["not asked here"] * 2])  # fmt: skip
    run.section(
        "NOTICE",
        f"The patching effect is theirs: of each example (LD restored - LD corrupted) / (LD clean - LD corrupted), then"
        f" the mean. Ratios of means are sums of effects over sums of total effects. With {intervals_are()}. Another"
        " picture: one of which the same question is answered otherwise. Another word: a question about the same"
        " picture that differs in as few words as can be and is answered otherwise. LD is held against what the"
        f" corrupted run answers, theirs against the pair's other answer.\n\n{table(*rows)}",
    )
    run.claim("modules", everywhere({
        PICTURE: above(share(gap[PICTURE], level), 0, f"cross- minus self-attention, {PICTURE}"),
        WORD: above(share(-gap[WORD], level), 0, f"self- minus cross-attention, {WORD}"),
    }))  # fmt: skip
    run.claim("universal", universal)


def flow(run: Run, change: dict[tuple[str, int], xr.DataArray]) -> None:
    """Knock-outs by windows of layers."""
    rows = [["layer", *(f"{FLOW[edges]}, {width}" for edges, width in change)]]
    for layer in range(max(one.sizes["layer"] for one in change.values())):
        cells = [mean(one.sel(layer=layer), PER_CENT).bare if layer in one.layer else "" for one in change.values()]
        rows.append([str(layer), *cells])
    lost = {edges: later_minus_earlier(-change[edges, WINDOW]) for edges in FLOW}
    more = {edges: f"lost in later minus in earlier layers, points: {mean(one, SHARE)}" for edges, one in lost.items()}
    reports = [
        ["relative change in probability", "they report, of windows of 9 layers", "this model and data"],
        ["image to question", "first the whole picture, in lower layers; then what is asked about, in middle ones",
         more["image_to_question"]],
        ["question to the last position (here: to the answer)", "in higher layers", more["question_to_answer"]],
        ["image to the last position", "the picture often gets there by way of the question",
         "no such edge: BLIP's decoder reads the question's states alone"],
        ["between question tokens", "not reported", more["question_to_question"]],
    ]  # fmt: skip
    run.section(
        "Attention knock-outs",
        f"Relative change of P(answer) in per cent (theirs: of its first token), with {intervals_are()}, where edges"
        f" are cut in the {WINDOW} layers around each, or in that layer alone (1).\n\n{table(*rows)}"
        f"\n\n{table(*reports)}",
    )
    level = of_several(2)
    said = "points lost in {} layers"
    run.claim("early", above(mean(-lost["image_to_question"], SHARE, level), 0, said.format("earlier minus in later")))
    run.claim("answer", above(mean(lost["question_to_answer"], SHARE, level), 0, said.format("later minus in earlier")))


def lens(run: Run, data: xr.Dataset) -> xr.DataArray:
    """What the decoder says of each layer; gives whether it is what it says in the end, (example, layer)."""
    same = (data.said == data.said.isel(layer=-1)).astype(float).reset_coords(drop=True)
    rows = [["layer", "says the final answer", "P(answer)"]]
    for layer in data.layer.values:
        p = data.probability.sel(layer=layer).reset_coords(drop=True)
        rows.append([str(layer), mean(same.sel(layer=layer), (0, 1)).bare, mean(p, (0, 1)).bare])
    before = mean(same.isel(layer=-2), (0, 1))
    report = [["quantity", "they report", "this model and data"],
              ["final answer from an intermediate layer", "some subtasks are solved in low and intermediate layers",
               f"from the last layer but one: {before}"]]  # fmt: skip
    run.section("DecoderLens", f"Shares of examples, with {intervals_are()}.\n\n{table(*rows)}\n\n{table(*report)}")
    run.claim("lens", above(before, 0.5, "share of examples, from the last layer but one"))
    return same


def plot(
    profile: dict[str, xr.DataArray], found: dict[str, xr.Dataset], change: dict[tuple[str, int], xr.DataArray],
    same: xr.DataArray,
) -> Figure:  # fmt: skip
    """A panel for each study, by layer."""
    effect = {f"{NAMES[kind]}, {name}": one.patching_effect.sel(kind=kind, drop=True)
              for name, one in found.items() for kind in ("crossattention_out", "attention_out")}  # fmt: skip
    cut = {FLOW[edges]: one for (edges, width), one in change.items() if width == WINDOW}
    panels = (
        ("Palit et al.: one state restored", "share of total effect", SHARE,
         {name.replace("_", " "): one for name, one in profile.items()}),
        ("NOTICE: one state restored", "patching effect", SHARE, effect),
        (f"Knock-outs in {WINDOW} layers", "change of P(answer), %", PER_CENT, cut),
        ("DecoderLens: says the final answer", "share of examples", (0, 1), {"the decoder reads this layer": same}),
    )  # fmt: skip
    figure = Figure(figsize=(6.9, 6.4), layout="constrained")
    for axes, (name, y, support, lines) in zip(figure.subplots(2, 2).ravel(), panels, strict=True):
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        for number, (label, values) in enumerate(lines.items()):
            plain = values.reset_coords(drop=True).transpose("example", "layer")
            line(axes, plain.layer.values, bounds(plain, support), number, label)
        if support != (0, 1):
            near_means(axes, [one.mean("example").values for one in lines.values()])
        tidy(axes, name, "layer", y)
        axes.legend(frameon=False, fontsize=6.5, loc="upper left", bbox_to_anchor=(-0.02, -0.18), labelspacing=0.25)
    return figure


# --- all of it -----------------------------------------------------------------------------


def run(run: Run) -> None:
    examples = run.choose(by_type=False, aligned=True, keep=color_of(run))[0].examples
    layers = dict(zip(TEXT_COMPONENTS, map(len, (run.model.question_encoder.layer, run.model.answer_decoder.layer)),
                      strict=True))  # fmt: skip
    cells = cuts(layers)
    windows = [sites.windows(WINDOW, kind, ENCODER, "center", "cut") for kind in STREAM]
    every = [*windows, *{one.name: one for one in cells.values()}.values()]
    # first what may be refused
    found = {name: run.stage(name.replace(" ", "_"), partial(swapped, run, examples, name)).to_dataset()
             for name in (PICTURE, WORD)}  # fmt: skip
    noisy = run.sweep("noise", examples, kinds=["block"])
    scaled = run.sweep("scale", examples, noise="scale", nu=1, draws=1, kinds=["block"], cells=every)
    right = run.stage("accuracy", partial(accuracy, run)).to_dataset()
    says = run.stage("lens", lambda: nnblip.lens(run.model, examples))["decoder_lens"].to_dataset().load()

    profile = palit(run, noisy, scaled, right)
    notice(run, found)
    change = relative_change(scaled, cells)
    flow(run, change)
    run.figure("replications", plot(profile, found, change, lens(run, says)))


def swapped(run: Run, examples: list[Example], pair: str) -> xr.Dataset:
    """The patching effects of NOTICE, of the examples for which there is a minimal pair.

    Raises:
        NnblipError: if these are too few for a test.
    """
    if pair == WORD:
        questions = [one.question for one in run.source.examples]
        chosen = other_questions(run.model, examples, questions, run.options.seed)
    else:
        chosen = list(partners(run.model, Dataset.of("pairs", examples), run.options.seed, progress=False))
    if len(chosen) < run.experiment.least:
        raise NnblipError(
            f"of {len(examples)} questions {len(chosen)} have {pair} with which they are answered otherwise: expected"
            f" at least {run.experiment.least}; take more (--n), or other types"
        )
    return patching(run.model, chosen, "question" if pair == WORD else "image_embeds", run.options.seed)


EXPERIMENT = Experiment(
    name="replications",
    question="What do four studies report, and what does this model give when it is asked the same?",
    claims={
        "late": "Palit et al.: later layers restore more than earlier ones, in question encoder and answer decoder",
        "modules": "NOTICE: cross-attention restores more than self-attention where the picture is another one, and"
        " less where a word is",
        "universal": "NOTICE: the head of cross-attention that restores most of another picture restores some of"
        " another word, too",
        "early": "Knock-outs: the picture is read in earlier layers more than in later ones",
        "answer": "Knock-outs: the answer reads the question in later layers more than in earlier ones",
        "lens": "DecoderLens: the decoder says the final answer from the last layer but one, more often than not",
    },
    run=run,
    figure="replications",
    defaults=Defaults(dataset=("scenes",), n=24, nu=(5.0,)),
    needs=("images",),
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
