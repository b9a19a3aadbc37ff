"""Bad input, over command and API: each is refused in one line, word for word, with exit code 2, and writes nothing.

The tables are in `inputs/`. A row is what is given, at the margin, and below it, indented, what is said: of a
command the lines on stderr after "nnblip: " (a warning may come before the error), of the API the error's message.
`{name}` stands for one of `TEXTS`; "…" for what others say: Python, Pillow, transformers, cyclopts.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from adversary import ground
from PIL import Image

import nnblip
from nnblip import Example, Site, causal_trace, datasets, effects, plot, results, sites
from nnblip.command import cli
from nnblip.errors import NnblipError, NnblipWarning
from nnblip.noise import NOISES
from nnblip.sites import KINDS

HERE = Path(__file__).parent / "inputs"
ASK = "what is the color of the circle"
TEXTS = {
    "ask": ASK, "long": "x" * 300, "escape": "\x1b[31m", "what100": "what " * 100, "red100": "red " * 100,
    "kinds": ", ".join(KINDS), "noises": ", ".join(NOISES),
}  # fmt: skip


def rows(name: str) -> Iterator[tuple[str, str]]:
    """What is given and what is said, of a table."""
    for block in re.split(r"\n\n+", (HERE / f"{name}.txt").read_text().strip()):
        lines = [line for line in block.splitlines() if not line.startswith("# ")]
        if lines:
            yield lines[0], "\n".join(line.removeprefix("    ") for line in lines[1:])


TABLES = {path.stem: list(rows(path.stem)) for path in sorted(HERE.glob("*.txt"))}
EVERY = [
    pytest.param(given, said, id=f"{name}: {given}".encode("ascii", "backslashreplace").decode()[:100])
    for name, table in TABLES.items()
    for given, said in table
]


class Nan:
    """A noise after which nothing is a number."""

    name = "nan"

    def unit(self, shape, rng):
        return rng.random(shape, dtype=np.float32)

    def apply(self, embeds, unit, nu):
        return embeds * float("nan")


class Nameless(Nan):
    name = ""


class Short(Nan):
    name = "short"

    def unit(self, shape, rng):
        return np.zeros(3, np.float32)


@pytest.fixture(scope="module")
def world(model, tmp_path_factory) -> SimpleNamespace:
    """The names that rows of the API use, and the folder in which all is given."""
    folder = tmp_path_factory.mktemp("ground")
    ground.make(folder)
    pair = (str(folder / "scene.png"), ASK)
    with model.clean(*pair) as clean:
        pass
    tree = causal_trace(model, [pair], draws=1, progress=False)
    results.save(tree, folder / "taken.zarr")
    return SimpleNamespace(
        folder=folder, model=model, pair=("scene.png", ASK), pairs=[("scene.png", ASK)], clean=clean, tree=tree,
        nnblip=nnblip, causal_trace=causal_trace, Example=Example, Site=Site, sites=sites, datasets=datasets,
        results=results, effects=effects, plot=plot, np=np, torch=torch, Image=Image, ASK=ASK, Nan=Nan,
        Nameless=Nameless, Short=Short,
    )  # fmt: skip


@pytest.fixture
def here(world, monkeypatch) -> Path:
    """In that folder, without the hub, with the model that is loaded already where none is named."""
    load = cli.Model.load
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(world.folder / "state"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(cli.Model, "load", lambda self: world.model if self == cli.MODEL else load(self))
    return world.folder


@pytest.mark.parametrize(("given", "said"), EVERY)
def test_bad_input_is_refused_in_one_line(given, said, here, world, capfd):
    before = written(here)
    said = filled(said)
    if given.startswith("nnblip "):
        with warnings.catch_warnings():
            warnings.simplefilter("always", NnblipWarning)
            assert cli.main([filled(word) for word in shlex.split(given)[1:]]) == 2
        out, err = capfd.readouterr()
        assert not out
        assert_says(err, "".join(f"nnblip: {line}\n" for line in said.split("\n")))
    else:
        with pytest.raises(NnblipError) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore", NnblipWarning)
            evaluate(given, world)
        assert "\n" not in str(caught.value)
        assert_says(str(caught.value), said)
    assert written(here) == before


def evaluate(given: str, world: SimpleNamespace) -> Any:
    return eval(given, dict(vars(world)))


def filled(text: str) -> str:
    for name, value in TEXTS.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def assert_says(found: str, expected: str) -> None:
    if "…" not in expected:
        assert found == expected
    pattern = ".*".join(map(re.escape, expected.split("…")))
    assert re.fullmatch(pattern, found), f"said:     {found}\nexpected: {expected}"


def written(folder: Path) -> set[Path]:
    """The files of a folder, but for the locks, which stay where they are."""
    return {path for path in folder.rglob("*") if path.is_file() and ".lock-" not in path.name}


def test_there_are_rows_enough_and_each_is_there_once(figures):
    given = [row[0] for table in TABLES.values() for row in table]
    commands = sum(one.startswith("nnblip ") for one in given)
    assert len(set(given)) == len(given) >= 300 and commands >= 150
    assert all(said and "\t" not in said for table in TABLES.values() for _, said in table)
    figures(f"bad inputs: {len(given)} ({commands} commands, {len(given) - commands} calls), each refused in a line")


def test_what_is_right_is_taken(here, world, capfd):
    """The rows differ from these in what is wrong."""
    pairs, model = world.pairs, world.model
    assert cli.main(["answer", "scene.png", ASK]) == 0 and capfd.readouterr().out.startswith("yellow")
    one = causal_trace(model, pairs, nu=np.array(5.0), draws=np.int64(1), progress=False)
    assert one.nu.values.tolist() == [5.0]
    several = causal_trace(model, pairs, nu=np.array([1, 5]), draws=1, kinds="block", regions=None, progress=False)
    assert several.nu.values.tolist() == [1, 5]
    np.testing.assert_array_equal(several["corrupted"].probability.sel(nu=[5.0]), one["corrupted"].probability)
    assert float(abs(one["clean"].probability - one["corrupted"].probability).max()) > 0.1
    strongest = causal_trace(model, pairs, nu=1e6, draws=1, progress=False)
    assert np.isfinite(strongest["question_encoder"].probability).all()
