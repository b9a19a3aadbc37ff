#!/usr/bin/env python
"""Does the layer-wise pattern hold on other data sets?

    nnblip experiment cross_dataset
    nnblip experiment cross_dataset --model Salesforce/blip-vqa-base --nu 5 --n 50 \\
        --dataset cocoqa:FOLDER gqa:FILE.json vqa2:QUESTIONS.json,ANNOTATIONS.json \\
        --images cocoqa=download gqa=FOLDER vqa2=download

The paper has one data set and one type of question. Here the profile over layers and the strongest roles of each data
set and type stand side by side. A profile is, of each example, the relevance of a layer: the mean over its tokens of
the share of the total effect that one restored state brings back. Cells that restore by construction are left out,
and examples in which the noise takes away next to nothing, which have no relevance.

That the pattern holds has three meanings, each tested by itself: that later layers matter more in every data set; that
the profile of a single example follows the mean profile of the other data sets (Pearson's correlation over layers,
mean over examples, which is above 0); and that the mean profiles are the same, that is, differ by less than a margin
of relevance in every layer, with intervals that hold together. A test that finds no difference shows none of these.
"""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import xarray as xr

import nnblip
from nnblip import effects
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.experiments import Defaults, Experiment, Run
from nnblip.experiments.claims import FAILS, HOLDS, OPEN, Verdict, above, alike, everywhere, of_several
from nnblip.experiments.figures import MOST_LINES, profiles
from nnblip.experiments.maps import by_layer, by_role, later_minus_earlier, of_examples, of_type, restored, strongest
from nnblip.experiments.numbers import SHARE, bounds, compared, intervals_are, mean
from nnblip.experiments.texts import listed, table
from nnblip.sites import TEXT_COMPONENTS

#: Mean relevances of a layer that differ by less are taken for the same.
MARGIN = 0.1


def follows(profile: xr.DataArray, others: xr.DataArray) -> xr.DataArray:
    """Of each example, how its profile correlates over layers with the mean profile of other examples; (example).

    That mean is taken as it is: intervals of the correlations are about the examples, not about the others.
    """
    shape = others.mean("example")
    known = (profile.notnull() & shape.notnull()).sum("layer") >= 3  # of two layers it is always 1 or -1
    return xr.corr(profile, shape, "layer").where(known)


def best_role(effect: xr.DataArray) -> tuple[str, Verdict]:
    """The strongest role of one data set, over all layers, and whether it is stronger than the mean of the others.

    Args:
        effect: (example, layer, role).
    """
    by = effect.mean("layer")
    cells, own = effects.picked(by, ("role",))
    if len(cells) != 1:
        return "", Verdict(OPEN, f"the halves choose {listed([str(cell[0]) for cell in cells])}")
    role = str(cells[0][0])
    others = by.sel(role=[one for one in by.role.values if one != role]).mean("role")
    return role, above(mean(own - others), 0, f"{role} minus the mean of the other roles")


def same_role(found: dict[str, tuple[str, Verdict]]) -> Verdict:
    """Whether all data sets have the same strongest role: only where it is established in each can it be said."""
    sure = {name: role for name, (role, verdict) in found.items() if role and verdict.said == HOLDS}
    told = "; ".join(f"{name}: {role or 'none'} ({verdict.because})" for name, (role, verdict) in found.items())
    if len(set(sure.values())) > 1:
        return Verdict(FAILS, told)
    return Verdict(HOLDS if len(sure) == len(found) else OPEN, told)


