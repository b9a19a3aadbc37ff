#!/usr/bin/env python
"""What do the diagnoses find: in results with one fault each, and in sound ones? Counted, as Markdown.

    python scripts/calibrate_diagnosis.py                # ten minutes; stopped, the same command goes on
    python scripts/calibrate_diagnosis.py --n 5          # fewer sound traces

Sound traces are of generated scenes that the model answers rightly, under noise "shuffle" at ν = 0.5, with 20
draws, and a mean total effect of at least 0.1: nothing else is asked of them. Faults are those of the tests
(tests/helpers/faults.py), each made in results of other numbers, and those that settings make in traces of the
bundled scenes. What is done is kept in build/diagnosis.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.faults import FAULTS, sound  # noqa: E402

import nnblip  # noqa: E402
from nnblip.diagnosis.findings import LEVELS  # noqa: E402

BUILD = ROOT / "build/diagnosis.json"
#: What makes a trace sound, and how many scenes are looked at for it.
SOUND: dict[str, Any] = dict(nu=0.5, noise="shuffle", draws=20, progress=False)
HURT, POOL, SEEDS = 0.1, 400, 20
#: Faults that settings make, and the finding that names each.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "multiplicative, ν = 0.1": ("weak corruption", dict(nu=0.1, draws=12)),
    "multiplicative, ν = 30": ("damage out of distribution", dict(nu=30, draws=12)),
    "multiplicative, ν = 3, 2 draws": ("too few draws or examples", dict(nu=3, draws=2)),
    "shuffle, ν = 0.5, another answer": ("answered wrongly", dict(SOUND, draws=12)),
}


def kept(name: str, compute: Callable[[], Any]) -> Any:
    """What was computed once."""
    known = json.loads(BUILD.read_text()) if BUILD.exists() else {}
    if name not in known:
        known[name] = compute()
        BUILD.parent.mkdir(exist_ok=True)
        part = BUILD.with_suffix(".partial")
        part.write_text(json.dumps(known))
        part.replace(BUILD)
    return known[name]


def found_in(findings: Iterable[nnblip.diagnosis.Finding]) -> list[list[str]]:
    return [[one.name, one.level] for one in findings]


def quiet(n: int) -> None:
    """How many of `n` sound traces have nothing above a note."""
    model = nnblip.BlipVQA()
    scenes = nnblip.datasets.open_dataset("scenes").sample(POOL, 7)
    rows: list[list[list[str]]] = []
    looked = 0
    for scene in scenes:

        def trace(scene: nnblip.Example = scene) -> Any:
            own = replace(scene, answer=None)
            if model.answer(scene.image, scene.question).text != scene.answer:
                return None
            bare = nnblip.causal_trace(model, [own], components=["answer_decoder"], **SOUND)
            total = float(nnblip.total_effect(bare)["corrupted"].probability.mean())
            return total, found_in(nnblip.diagnose(nnblip.causal_trace(model, [own], **SOUND))) if total >= HURT else []

        looked += 1
        known = kept(f"sound {scene.id}", trace)
        if known and known[0] >= HURT:
            rows.append(known[1])
        if len(rows) == n:
            break
    loud = [row for row in rows if any(level != LEVELS[0] for _, level in row)]
    print(f"- {len(rows) - len(loud)} of {len(rows)} sound traces ({looked} scenes looked at) have notes at most.")
    for (name, level), count in Counter((name, level) for row in loud for name, level in row).items():
        if level != LEVELS[0]:
            print(f"  - {level}: {name}, {count} times")


def faults() -> None:
    """How many of the faults are found by name, and in how many results something else is claimed."""
    found = other = total = 0
    for seed in range(SEEDS):
        whole = sound(seed=seed)
        for fault, (name, least, make) in FAULTS.items():

            def look(whole: Any = whole, name: str = name, make: Any = make) -> Any:
                changed = make(whole)
                return found_in(nnblip.diagnose(*((whole, changed) if name == "noises disagree" else (changed,))))

            rows = kept(f"fault {fault} {seed}", look)
            total += 1
            found += any(one == name and LEVELS.index(level) >= LEVELS.index(least) for one, level in rows)
            other += any(one != name and level != LEVELS[0] for one, level in rows)
    print(f"- {len(FAULTS)} faults in {SEEDS} results each: {found} of {total} found by name and level,")
    print(f"  and in {other} another warning beside it.")


def settings() -> None:
    """The faults that settings make."""
    model = nnblip.BlipVQA()
    for what, (name, asked) in SETTINGS.items():
        count, examples = 0, nnblip.demo.examples()
        for number, example in enumerate(examples):

            def look(example: Any = example, asked: dict[str, Any] = asked, name: str = name) -> Any:
                other = "red" if model.answer(example.image, example.question).text != "red" else "blue"
                asks = replace(example, answer=other) if name == "answered wrongly" else example
                return found_in(nnblip.diagnose(nnblip.causal_trace(model, [asks], **{**asked, "progress": False})))

            rows = kept(f"setting {what} {number}", look)
            count += any(one == name and level != LEVELS[0] for one, level in rows)
        print(f"- {what}: {name} in {count} of {len(examples)} bundled scenes.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50, help="sound traces")
    many = parser.parse_args().n
    faults()
    settings()
    quiet(many)
