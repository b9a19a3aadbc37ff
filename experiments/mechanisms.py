#!/usr/bin/env python
"""Which circuit carries the answer?

    nnblip experiment mechanisms
    nnblip experiment mechanisms --model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download --nu 5

Of each type of question, on examples whose tokens are aligned. The whole picture is one sender, for objects stand
elsewhere in each; the damage is the mean of the embeddings, which needs no draws.

1. *Search*, on the first few examples (`SEARCHED`, at most half). All edges between whole sublayers are scored by what
   each brings to the logit difference (`circuit_scores`: integrated gradients from none of the circuit's edges to all
   of them); the best are kept, scored anew as a circuit of their own, and so on, down to `SHARES`.
2. *Faithfulness*, on all others, which chose nothing: (m(C) - m(none)) / (m(all) - m(none)), where m is the logit
   difference, mean over examples, and a circuit C has its edges as in the clean run and all others as in the corrupted
   one, run exactly (`nnblip.circuit_trace`). Over the share of edges, the area under it is CPR, that between it and 1
   is CMD (MIB, 2504.13151).
3. *Pruning*, on the first few again: of the smallest circuit that is faithful there (`SAFE`: on examples that did not
   choose it, it will be less so), edges are left out, the weakest first, as long as it stays so.
4. *Tests*, on the others (after Shi et al. 2024, 2410.13032). Sufficiency: is it more faithful than random
   circuits of the same size? Independence: with its edges damaged and all others clean, how much of the effect is left?
   Minimality: how many of its edges, each left out alone, does it miss (paired tests over examples, corrected by Holm)?
5. *Stability*: the Jaccard index of the circuits of that size that the first few and as many of the others find.

The circuit stands in `circuit_TYPE.csv`, an edge a line, as `nnblip.Edge` takes them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

import nnblip
from nnblip import plot, sites
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.choose import Group
from nnblip.experiments.claims import ALPHA, HOLDS, OPEN, Verdict, above, below, everywhere, holm, of_several
from nnblip.experiments.figures import STYLES, legend, tidy
from nnblip.experiments.numbers import SHARE, Mean, intervals_are, mean, share
from nnblip.experiments.texts import table
from nnblip.paths import Edge

SUBLAYERS = ("attention_out", "crossattention_out", "mlp_out")
VALUE = "logit_difference"
#: Sizes of circuits, in per cent of all edges.
SHARES = (100, 60, 40, 27, 18, 13, 10, 8, 6.5, 5, 4, 3, 2, 1, 0.5, 0.1)
#: Of integrated gradients; random circuits of one size; edges at most that are left out one by one.
STEPS, RANDOM, SINGLES = 8, 20, 80
#: So many examples search, at most half: gradients for thousands of edges take long, running a circuit does not.
SEARCHED = 10
#: So many edges of a circuit are drawn and listed, the strongest.
DRAWN = 40
#: A circuit is wanted of at most so many per cent of the edges, and at least so faithful; and where it is searched.
MOST, FAITHFUL, SAFE = 5, 0.9, 0.98


def universe(extent: sites.Extent, regions: int = 1) -> list[Edge]:
    """All edges between whole sublayers, and from the picture's regions and its [CLS]."""
    families = [sites.edges(SUBLAYERS, name, SUBLAYERS, regions=regions) for name in sites.TEXT_COMPONENTS]
    return [edge for family in families for edge in family(extent)]


def edges_of(run: Run, example: Any) -> list[Edge]:
    """All edges of an example and the answer that the model gives to it."""
    answer = run.model.encode_answer(run.model.answer(example).text)
    return universe(run.model.extent(len(run.model.encode(example).tokens), len(answer)))


class Asker:
    """One model and noise, asked about examples of one layout."""

    def __init__(self, model: Any, nu: float, draws: int, noise: str, seed: int) -> None:
        self.model = model
        self.asked: dict[str, Any] = dict(nu=nu, draws=draws, noise=noise, seed=seed, progress=False)

    def search(self, examples: Sequence[Any], edges: list[Edge], sizes: Sequence[int]) -> list[list[int]]:
        """Circuits of these sizes, each part of the one before, as places of edges, the strongest first."""
        found, kept = [], np.arange(len(edges))
        for size in sizes:
            circuit = [edges[place] for place in kept]
            scores = nnblip.circuit_scores(self.model, examples, circuit, steps=STEPS, **self.asked).mean("example")
            # what brings nothing, or less, is left out before what brings something
            kept = kept[np.argsort(-scores.values, kind="stable")[:size]]
            found.append(kept.tolist())
        return found

    def left(
        self, examples: Sequence[Any], edges: Sequence[Edge], circuits: Sequence[Sequence[int]], noising: bool = False
    ) -> xr.Dataset:
        """Run circuits, each as the places of its edges, alone; or, `noising`, all but them.

        Returns:
            `left` (example, circuit), m(C) - m(none), and `all` (example), m(all) - m(none).
        """
        named = {str(number): [edges[place] for place in one] for number, one in enumerate(circuits)}
        direction = "noising" if noising else "denoising"
        tree = nnblip.circuit_trace(self.model, examples, named, direction=direction, **self.asked)
        none = tree["corrupted"][VALUE]
        found = {"left": tree["circuits"][VALUE] - none, "all": tree["clean"][VALUE] - none}
        means = {name: one.isel(nu=0, drop=True).mean("draw").reset_coords(drop=True) for name, one in found.items()}
        return xr.Dataset(means)

    def faithfulness(self, examples: Sequence[Any], edges: Sequence[Edge], circuits: Sequence[list[int]]) -> np.ndarray:
        """(circuit): (m(C) - m(none)) / (m(all) - m(none)), of the means over examples."""
        means = self.left(examples, edges, circuits).mean("example")
        return (means["left"] / means["all"]).values