def run(run: Run) -> None:
    groups = run.choose(groups=2)
    tree = run.sweep("result", [example for group in groups for example in group.examples])
    own = tree.question_type.values
    source = np.array([{group.name: group.source for group in groups}[kind] for kind in own])
    counts = {name: int((source == name).sum()) for name in dict.fromkeys(source.tolist())}
    names = [name for name, count in counts.items() if count >= MIN_EXAMPLES]
    if len(names) < 2:
        raise nnblip.NnblipError(f"too few examples to compare data sets: expected {MIN_EXAMPLES} of two, got {counts}")
    shares, roles = restored(tree, effects.relevance), by_role(tree)
    layers = {c: by_layer(of_examples(shares, c)) for c in TEXT_COMPONENTS}
    kinds = [group.name for group in groups]

    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0)
    rows = [["questions", "total effect", "with relevance", *(f"{c.replace('_', ' ')}: strongest" for c in roles)]]
    for kind in kinds:
        where = []
        for c in roles:
            name, value, _ = strongest(of_type(roles[c], own, kind), ("layer", "role"))
            where.append(name if value is None else f"{name}: {value}")
        defined = of_type(layers[TEXT_COMPONENTS[0]], own, kind).notnull().any("layer").sum().item()
        rows.append([kind, str(mean(of_type(total, own, kind))), str(defined), *where])
    run.section(
        "Where",
        f"Indirect effects on P(answer), with {intervals_are()}. The strongest cell is chosen by one half of the"
        f" examples and measured on the other. Examples without relevance are those in which the noise takes away"
        f" less than {effects.THRESHOLD:g}.\n\n{table(*rows)}",
    )

    every = {c: {name: bounds(of_type(layers[c], source, name), SHARE) for name in names} for c in layers}
    typed = {c: {kind: bounds(of_type(layers[c], own, kind), SHARE) for kind in kinds} for c in layers}
    o = run.options
    settings = (
        f"{o.noise[0]}, ν = {o.nu[0]:g}, {o.draws} draws; 95 % intervals; layers that restore by construction left out"
    )
    run.figure("datasets", profiles(every, "relevance, mean over tokens", settings))
    for at in range(0, len(kinds), MOST_LINES):
        some = {c: {kind: typed[c][kind] for kind in kinds[at : at + MOST_LINES]} for c in typed}
        run.figure(
            f"types{'' if not at else at // MOST_LINES + 1}", profiles(some, "relevance, mean over tokens", settings)
        )
    kept = {f"{what}/{c}": xr.concat(list(found[c].values()), xr.Variable(what, list(found[c])))
            for what, found in (("dataset", every), ("type", typed)) for c in found}  # fmt: skip
    run.keep("profiles", xr.DataTree.from_dict(kept))

    parts = [(c, name) for c in layers for name in names]
    level = of_several(len(parts))
    late, follow, rows = {}, {}, [["data set", "later minus earlier half", "follows the others"]]
    for c, name in parts:
        mine, label = of_type(layers[c], source, name), f"{name}, {c.replace('_', ' ')}"
        others = layers[c].isel(example=np.flatnonzero(source != name))
        halves = mean(later_minus_earlier(mine), SHARE, level)
        r = mean(follows(mine, others), (-1.0, 1.0), level)
        late[label] = above(halves, 0, "later minus earlier half of the layers")
        follow[label] = above(r, 0, "correlation with the mean profile of the other data sets")
        rows.append([label, str(halves), str(r)])
    pairs = [(c, a, b) for c in layers for a, b in combinations(names, 2)]
    cells = sum(layers[c].sizes["layer"] for c, _, _ in pairs)
    same, differences = {}, [["difference", "layer", "relevance"]]
    for c, a, b in pairs:
        found = compared(of_type(layers[c], source, a), of_type(layers[c], source, b), False, of_several(cells))
        label = f"{a} − {b}, {c.replace('_', ' ')}"
        same[label] = alike(found, MARGIN, label)
        for layer in found.layer.values.tolist():
            one = found.sel(layer=layer)
            differences.append([label, str(layer), f"{one.difference:+z.3f} [{one.low:+z.3f}, {one.high:+z.3f}]"])
    run.section(
        "Do data sets agree?",
        f"Relevance of layers; intervals of each table hold together with 95 %.\n\n{table(*rows)}\n\n"
        f"Differences of mean profiles; taken for none within ±{MARGIN:g}:\n\n{table(*differences)}",
    )
    run.claim("late", everywhere(late))
    run.claim("follow", everywhere(follow))
    run.claim("same", everywhere(same))
    run.claim("role", same_role({name: best_role(of_type(roles["question_encoder"], source, name)) for name in names}))


EXPERIMENT = Experiment(
    name="cross_dataset",
    question="Does the layer-wise pattern hold on other data sets?",
    claims={
        "late": "In every data set, later layers matter more than earlier ones, in both components",
        "follow": "Examples of every data set have a profile over layers like that of the other data sets",
        "same": f"The mean relevance of every layer differs by less than {MARGIN:g} between data sets",
        "role": "The strongest role of the question encoder is the same in every data set",
    },
    run=run,
    figure="datasets",
    defaults=Defaults(n=10),
    needs=("types", "images"),
    sets=2,
)

if __name__ == "__main__":
    from nnblip.command.cli import main

    raise SystemExit(main(["experiment", __file__, *sys.argv[1:]]))
