#!/usr/bin/env python
"""Where do the answers to the dozen bundled scenes come from, by type of question?

    python experiments/bundled_scenes.py --out build/bundled_scenes

Runs offline in a minute on the small model. Writes the dataset (`result.zarr`), two
heatmaps for each scene, Γ(ν) over all of them, and `summary.md`, computed from the
numbers: per type of question the total effect, and per component the layer at which
restoring one state brings most back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from common import bounds, diagnoses, interval, intervals_are, table

import nnblip
from nnblip import effects


def summary(result: xr.DataTree, nu: float) -> str:
    """A Markdown table, a row for all and for each type of question."""
    total = nnblip.total_effect(result)["corrupted"].probability.sel(nu=nu)
    indirect, given = nnblip.indirect_effect(result), effects.structural(result)
    lines = [["questions", "scenes", "total effect", "question encoder: best layer", "answer decoder: best layer"]]
    types = sorted(set(result.question_type.values))
    for kind in ["all", *types]:
        chosen = np.flatnonzero((result.question_type == kind) | (kind == "all"))
        cells = [kind, str(len(chosen)), interval(bounds(total.isel(example=chosen)))]
        for component in ("question_encoder", "answer_decoder"):
            effect = indirect[component].probability.where(~given[component].structural).sel(nu=nu, kind="block")
            by_layer = effect.mean("draw").isel(example=chosen).max("token")
            best = int(by_layer.mean("example").idxmax("layer"))
            cells.append(f"{best}: {interval(bounds(by_layer.sel(layer=best)))}")
        lines.append(cells)
    return f"""{result.sizes["example"]} scenes, {result.attrs["model"]}, ν = {nu:g}, {result.sizes["draw"]} draws. \
Means over scenes of means over draws, with {intervals_are(len(result.example))}.

{table(*lines)}

The best layer is that whose best token of each scene gives most back: the best of many, so rather too large. Cells \
that restore by construction, such as the answer decoder's last layer, are left out.

{diagnoses(result=result)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--model", help="hub id or folder; by default the small model")
    parser.add_argument("--nu", type=float, nargs="+", default=[1.0, 3.0, 5.0, 10.0])
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    model = nnblip.BlipVQA(args.model)
    result = nnblip.causal_trace(model, nnblip.demo.examples(), nu=args.nu, draws=args.draws)
    nnblip.results.save(result, args.out / "result.zarr")
    shown = 5.0 if 5.0 in args.nu else max(args.nu)
    for number, example in enumerate(result.example.values):
        for component in ("question_encoder", "answer_decoder"):
            figure = nnblip.plot.heatmap(result, component, nu=shown, example=example)
            figure.savefig(args.out / f"scene{number:02d}_{component}.png", dpi=200)
    nnblip.plot.gamma(result).savefig(args.out / "gamma.png", dpi=200)
    text = summary(result, shown)
    (args.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
