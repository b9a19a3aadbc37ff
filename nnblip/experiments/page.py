"""The page about all experiments: question, command, figure, answer on the bundled model, time. Made of what ran."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from nnblip.experiments.claims import sentence
from nnblip.experiments.record import write
from nnblip.experiments.run import SUMMARY, Run

PAGE, FIGURES = "README.md", "figures"


def write_page(runs: Mapping[str, Run], folder: Path) -> Path:
    """README.md in a folder, with a figure of each experiment in `figures/`.

    Args:
        runs: finished runs by the names of their experiments.
        folder: where; what an earlier call made there is replaced.
    """
    parts = []
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, run in runs.items():
        figure = f"{name}.png"
        shutil.copyfile(run.out / f"{run.experiment.figure}.png", folder / FIGURES / figure)
        parts.append(_part(run, figure))
    total = sum(run.record.cpu for run in runs.values())
    model = next(run for run in runs.values() if not run.experiment.planted).model.name
    text = f"""# Experiments

One runnable file per question. Each chooses questions that the model answers correctly, traces them, and writes its
datasets (zarr), figures and `summary.md`, whose sentences are computed from the numbers. All of them take the same
options (`nnblip experiment --help`), go on where they were when the same command is given again, and run on any other
model and data set: `--model Salesforce/blip-vqa-base --dataset cocoqa:FOLDER --images download`.

`nnblip experiment` prints the list; `nnblip experiment NAME` and `python experiments/NAME.py` do the same.
This page was made by `nnblip experiment --all`, of {model}, in {total / 60:.0f} minutes of one
processor.

"holds" and "fails": the whole 95 % interval, or a corrected test, says so; "not established": it does not, with these
numbers of examples. What speaks against the numbers stands in each summary, and is part of them.

{chr(10).join(parts)}"""
    write(folder / PAGE, text)
    return folder / PAGE


def _part(run: Run, figure: str) -> str:
    claims = "\n".join(sentence(said, run.verdicts[name]) for name, said in run.experiment.claims.items())
    return f"""## {run.experiment.name}: {run.experiment.question}

```bash
nnblip experiment {run.experiment.name}
```

{run.settings} {run.record.cpu / 60:.1f} minutes of one processor.

![{run.experiment.question}]({FIGURES}/{figure})

{claims}
"""


def summaries(runs: Mapping[str, Run]) -> list[Path]:
    """Where the summaries are."""
    return [run.out / SUMMARY for run in runs.values()]
