"""What `pip install .` installs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_carries_the_small_model_and_works(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("nnblip-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {"nnblip/demo/model/model.safetensors", "nnblip/demo/scenes/scenes.json", "nnblip/command/cli.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "experiments"))]
    files = {f"nnblip/experiments/files/{path.name}" for path in (ROOT / "experiments").glob("*.py")}
    assert files and files == {name for name in names if name.startswith("nnblip/experiments/files/")}
    weights = tmp_path / "site" / "nnblip" / "demo" / "model" / "model.safetensors"
    assert 1e6 < weights.stat().st_size <= 10e6
    code = """
import nnblip, sys
from nnblip.experiments import index
print(nnblip.__file__)
assert index.load("noise_level").question and not index.in_checkout()
sys.exit(nnblip.BlipVQA().name != 'nnblip-demo')
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in done.stdout
