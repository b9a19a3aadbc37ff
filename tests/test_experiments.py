"""Every experiment runs offline and writes what it says."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers.figures import all_inside
from scipy.stats import ttest_ind

import nnblip

FOLDER = Path(__file__).parent.parent / "experiments"
EXPERIMENTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "common")
#: What makes an experiment small enough for a test.
SMALLER = {
    "multi_state": ["--n", "3", "--steps", "4"],
    "noise_level": ["--n", "1", "--noise", "multiplicative", "scale"],
    "question_types": ["--n", "8", "--dataset", "scenes"],
    "paper_heatmaps": ["--n", "3"],
}
#: Where the dataset is not result.zarr; those of a sweep, which the same command goes on with.
STORES = {
    "noise_level": ["multiplicative", "scale"],
    "question_types": ["result"],
    "paper_heatmaps": ["scenes", "easy-vqa"],
}
#: One of these is run twice: they go on through the same functions.
GOES_ON = "noise_level"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_writes_dataset_figures_and_summary(path, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(path), "--out", str(out), "--nu", "5", "--draws", "2", *SMALLER.get(path.stem, [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stores = [out / f"{name}.zarr" for name in STORES.get(path.stem, ["result"])]
    assert xr.open_datatree(stores[0]).sizes["draw"] == 2 and list(out.glob("*.png"))
    summary = (out / "summary.md").read_text()
    assert summary.strip() in done.stdout
    against = summary.partition("## What speaks against these numbers")[2]
    assert all(str(finding) in against for finding in nnblip.diagnose(nnblip.results.open_result(stores[0])))
    if check := globals().get(f"check_{path.stem}"):
        check(out, summary)
    if path.stem == GOES_ON:
        before = [numbers(store) for store in stores]
        again = subprocess.run(command, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert again.stdout == done.stdout
        assert [numbers(store) for store in stores] == before, "nothing is traced again"


def numbers(store: Path) -> dict[str, int]:
    """When each file of a sweep's numbers was written."""
    files = store.rglob("probability/[0-9]*")
    found = {str(file): file.stat().st_mtime_ns for file in files if file.is_file()}
    assert found
    return found


def check_bundled_scenes(out: Path, summary: str) -> None:
    result = xr.open_datatree(out / "result.zarr")
    total = nnblip.total_effect(result)["corrupted"].probability.sel(nu=5).mean("draw")
    color = float(total[result.question_type == "color"].mean())
    assert f"| color | 3 | {color:+.3f} (too few) |" in summary
    found = nnblip.effects.interval(nnblip.total_effect(result)["corrupted"].probability.sel(nu=5))
    mean, low, high = (float(found[name]) for name in ("value", "low", "high"))
    assert low < float(total.mean()) < high and mean == pytest.approx(float(total.mean()))
    assert f"| all | 12 | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |" in summary
    assert " 5: " not in summary.replace("question encoder", "").split("| color")[0].split("|")[-2], (
        "the decoder's last"
    )


def check_multi_state(out: Path, summary: str) -> None:
    result = xr.open_datatree(out / "result.zarr")
    single = result["question_encoder"].probability.sel(nu=5, kind="block").values
    corrupted = result["corrupted"].probability.sel(nu=5).values
    effect = np.stack([one - base[:, None, None] for one, base in zip(single, corrupted, strict=True)])
    row = next(line for line in summary.splitlines() if line.startswith("| 1 |")).split(" | ")
    for column, layers in ((1, slice(None)), (4, slice(5, 6)), (5, slice(4, 5))):  # all, the last, the one before
        mean = np.mean([np.nanmean(one[:, layers]) for one in effect])
        assert row[column].startswith(f"{mean:+z.3f} (too few)"), "windows of one layer are the map of single states"

    pair = xr.open_datatree(out / "pairs.zarr").to_dataset().mean(("example", "draw"))
    for name, extra in zip(pair.pair.values, pair.interaction.values, strict=True):
        first, second = name.split(" and ")
        alone = [float(pair.effect.sel(cell=one)) for one in (first, second)]
        assert extra == pytest.approx(float(pair.effect.sel(cell=name)) - sum(alone), abs=1e-6)
        if abs(extra) == np.abs(pair.interaction).max():
            assert f"| {name} | {alone[0]:+z.3f}, {alone[1]:+z.3f} | {extra:+z.3f} (too few)" in summary
    names = [f"{part} {layer}" for part in ("question encoder", "answer decoder") for layer in range(6)]
    assert pair.state.values.tolist() == names[:-1], "every layer but the decoder's last"

    sets = xr.open_datatree(out / "greedy.zarr").to_dataset()
    halves = {"chosen": 0, "fresh": 0}
    for example in sets.example.values:
        one = sets.sel(example=example)
        found = int((one.site != "").sum())
        row = f"| {found}: {', '.join(one.site.values[1 : found + 1])} |"
        for noise in ("chosen", "fresh"):
            means = one.probability.sel(noise=noise).mean("draw").values[: found + 1]
            shares = (means - means[0]) / (float(one.clean) - means[0])
            row += f" {shares[-1]:+z.2f} |"
            halves[noise] += shares[-1] >= 0.5
            if noise == "chosen":
                assert (shares[:-1] < 0.5).all() and (shares[-1] >= 0.5 or found == 4)
                assert means[1] >= single_blocks(result, example).max() - 1e-6, "the best state comes first"
        assert row in summary
    assert f"restore half in {halves['chosen']} of 3 examples" in summary
    assert f"and in {halves['fresh']} on fresh draws" in summary

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        plot_greedy = importlib.import_module("multi_state").plot_greedy
    long = sets.assign_coords(question=sets.question.astype(object) + " and " + "what stands beside it" * 2)
    for given in (sets, long):
        for size in (1, 2, 3):
            all_inside(plot_greedy(given.isel(example=slice(size))))