def pruned(asker: Asker, examples: Sequence[Any], edges: Sequence[Edge], circuit: list[int]) -> list[int]:
    """A circuit without the edges, the weakest first, that it can do without and stay as faithful as is `SAFE`."""
    kept = list(circuit)
    chunk = max(1, len(kept) // 4)
    while True:
        for place in range(len(kept) - chunk, -1, -chunk):
            without = kept[:place] + kept[place + chunk :]
            if without and asker.faithfulness(examples, edges, [without])[0] >= SAFE:
                kept = without
        if chunk <= max(1, len(kept) // 32):
            return kept
        chunk //= 2


def sizes_of(count: int) -> list[int]:
    """How many edges each of `SHARES` is, at least one."""
    return [max(1, round(count * share / 100)) for share in SHARES]


def areas(curve: np.ndarray) -> tuple[float, float]:
    """CPR, the area under faithfulness over the share of edges, and CMD, that between it and 1 (trapezoids)."""
    shares = np.array([*SHARES, 0][::-1]) / 100
    values = np.array([*curve, 0][::-1])
    return float(np.trapezoid(values, shares)), float(np.trapezoid(np.abs(1 - values), shares))


def circuit_of(asker: Asker, examples: Sequence[Any], edges: list[Edge], nested: list[list[int]]) -> list[int]:
    """The smallest of these circuits that is as faithful to the examples as is `SAFE`, pruned; empty if none is."""
    curve = asker.faithfulness(examples, edges, nested)
    faithful = [one for one, value in zip(nested, curve, strict=True) if value >= SAFE]
    return pruned(asker, examples, edges, faithful[-1]) if faithful else []


# --- one type -------------------------------------------------------------------------------


def searched(group: Group) -> tuple[list[Any], list[Any]]:
    """The examples that search, and those that measure."""
    count = min(SEARCHED, len(group.examples) // 2)
    return group.examples[:count], group.examples[count:]


def studied(run: Run, group: Group) -> xr.Dataset:
    """All numbers of one type of question; of circuits what is left of the effect, in logit difference.

    `all` (example); `left` (example, share) of the best edges alone; of the pruned circuit, if there is one, `circuit`
    (example) alone, `random` (example, random) of others of its size, `without` (example, left_out) one of its edges,
    `damaged` (example) with only it damaged, and `jaccard`. `member` and `rank` (edge).
    """
    o = run.options
    asker = Asker(run.model, o.nu[0], o.draws, o.noise[0], o.seed)
    first, second = searched(group)
    edges = edges_of(run, first[0])
    sizes = sizes_of(len(edges))
    nested = asker.search(first, edges, sizes)
    chosen = circuit_of(asker, first, edges, nested)
    rank = np.full(len(edges), len(edges))
    for circuit in nested:
        rank[circuit] = np.arange(len(circuit))
    curve = asker.left(second, edges, nested)
    data: dict[str, Any] = {
        "all": (("example",), curve["all"].values),
        "left": (("example", "share"), curve["left"].values),
        "member": (("edge",), np.isin(np.arange(len(edges)), chosen)),
        "rank": (("edge",), rank),
    }
    if chosen:
        rng = np.random.default_rng(o.seed)
        random = [rng.permutation(len(edges))[: len(chosen)].tolist() for _ in range(RANDOM)]
        tried = chosen if len(chosen) <= SINGLES else rng.permutation(chosen)[:SINGLES].tolist()
        left_out = [[place for place in chosen if place != one] for one in tried]
        every = asker.left(second, edges, [chosen, *random, *left_out])["left"].values
        data["circuit"] = ("example",), every[:, 0]
        data["random"] = ("example", "random"), every[:, 1 : 1 + RANDOM]
        data["without"] = ("example", "left_out"), every[:, 1 + RANDOM :]
        data["damaged"] = ("example",), asker.left(second, edges, [chosen], noising=True)["left"].values[:, 0]
        of_size = [size for size in sizes if size > len(chosen)] + [len(chosen)]
        one, two = (set(asker.search(few, edges, of_size)[-1]) for few in (first, second[: len(first)]))
        data["jaccard"] = (), len(one & two) / len(one | two)
    coords = {"example": [e.id for e in second], "share": list(SHARES), "edge": [str(edge) for edge in edges]}
    return xr.Dataset(data, coords)


def missed(data: xr.Dataset) -> tuple[int, int]:
    """How many of the edges that were left out alone the circuit misses, corrected by Holm; and how many were."""
    losses = data["circuit"] - data["without"]
    tests = {str(number): float(ttest_1samp(one, 0, alternative="greater", nan_policy="omit").pvalue)
             for number, one in enumerate(losses.transpose("left_out", "example").values)}  # fmt: skip
    return sum(p < ALPHA for p in holm(tests).values()), len(tests)


def write_circuit(run: Run, name: str, edges: Sequence[Edge], chosen: np.ndarray, rank: np.ndarray) -> None:
    """The circuit, an edge a line, the strongest first."""
    ends = ("component", "kind", "layer", "token")
    with (run.out / f"circuit_{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"sender_{end}" for end in ends), *(f"receiver_{end}" for end in ends), "input"])
        for place in sorted(np.flatnonzero(chosen).tolist(), key=lambda place: rank[place]):
            edge = edges[place]
            first = edge.sender[0]
            tokens = " ".join(str(site.token) for site in edge.sender)
            sender = (first.component, first.kind, first.layer, tokens)
            writer.writerow([*sender, *(getattr(edge.receiver, end) for end in ends), edge.input])


def plot_curves(found: dict[str, xr.Dataset]) -> Figure:
    """Faithfulness over the share of edges, on a logarithmic axis, with intervals over held-out examples."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, data) in enumerate(found.items()):
        colour, marker = STYLES[number % len(STYLES)]
        every = [_of_all(data["left"].sel(share=size), data) for size in SHARES]
        axes.plot(
            SHARES, [one.value for one in every], f"{marker}-", color=colour, markersize=3.5, linewidth=1.1, label=name
        )
        axes.fill_between(SHARES, [one.low for one in every], [one.high for one in every], color=colour, alpha=0.15)
        if "circuit" in data:
            size = 100 * float(data["member"].mean())
            axes.plot(
                [size],
                [_of_all(data["circuit"], data).value],
                marker="*",
                markersize=11,
                color=colour,
                markeredgecolor="k",
            )
    axes.axhline(FAITHFUL, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(SHARES, [f"{share:g}" for share in SHARES])
    tidy(
        axes,
        "Faithfulness on examples that chose nothing; stars: the pruned circuits",
        "% of all edges",
        "faithfulness",
    )
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), max(1.1, min(axes.get_ylim()[1], 1.6)))
    legend(figure, axes)
    return figure


def _of_all(values: xr.DataArray, data: xr.Dataset, level: float = 0.95) -> Mean:
    """The share of the effect that is left."""
    return share(values.reset_coords(drop=True), data["all"], level)


def run(run: Run) -> None:
    groups = [group for group in run.choose(aligned=True) if len(group.examples) >= run.experiment.least]
    for number, group in enumerate(groups):
        _runs(run, f"runs_{number}", group)
    found = {group.name: run.stage(f"circuits/{number}", partial(studied, run, group)).to_dataset()
             for number, group in enumerate(groups)}  # fmt: skip
    level = of_several(len(groups))
    rows = [["questions", "edges", "CPR", "CMD", f"faithfulness of {MOST:g} %", "pruned circuit", "its faithfulness",
             "random circuits", "left without it", "edges that it misses", "Jaccard"]]  # fmt: skip
    rows += [_row(name, data, level) for name, data in found.items()]
    run.section(
        "Circuits",
        f"Of the logit difference, with {intervals_are()} that chose nothing; intervals of types hold together."
        f" Searched on {SEARCHED} other examples, or half of them.\n\n{table(*rows)}"
        + "".join(f"\n\n{name}: {told}" for name, one in found.items() if (told := lacking(one, level))),
    )
    verdicts = {name: _verdicts(data, level) for name, data in found.items()}
    for claim in run.experiment.claims:
        run.claim(claim, everywhere({name: one[claim] for name, one in verdicts.items()}))
    run.figure("faithfulness", plot_curves(found))
    _draw(run, groups, found)


def _runs(run: Run, name: str, group: Group) -> None:
    """The two runs of every example, between which circuits lie; they are diagnosed."""
    tree = run.sweep(name, group.examples, components=["answer_decoder"], kinds=["block"])
    clean = mean(tree["clean"][VALUE].reset_coords(drop=True), SHARE)
    corrupted = mean(tree["corrupted"][VALUE].isel(nu=0, drop=True).reset_coords(drop=True), SHARE)
    run.section(f"{group.name}: the runs", f"Logit difference: clean {clean}; corrupted {corrupted}.")


def _row(name: str, data: xr.Dataset, level: float) -> list[str]:
    count, total = int(data["member"].sum()), data.sizes["edge"]
    cpr, cmd = areas((data["left"].mean("example") / data["all"].mean()).values)
    row = [name, str(total), f"{cpr:.3f}", f"{cmd:.3f}"]
    if not count:
        return [*row, _best(data, level).bare, "none", *[""] * 5]
    needed, tried = missed(data)
    shares = [str(_of_all(data[name], data, level)) for name in ("circuit", "damaged")]
    random = _of_all(data["random"].mean("random"), data).bare
    return [*row, _best(data, level).bare, f"{count} ({100 * count / total:.2f} %)", shares[0], random, shares[1],
            f"{needed} of {tried}", f"{float(data['jaccard']):.2f}"]  # fmt: skip


def lacking(data: xr.Dataset, level: float) -> str:
    """What there is instead, where not even the best `MOST` % are faithful; an empty text where that is not so."""
    if not _best(data, level).high < FAITHFUL:
        return ""
    values = (data["left"].mean("example") / data["all"].mean()).sortby("share")
    small = values.sel(share=values.share <= MOST)
    enough = values.share.values[(values >= FAITHFUL).values]
    size = 100 * float(data["member"].mean())
    pruned = f"; pruning from there leaves {size:.1f} %" if size else ""
    return (
        f"no circuit of at most {MOST:g} % that the search finds is faithful. The most that one of them brings back is"
        f" {float(small.max()):+z.3f} (of {float(small.share[int(small.argmax('share'))]):g} %); the smallest that is"
        f" faithful has {float(enough.min()) if enough.size else 100:g} % of the edges{pruned}."
    )


def _best(data: xr.Dataset, level: float) -> Mean:
    return _of_all(data["left"].sel(share=MOST), data, level)


def _verdicts(data: xr.Dataset, level: float) -> dict[str, Verdict]:
    """Of one type of question, by claim."""
    count, total = int(data["member"].sum()), data.sizes["edge"]
    small = above(_best(data, level), FAITHFUL, f"faithfulness of the best {MOST:g} %")
    if not count:
        none = Verdict(OPEN, f"there is no circuit that is faithful on the examples that searched; {small.because}")
        return {**dict.fromkeys(EXPERIMENT.claims, none), "small": small}
    random = data["random"].mean("random")
    needed, tried = missed(data)
    return {
        "small": small,
        "pruned": above(
            _of_all(data["circuit"], data, level),
            FAITHFUL,
            f"faithfulness of {count} edges ({100 * count / total:.2f} %)",
        ),
        "sufficient": above(
            _of_all(data["circuit"] - random, data, level), 0, "faithfulness minus the mean of random circuits"
        ),
        "independent": below(_of_all(data["damaged"], data, level), 1 - FAITHFUL, "share of the effect that is left"),
        # an edge without which nothing is seen to be lost may matter all the same: a test never shows that it does not
        "edges": Verdict(HOLDS if 2 * needed > tried else OPEN, f"{needed} of {tried}, each tested and corrected"),
    }


def _draw(run: Run, groups: Sequence[Group], found: dict[str, xr.Dataset]) -> None:
    """The circuits, as files and as drawings of what each edge does alone."""
    o = run.options
    asker = Asker(run.model, o.nu[0], o.draws, o.noise[0], o.seed)
    for group in groups:
        data = found[group.name]
        chosen = data["member"].values
        if not chosen.any():
            continue
        edges = edges_of(run, group.examples[0])
        write_circuit(run, group.name, edges, chosen, data["rank"].values)
        examples, _ = searched(group)
        cells = [edges[place] for place in np.flatnonzero(chosen)]
        tree = run.stage(
            f"edges/{groups.index(group)}",
            partial(nnblip.causal_trace, run.model, examples, cells=cells, direction="noising", **asker.asked),
        )
        run.figure(f"circuit_{group.name}", plot.circuit(tree, variable=VALUE, n=DRAWN))
        _listed(run, group.name, nnblip.indirect_effect(tree)["edges"].to_dataset()[VALUE])


def _listed(run: Run, name: str, lost: xr.DataArray) -> None:
    """The edges that matter most alone."""
    lost = lost.isel(nu=0, drop=True).mean(("example", "draw"))
    order = np.argsort(-lost.values, kind="stable")[:DRAWN]
    rows = [
        ["edge", "what its damage costs, in logit difference"],
        *([str(lost.edge.values[at]), f"{lost.values[at]:+z.3f}"] for at in order),
    ]
    run.section(
        f"{name}: the circuit",
        f"The {len(order)} of its {lost.size} edges that matter most when each is damaged alone in the clean run, on"
        f" the examples that chose them; all of them are in circuit_{name}.csv.\n\n{table(*rows)}",
    )


EXPERIMENT = Experiment(
    name="mechanisms",
    question="Which circuit carries the answer?",
    claims={
        "small": f"A circuit of {MOST:g} % of the edges has a faithfulness of at least {FAITHFUL:g}",
        "pruned": "So has the smaller circuit that pruning leaves",
        "sufficient": "That is more faithful than random circuits of its size",
        "independent": f"With that damaged, less than {100 * (1 - FAITHFUL):.0f} % of the effect is left",
        "edges": "It misses most of its edges, each left out alone",
    },
    run=run,
    figure="faithfulness",
    defaults=Defaults(dataset=("scenes:3000",), n=40, nu=(1.0,), draws=1, noise=("mean",)),
    needs=("types",),
    least=12,
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
