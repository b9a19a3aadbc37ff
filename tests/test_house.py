"""The house: imports run one way, as the contracts in pyproject.toml say, which can be broken; promises are tested."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_contracts_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_every_test_that_the_page_of_promises_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), f"{file}::{name}"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("errors.py", "def later():\n    from nnblip import model"),
        (
            "blip/outcome.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nnblip.passes import engine",
        ),
        ("effects/numbers.py", "from nnblip.effects import shares"),
        ("passes/plan.py", "import nnsight"),
        ("plot/words.py", "import torch"),
    ],
    ids=["upward, in a function", "upward, for a type", "a circle in a folder", "nnsight", "torch"],
)
def test_an_import_that_runs_the_wrong_way_breaks_one(tmp_path, file, line):
    shutil.copytree(
        ROOT / "nnblip", tmp_path / "nnblip", ignore=shutil.ignore_patterns("model", "*.png", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "nnblip" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr
