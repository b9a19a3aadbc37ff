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

import xarray as xr

import nnblip


def summary(result: xr.DataTree, nu: float) -> str:
    """A Markdown table, one row for each type of question."""
    total = nnblip.total_effect(result)["corrupted"].probability.sel(nu=nu).mean("draw")
    indirect = nnblip.indirect_effect(result)
    lines = [
        f"Means over scenes and {result.sizes['draw']} draws at ν = {nu:g}; the best token of each layer.",
        "",
        "| question | scenes | total effect | question encoder: best layer | answer decoder: best layer |",
        "|---|---|---|---|---|",
    ]
    for kind in sorted(set(result.question_type.values)):
        chosen = result.question_type == kind
        cells = [kind, str(int(chosen.sum())), f"{float(total[chosen].mean()):.3f}"]
        for component in ("question_encoder", "answer_decoder"):
            effect = indirect[component].probability.sel(nu=nu, kind="block").mean("draw")
            by_layer = effect[chosen].max("token").mean("example")
            cells.append(f"{int(by_layer.idxmax('layer'))} ({float(by_layer.max()):+.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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
