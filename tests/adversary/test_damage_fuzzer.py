"""Random damage to stored results: it changes nothing, or `check` names it and the sweep mends it or says what to do.

`python -m pytest tests/adversary --cases 5000 --seed 7` tries more, and others.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from helpers.sweeps import Scenes, files, status

import nnblip
from nnblip.errors import NnblipError, ResultError
from nnblip.sites import windows
from nnblip.sweeps import agenda
from nnblip.sweeps import store as store_module
from nnblip.sweeps.verify import check_stored
from nnblip.tracing import provenance

ASKED = dict(nu=[1.0, 5.0], draws=1, components=["question_encoder"], cells=windows([3]))
#: What a refusal tells to do.
REMEDIES = ("move", "choose another", "remove", "go back")


# --- the stores ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(model, tmp_path_factory):
    """A sweep of four examples that is finished, one that was stopped, one without lists, and a plain result."""
    folder, patch, kept = tmp_path_factory.mktemp("stores"), pytest.MonkeyPatch(), {}
    trace = agenda.trace_example

    def once(model, settings, example, tick):
        key = example.id, settings.nu
        if example.id == "q1":
            raise ValueError("an example that fails")
        if key not in kept:
            kept[key] = trace(model, settings, example, tick)
        return kept[key]

    def stopped(*args):
        if args[2].id == "q3":
            raise KeyboardInterrupt
        return once(*args)

    patch.setattr(store_module, "LEAST_CHUNKS", 2)  # blocks of two examples
    clock = pytest.MonkeyPatch()  # all of them are made at the same time
    clock.setattr(provenance, "datetime", SimpleNamespace(now=lambda _: datetime(2026, 1, 1)))
    patch.setattr(agenda, "trace_example", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, folder / "stopped.zarr")
    patch.setattr(agenda, "trace_example", once)
    sweep(model, folder / "finished.zarr")
    shutil.copytree(folder / "finished.zarr", folder / "old.zarr")
    shutil.rmtree(folder / "old.zarr" / ".checksums")
    nnblip.results.save(nnblip.causal_trace(model, Scenes.of(3), **ASKED), folder / "plain.zarr")
    clock.undo()
    yield folder
    patch.undo()


def sweep(model, out):
    return nnblip.sweep(model, Scenes.of(4), out, **ASKED)


def content(path: Path) -> dict[str, object]:
    """All that a reader of a result sees."""
    seen: dict[str, object] = {}
    with xr.open_datatree(path, engine="zarr") as tree:
        for node in tree.subtree:
            seen[node.path] = dict(node.attrs)
            for name, variable in node.to_dataset(inherit=False).variables.items():
                values = variable.values
                told = values.tobytes() if values.dtype.kind in "fiub" else values.tolist()
                seen[f"{node.path}/{name}"] = variable.dims, values.shape, told, dict(variable.attrs)
    return seen


def reads(path: Path, wanted: dict[str, object]) -> bool:
    try:
        return content(path) == wanted
    except Exception:  # a reader cannot open it
        return False


# --- the damages ---------------------------------------------------------------------------


def flip(rng, file, _):
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 8]) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(rng, file, _):
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))] if data else b"")


def zeros(rng, file, _):
    """As after a power cut: the file has its length, and nothing in it."""
    file.write_bytes(bytes(file.stat().st_size))


def delete(rng, file, _):
    file.unlink()


def delete_folder(rng, file, _):
    shutil.rmtree(file.parent if file.parent.suffix != ".zarr" else file.parent / "clean")


def by_folder(rng, file, _):
    file.unlink()
    file.mkdir()
    if rng.random() < 0.2:
        (file / "thesis.txt").write_text("precious")


def swap(rng, file, others):
    other = rng.choice([one for one in others if one.parent == file.parent and one != file] or others)
    data = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(data)


def swap_any(rng, file, others):
    swap(rng, file, [one for one in others if one.parent != file.parent] or others)


def copy_over(rng, file, others):
    file.write_bytes(rng.choice(others).read_bytes())


def edit(rng, file, _):
    """A digit becomes another, so that what is text stays readable."""
    data = bytearray(file.read_bytes())
    digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    if digits:
        place = rng.choice(digits)
        data[place] = ord(rng.choice(sorted(set("0123456789") - {chr(data[place])})))
    file.write_bytes(data)


def plant(rng, file, others):
    shutil.copy(
        rng.choice(others), file.with_name(rng.choice(["9", "9.0.0", "zarr.json", ".zgroup", ".zarray", "7.0.0.0"]))
    )


DAMAGES = [flip, truncate, zeros, delete, delete_folder, by_folder, swap, swap_any, copy_over, edit, plant]


def harm(rng: random.Random, path: Path) -> str:
    every = sorted(file for file in path.rglob("*") if file.is_file())
    # chunks are many: metadata, what all share and lists have their turn too
    some = {
        "any": every,
        "metadata": [file for file in every if file.name.startswith(".z")],
        "shared": [
            file for file in every if file.parent.name in ("nu", "draw", "kind", "layer", "token", "cell", "head")
        ],
        "lists": [file for file in every if file.parent.name == ".checksums"],
    }
    files = some[rng.choices(list(some), [5, 3, 2, 1])[0]] or every
    damage, file = rng.choice(DAMAGES), rng.choice(files)
    damage(rng, file, [one for one in files if one != file] or every)
    return f"{damage.__name__} {file.relative_to(path)}"


# --- the promise ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damage_is_without_effect_or_named_and_mended_or_refused_with_a_remedy(
    model, stores, tmp_path, pytestconfig, figures
):
    cases, seed = pytestconfig.getoption("cases"), pytestconfig.getoption("seed")
    names = ["finished", "finished", "stopped", "plain", "old"]
    before = {name: content(stores / f"{name}.zarr") for name in names}
    whole, counts, wrong = before["finished"], Counter[str](), list[str]()
    assert status(stores / "stopped.zarr") == ["done", "failed", "done", "pending"]
    for case in range(cases):
        rng, name = random.Random(f"{seed} {case}"), names[case % len(names)]
        out = shutil.copytree(stores / f"{name}.zarr", tmp_path / "case.zarr")
        said = f"case {case} of --seed {seed}: {name}: {harm(rng, out)}"
        outcome = judge(model, out, before[name], None if name == "plain" else whole, name == "old")
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("WRONG"):
            wrong.append(f"{said}: {outcome}")
        shutil.rmtree(out)
    told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    figures(f"damage fuzzer: {cases} cases of seed {seed}: {told}")
    assert not wrong, "\n".join(wrong)
    assert cases < 100 or (counts["named, mended"] > cases / 3 and counts["named, refused"] > 0)


def judge(model, out: Path, before: dict[str, object], whole: dict[str, object] | None, old: bool) -> str:
    """What becomes of a damaged result: what it was before, and what a finished sweep of it has in the end."""
    lines, there = list[str](), files(out)
    named = not check_stored(out, lines.append)
    if files(out) != there:
        return "WRONG: check has changed something"
    if not named and not reads(out, before):
        return "unnamed, old" if old else f"WRONG: not named ({lines})"
    if whole is None:
        return "named (plain)" if named else "without effect"
    try:
        sweep(model, out)
    except ResultError as error:
        if not any(remedy in str(error).lower() for remedy in REMEDIES):
            return f"WRONG: no remedy in {str(error)!r}"
        return "named, refused" if named else "WRONG: refused, and not named"
    except NnblipError as error:
        return f"WRONG: {error!r}"
    if not reads(out, whole):
        return "unmended, old" if old else "WRONG: not mended, and not refused"
    if not check_stored(out, lines.append) or list(out.rglob("*.partial")):
        return f"WRONG: after mending: {lines}"
    return "named, mended" if named else "without effect"


@pytest.mark.slow
def test_the_judge_can_be_strict(model, stores, tmp_path):
    """It calls a change that nobody names wrong, and one that is not mended."""
    out = shutil.copytree(stores / "old.zarr", tmp_path / "case.zarr")
    before = content(out)
    other = {**before, "/nu": ("nu",)}
    assert judge(model, out, before, before, False) == "without effect"
    assert judge(model, out, other, before, False).startswith("WRONG: not named")
    assert judge(model, out, before, other, False) == "WRONG: not mended, and not refused"
    assert np.isfinite(xr.open_datatree(out)["clean"].probability.values[0])
