"""What the package says of itself, each thing in one place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from hatchling import build

import nnblip
from nnblip.tracing import provenance

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_wherever_it_stands():
    assert re.fullmatch(r"\d+\.\d+\.\d+", nnblip.__version__)
    assert provenance.code()["version_nnblip"] == nnblip.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == nnblip.__version__
    released = re.findall(r"^## (\d\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == nnblip.__version__


def test_a_checkout_that_is_not_installed_has_the_version():
    code = "import nnblip, sys; print(nnblip.__version__); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-c", code]  # without site-packages
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == nnblip.__version__


def test_what_is_built_has_the_same_version_and_its_types(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / build.prepare_metadata_for_build_wheel(str(tmp_path))
    assert f"\nVersion: {nnblip.__version__}\n" in (folder / "METADATA").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "Typing :: Typed" in project["project"]["classifiers"]
    assert (ROOT / "nnblip" / "py.typed").exists()


def test_the_paper_is_cited():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = said["references"]
    assert said["license"] == "MIT" and paper["doi"] == "10.48550/arXiv.2308.14179"
    assert [author["family-names"] for author in paper["authors"]] == ["Palit", "Pandey", "Arora", "Liang"]
