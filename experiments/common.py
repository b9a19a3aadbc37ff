"""What the experiments share: arguments, questions that the model reads correctly, tables and axes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nnblip
from nnblip import effects
from nnblip.datasets import Dataset, correct, open_dataset
from nnblip.datasets.records import lot
from nnblip.effects.intervals import MIN_DRAWS, MIN_EXAMPLES

#: Okabe and Ito's colours and a marker each, for lines that must be told apart.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
          ("#6B4226", "X"), ("0.5", "*")]  # fmt: skip

# ---- arguments -------------------------------------------------------------------------------


def parser(doc: str | None, n: int, per: str, draws: int) -> argparse.ArgumentParser:
    """The arguments of every experiment on data sets."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="a new folder, or that of the same command: it goes on")
    made.add_argument("--dataset", nargs="+", default=["scenes", "easy-vqa"], help="as in: nnblip sweep DATASET")
    made.add_argument("--images", help='folder of the pictures, or "download"')
    made.add_argument("--model", help="hub id or folder; by default the small model")
    made.add_argument("--n", type=int, default=n, help=f"how many questions of each {per}")
    made.add_argument("--draws", type=int, default=draws)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="auto")
    made.add_argument("--dtype", default="float32")
    return made


def load(args: argparse.Namespace) -> nnblip.BlipVQA:
    return nnblip.BlipVQA(args.model, device_map=args.device, dtype=args.dtype)


def opened(args: argparse.Namespace) -> dict[str, Dataset]:
    """The data sets by their names, "palit:color_coco_qa.csv" as "palit"; each question of an image once."""
    names = [spec.partition(":")[0] for spec in args.dataset]
    if len(set(names)) < len(names):
        raise nnblip.NnblipError(f"--dataset {' '.join(args.dataset)}: expected one of each kind; run them one by one")
    # where there are several, the folder is for those that do not bring their own pictures
    images = [args.images if ":" in spec or len(names) == 1 else None for spec in args.dataset]
    every = zip(names, args.dataset, images, strict=True)
    return {name: open_dataset(spec, images=where).distinct() for name, spec, where in every}


# ---- questions that the model reads correctly ------------------------------------------------


@dataclass
class Questions:
    """The questions of one group with what was passed over before there were enough of them."""

    group: str
    ids: list[str]
    wrong: int = 0
    unreadable: int = 0
    unaligned: int = 0

    @property
    def tried(self) -> int:
        return len(self.ids) + self.wrong + self.unreadable + self.unaligned


def first_correct(
    model: nnblip.BlipVQA, examples: Iterable[nnblip.Example], n: int, group: str, aligned: bool = False
) -> Questions:
    """Go through the examples in order until n of them were answered correctly.

    With `aligned`, only questions without a word in several pieces, of as many tokens as the first one kept.
    """
    found, length = Questions(group, []), None
    for example in examples:
        if len(found.ids) == n:
            break
        chosen = correct(model, Dataset.of(group, [example]), progress=False)
        if chosen.problems or chosen.left_out:
            found.unreadable += len(chosen.problems)
            found.wrong += len(chosen.left_out)
            continue
        if aligned:
            tokens = model.processor.tokenizer.tokenize(example.question)
            if any(token.startswith("##") for token in tokens) or length not in (None, len(tokens)):
                found.unaligned += 1
                continue
            length = len(tokens)
        found.ids.append(str(example.id))
    return found


def by_type(model: nnblip.BlipVQA, sets: dict[str, Dataset], n: int, seed: int, most: int = 50) -> list[Questions]:
    """For each type of each data set, n questions in an order that the seed draws; of n · `most` at most."""
    found = []
    for name, dataset in sets.items():
        types: dict[str, list[nnblip.Example]] = {}
        for example in dataset:
            types.setdefault(type_of(example, name, sets), []).append(example)
        for kind, examples in types.items():
            drawn = sorted(examples, key=lambda example: lot(seed, example.id))
            found.append(first_correct(model, islice(drawn, n * most), n, kind))
    return found


def type_of(example: nnblip.Example, name: str, sets: dict[str, Dataset]) -> str:
    """Types of different data sets are told apart: their questions are worded and answered differently."""
    kind = example.question_type or "no type"
    return f"{kind} ({name})" if len(sets) > 1 else kind


def remembered(args: argparse.Namespace, choose: Callable[[], list[Questions]]) -> list[Questions]:
    """What `choose` gives, kept in --out: the same command does not ask the model again."""
    path = args.out / "chosen.json"
    # of these alone does the choice depend; that model and data are still the same, sweep makes sure
    asked = {name: getattr(args, name) for name in ("dataset", "images", "model", "n", "seed", "dtype")}
    if path.exists() and (kept := json.loads(path.read_text()))["asked"] == asked:
        return [Questions(**one) for one in kept["chosen"]]
    chosen = choose()
    if not any(one.ids for one in chosen):
        raise nnblip.NnblipError(f"the model answers none of {sum(one.tried for one in chosen)} questions correctly")
    args.out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")  # a stopped run leaves no half of a file
    partial.write_text(json.dumps({"asked": asked, "chosen": [vars(one) for one in chosen]}, indent=1) + "\n")
    partial.replace(path)
    return chosen


def examples_of(chosen: list[Questions], sets: dict[str, Dataset]) -> Dataset:
    """The chosen examples, read anew, each with the name of its group as its type."""
    group = {name: one.group for one in chosen for name in one.ids}
    # to the end of every data set, so that all rows that cannot be used are known to `passed_over`
    found = [e for dataset in sets.values() for e in dataset if e.id in group]
    name = " and ".join(dataset.name for dataset in sets.values())
    return Dataset.of(name, [replace(example, question_type=group[str(example.id)]) for example in found])


def passed_over(chosen: list[Questions], sets: dict[str, Dataset]) -> str:
    """A table of what was chosen and what was not."""
    rows = [["questions", "chosen", "tried", "answered wrongly", "tokens do not align", "not readable"]]
    for one in chosen:
        rows.append([one.group, *map(str, (len(one.ids), one.tried, one.wrong, one.unaligned, one.unreadable))])
    broken = [f"{len(dataset.problems)} of {name}" for name, dataset in sets.items() if dataset.problems]
    told = f" Rows that the reader could not use: {', '.join(broken)}." if broken else ""
    return f"{table(*rows)}\n\nA question that is asked again of the same image counts once.{told}"


# ---- texts and figures -----------------------------------------------------------------------


def bounds(values: xr.DataArray, support: tuple[float, float] | None = None) -> np.ndarray:
    """Mean over the examples and its 95 % interval, or over the draws where there is one example: (..., 3).

    Args:
        values: with the dimension example; draws are averaged first.
        support: the range of the values, [-1, 1] if it is not given and they lie in it.
    """
    found = effects.interval(values, support=support)
    found = found.isel(example=0) if "example" in found.dims else found
    return np.stack([np.asarray(found[name]) for name in ("value", "low", "high")], -1)


def interval(bounds: np.ndarray | tuple[float, float, float], sign: str = "+") -> str:
    mean, low, high = bounds
    if np.isnan(mean):
        return ""
    return f"{mean:{sign}z.3f} " + ("(too few)" if np.isnan(low) else f"[{low:{sign}z.3f}, {high:{sign}z.3f}]")


def intervals_are(examples: int) -> str:
    """Of what the intervals of a summary are, and what stands in their place."""
    over, least = ("the draws of the one example", MIN_DRAWS) if examples == 1 else ("examples", MIN_EXAMPLES)
    return f"95 % intervals over {over}; too few: fewer than {least}, or of which hardly any differ"


def diagnoses(**trees: xr.DataTree) -> str:
    """A section of a summary: what speaks against the numbers of each result (`nnblip.diagnose`)."""
    found = [(name, finding) for name, tree in trees.items() for finding in nnblip.diagnose(tree)]
    lines = [f"- {name}: {finding}" if len(trees) > 1 else f"- {finding}" for name, finding in found]
    return "## What speaks against these numbers\n\n" + ("\n".join(lines) or "Nothing that `nnblip.diagnose` knows of.")


def table(*rows: list[str]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def tidy(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8, width=0.6, length=3 if x else 0)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, axes: Axes) -> None:
    """Below all panels, in as many columns as there is room for."""
    handles = axes.get_legend_handles_labels()
    for columns in (3, 2, 1):
        made = figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        if made.get_window_extent().width <= figure.bbox.width:
            return
        if columns > 1:
            made.remove()