def single_blocks(result: xr.DataTree, example: str) -> np.ndarray:
    """Mean probability with each single block of the question encoder restored."""
    node = result["question_encoder"].probability.sel(example=example, nu=5, kind="block")
    return node.mean("draw").fillna(0.0).values


def check_noise_level(out: Path, summary: str) -> None:
    result, levels = xr.open_datatree(out / "multiplicative.zarr"), xr.open_datatree(out / "levels.zarr")
    clean, corrupted = result["clean"].probability.values, result["corrupted"].isel(nu=0)
    assert result.sizes["example"] == 7, "one of each type of both data sets"
    total = clean[:, None] - corrupted.probability.values
    behind = corrupted.logit_difference.values < 0
    lost = np.median(total.mean(1) / clean)
    restored = result["question_encoder"].probability.values[:, 0, :, 0]
    effect = restored - corrupted.probability.values[..., None, None]
    correlations = [np.corrcoef(*one[:, np.isfinite(one[0])])[0, 1] for one in effect]
    gamma = [np.nanmean(e.mean(0)) / t.mean() for e, t in zip(effect, total, strict=True) if t.mean() >= 0.05]
    rows = summary.split("## multiplicative")[1].splitlines()
    row = next(line for line in rows if line.startswith("| 5 |")).split(" | ")
    assert row[1] == f"{total.mean():+z.3f} (too few)" and row[2] == f"{lost:.2f}"
    assert row[3] == f"{behind.mean():.2f} to {(behind | (corrupted.probability.values <= 0.5)).mean():.2f}"
    # there are as many tokens in a map as its question has, so that each map has its own mean
    assert row[4] == f"{np.mean(gamma):+z.3f} (too few)"
    assert row[7] == f"{np.mean(correlations):+z.3f} (too few)"
    assert f"| all questions | {'5' if lost >= 0.5 else 'none'} | " in summary
    assert "6 draws" not in summary and xr.open_datatree(out / "scale.zarr").sizes["draw"] == 1
    stored = levels["multiplicative"]["overtaken"].sel(group="all questions", nu=5, bound="mean")
    assert float(stored) == pytest.approx(behind.mean())


def check_question_types(out: Path, summary: str) -> None:
    result, maps = xr.open_datatree(out / "result.zarr"), xr.open_datatree(out / "maps.zarr")
    node = result["question_encoder"]
    corrupted = result["corrupted"].probability.values[:, 0]
    effect = (node.probability.values[:, 0, :, 0] - corrupted[..., None, None]).mean(1)
    types, role = result.question_type.values, "function word"
    has = node.role.values == role
    by_example = {
        kind: np.array([effect[at][:, has[at]].mean(1) for at in np.flatnonzero(types == kind)])
        for kind in ("color", "location")
    }
    for kind, values in by_example.items():
        stored = maps["question_encoder"]["mean"].sel(type=kind, role=role)
        assert stored.values == pytest.approx(values.mean(0), abs=1e-6)
    pair = maps["question_encoder_pairs"].to_dataset().sel(pair="color - location")
    cells = int(pair.difference.notnull().sum())
    welch = ttest_ind(*by_example.values(), equal_var=False).confidence_interval(1 - 0.05 / cells)
    at = pair.sel(role=role)
    assert at.low.values == pytest.approx(welch.low, rel=1e-3, abs=1e-6)
    assert at.high.values == pytest.approx(welch.high, rel=1e-3, abs=1e-6)
    means = maps["question_encoder"]["mean"]
    others = [kind for kind in means.type.values if kind != "number"]
    expected = means.sel(type="number", role=role) - means.sel(type=others, role=role).mean("type")
    stored = maps["question_encoder_from_others"].difference.sel(type="number", role=role)
    assert stored.values == pytest.approx(expected.values, abs=1e-6)
    largest = pair.difference.values.flat[np.nanargmax(np.abs(pair.difference.values))]
    assert re.search(rf"\| color − location \| \S+ \| {re.escape(f'{largest:+z.3f}')} \[", summary)
    assert (out / "question_encoder_differences.png").exists()


