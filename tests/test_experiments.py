"""Every experiment runs offline and writes what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nnblip

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
#: What makes an experiment small enough for a test.
SMALLER = {"multi_state": ["--n", "3", "--steps", "4"]}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_writes_dataset_figures_and_summary(path, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(path), "--out", str(out), "--nu", "5", "--draws", "2", *SMALLER.get(path.stem, [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert xr.open_datatree(out / "result.zarr").sizes["draw"] == 2 and list(out.glob("*.png"))
    summary = (out / "summary.md").read_text()
    assert summary.strip() in done.stdout
    if check := globals().get(f"check_{path.stem}"):
        check(out, summary)


def check_bundled_scenes(out: Path, summary: str) -> None:
    result = xr.open_datatree(out / "result.zarr")
    total = nnblip.total_effect(result)["corrupted"].probability.sel(nu=5).mean("draw")
    color = float(total[result.question_type == "color"].mean())
    assert f"| color | 3 | {color:.3f} |" in summary


def check_multi_state(out: Path, summary: str) -> None:
    result = xr.open_datatree(out / "result.zarr")
    single = result["question_encoder"].probability.sel(nu=5, kind="block").values
    corrupted = result["corrupted"].probability.sel(nu=5).values
    effect = np.stack([one - base[:, None, None] for one, base in zip(single, corrupted, strict=True)])
    row = next(line for line in summary.splitlines() if line.startswith("| 1 |")).split(" | ")
    for column, layers in ((1, slice(None)), (4, slice(5, 6)), (5, slice(4, 5))):  # all, the last, the one before
        mean = np.mean([np.nanmean(one[:, layers]) for one in effect])
        assert row[column].startswith(f"{mean:+z.3f} ["), "windows of one layer are the map of single states"

    pair = xr.open_datatree(out / "pairs.zarr").to_dataset().mean(("example", "draw"))
    for name, extra in zip(pair.pair.values, pair.interaction.values, strict=True):
        first, second = name.split(" and ")
        alone = [float(pair.effect.sel(cell=one)) for one in (first, second)]
        assert extra == pytest.approx(float(pair.effect.sel(cell=name)) - sum(alone), abs=1e-6)
        if abs(extra) == np.abs(pair.interaction).max():
            assert f"| {name} | {alone[0]:+z.3f}, {alone[1]:+z.3f} | {extra:+z.3f} [" in summary
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


def single_blocks(result: xr.DataTree, example: str) -> np.ndarray:
    """Mean probability with each single block of the question encoder restored."""
    node = result["question_encoder"].probability.sel(example=example, nu=5, kind="block")
    return node.mean("draw").fillna(0.0).values
