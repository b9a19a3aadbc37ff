"""Every experiment runs offline and writes what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

import nnblip

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_writes_dataset_figures_and_summary(path, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(path), "--out", str(out), "--nu", "5", "--draws", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = xr.open_datatree(out / "result.zarr")
    assert result.sizes["draw"] == 2 and list(out.glob("*.png"))
    total = nnblip.total_effect(result)["corrupted"].probability.sel(nu=5).mean("draw")
    color = float(total[result.question_type == "color"].mean())
    assert f"| color | 3 | {color:.3f} |" in (out / "summary.md").read_text()