def check_paper_heatmaps(out: Path, summary: str) -> None:
    for name in ("scenes", "easy-vqa"):
        asked = nnblip.datasets.open_dataset(name).where(question_type="color", words=7).distinct()
        result, mean = xr.open_datatree(out / f"{name}.zarr"), xr.open_datatree(out / f"mean_{name}.zarr")
        ids = [example.id for example, _ in zip(asked, range(3), strict=False)]
        assert result.example.values.tolist() == ids, "the small model answers the first three correctly"
        assert f"| {name} | 3 | 3 | 0 | 0 | 0 |" in summary
        part = summary.split(f"## {name}")[1].split("\n## ")[0]
        for column, component in ((1, "question_encoder"), (2, "answer_decoder")):
            restored = result[component].probability.values[:, 0, :, 0]
            every = restored[..., ~np.isnan(restored).any((0, 1, 2))]
            stored = mean[component].probability.isel(nu=0).sel(kind="block").mean("draw").values[0]
            assert stored == pytest.approx(every.mean((0, 1)), abs=1e-6)
            best = every[:, :, 4].mean((0, 1)).max() - result["corrupted"].probability.values.mean()
            row = next(line for line in part.splitlines() if line.startswith("| 4 |")).strip("| ").split(" | ")
            assert f": {best:+z.3f} (too few)" in row[column]
        assert f"clean {result['clean'].probability.values.mean():.3f} (too few)" in part


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("common")


def test_questions_are_passed_over_in_order_and_counted(common, model):
    right = list(nnblip.datasets.open_dataset("scenes").where(question_type="color", words=7).sample(4))
    wrong = replace(right[0], id="wrong", answer="purple circle")
    longer = replace(right[1], id="longer", question=f"{right[1].question} ?")
    broken = replace(right[0], id="broken", image="nowhere.png")
    given = [wrong, right[0], longer, broken, *right[1:]]
    found = common.first_correct(model, given, 3, "these", aligned=True)
    assert found.ids == [example.id for example in right[:3]]
    assert (found.wrong, found.unaligned, found.unreadable, found.tried) == (1, 1, 1, 6), "the last is not looked at"


def test_a_mean_of_one_example_is_over_its_draws_and_too_few_have_no_interval(common):
    values = xr.DataArray(np.linspace(0.2, 0.6, 60).reshape(5, 12), dims=("example", "draw"))
    assert common.interval(common.bounds(values)) == "+0.400 (too few)" and "fewer than 8" in common.intervals_are(5)
    mean, low, high = common.bounds(values[:1])
    own = values[0].values
    assert mean == pytest.approx(own.mean()) and low < mean < high
    assert common.interval((mean, low, high)) == f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert "draws of the one example; too few: fewer than 10" in common.intervals_are(1)
    sure = xr.DataArray(np.linspace(0.99, 1.0, 9), dims="example")
    assert common.bounds(sure, (0, 1))[2] <= 1, "no probability above 1"


def test_a_word_in_several_pieces_does_not_align(common, model, monkeypatch):
    right = list(nnblip.datasets.open_dataset("scenes").where(question_type="color", words=7).sample(2))
    whole = model.processor.tokenizer.tokenize
    pieces = {right[0].question: ["what", "is", "the", "co", "##lor"]}
    monkeypatch.setattr(model.processor.tokenizer, "tokenize", lambda text: pieces.get(text) or whole(text))
    asked = [right[0], replace(right[1], question=right[1].question)]
    found = common.first_correct(model, asked, 2, "these", aligned=True)
    assert found.unaligned == sum(example.question == right[0].question for example in asked)


def test_the_choice_is_asked_for_anew_when_what_is_asked_changes(common, tmp_path):
    asked = argparse.Namespace(out=tmp_path, dataset=["scenes"], images=None, model=None, n=1, seed=0, dtype="float32")
    first = common.remembered(asked, lambda: [common.Questions("color", ["a"], wrong=2)])
    assert common.remembered(asked, lambda: pytest.fail("asked again")) == first
    asked.n = 2
    assert common.remembered(asked, lambda: [common.Questions("color", ["a", "b"])])[0].ids == ["a", "b"]
    with pytest.raises(nnblip.NnblipError, match="none of 3 questions"):
        asked.n = 3
        common.remembered(asked, lambda: [common.Questions("color", [], wrong=3)])
