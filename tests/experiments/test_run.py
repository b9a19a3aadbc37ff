"""What a run keeps is not computed twice, and its summary says something of every claim."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import xarray as xr
from matplotlib.figure import Figure

from nnblip.errors import NnblipError, ResultError
from nnblip.experiments import Experiment, Run, index
from nnblip.experiments.claims import HOLDS, OPEN, Verdict
from nnblip.experiments.record import Record
from nnblip.experiments.run import files
from nnblip.sweeps import fingerprint


@pytest.fixture
def run(tmp_path):
    made = Experiment("mine", "Is it so?", {"a": "It is so", "b": "It is | not"}, lambda run: None, "figure")
    options = made.options(tmp_path)
    return Run(made, options, [], SimpleNamespace(name="a model"), Record("mine", options))  # type: ignore[arg-type]


def test_a_stage_is_made_once_and_not_taken_from_other_code(run, monkeypatch):
    made: list[int] = []

    def make() -> xr.Dataset:
        made.append(1)
        return xr.Dataset({"x": ("example", [1.0, 2.0])})

    first, again = (run.stage("pairs/0000", make)["x"].values.tolist() for _ in range(2))
    assert first == again == [1.0, 2.0] and len(made) == 1
    later = Run(run.experiment, run.options, [], run.model, run.record)
    assert later.stage("pairs/0000", make)["x"].values.tolist() == first and len(made) == 1
    monkeypatch.setattr(fingerprint, "source_hash", lambda: "other")
    later = Run(run.experiment, run.options, [], run.model, run.record)
    with pytest.raises(ResultError, match="made by other code of nnblip or of the experiment: choose another folder"):
        later.stage("pairs/0000", make)
    (run.out / "broken.zarr").mkdir()
    with pytest.raises(ResultError, match=r"is damaged .* remove it"):
        run.stage("broken", make)


def test_a_stage_is_not_taken_from_another_version_of_the_experiment(run, tmp_path):
    file = tmp_path / "mine.py"
    code = """
from nnblip.experiments import Experiment

def run(run):
    {}return 1{}

EXPERIMENT = Experiment("mine", "Is it so?", {{"a": "It is so"}}, run, "figure")
"""

    def stage(value: float, before: str, after: str) -> float:
        file.write_text(code.format(before, after))
        later = Run(index.load(str(file)), run.options, [], None, run.record)
        return float(later.stage("it", lambda: xr.Dataset({"x": value}))["x"])

    assert stage(1.0, "", "") == 1 == stage(2.0, "# why it is so\n    ", ""), "a comment is no other code"
    with pytest.raises(ResultError, match="or of the experiment"):
        stage(3.0, "", " + 1")


def test_what_is_computed_is_replaced_and_listed(run):
    for value in (1.0, 2.0):
        run.keep("maps", xr.Dataset({"x": ((), value)}))
        run.figure("figure", Figure())
    assert xr.open_datatree(run.out / "maps.zarr")["x"].item() == 2
    assert [path.name for path in files(run.out)] == ["summary.md", "figure.png", "maps.zarr"]


def test_a_summary_ends_with_every_claim(run):
    run.section("Seen", "A picture.")
    run.claim("a", Verdict(HOLDS, "x: +1.000"))
    with pytest.raises(NnblipError, match="mine says nothing of its claims b"):
        run.summary()
    run.claim("b", Verdict(OPEN, "too few"))
    text = run.summary()
    assert text.startswith(
        "# Is it so?\n\na model (float32) on scenes, easy-vqa; noise multiplicative, ν = 3, 10 draws"
    )
    assert "## Seen\n\nA picture.\n" in text and "Nothing that `nnblip.diagnose` knows of." in text
    assert text.endswith("- **holds**: It is so (x: +1.000)\n- **not established**: It is | not (too few)\n")
    with pytest.raises(NnblipError, match="claim 'c' is unknown"):
        run.claim("c", Verdict(OPEN, ""))
