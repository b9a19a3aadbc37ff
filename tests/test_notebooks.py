"""The notebooks of the documentation run, and show what they say. Their outputs are those of the pages."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
#: tqdm's of a Jupyter without widgets, and the bar of a model that the reader loads.
EXPECTED = re.compile(r"IProgress not found|from .autonotebook import|Loading weights")
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))


@pytest.fixture(scope="module")
def execution():
    spec = importlib.util.spec_from_file_location("execution", DOCS / "execution.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_a_complaint_and_shows_something(execution, notebook):
    cells = [cell for cell in execution.executed(notebook).cells if cell.cell_type == "code"]
    assert len(cells) > 5
    outputs = [output for cell in cells for output in cell.outputs]
    complaints = "\n".join(one.text for one in outputs if one.get("name") == "stderr").replace("\r", "\n").splitlines()
    complaints = [line for line in complaints if line.strip() and not EXPECTED.search(line)]
    assert not complaints, f"{notebook.name} complains: {complaints}"
    text = json.dumps(outputs)
    assert "text/html" in text
    assert "image/png" in text or notebook.stem not in ("tour", "replication"), "its figures are drawn"


def test_every_notebook_is_one():
    assert {path.stem for path in NOTEBOOKS} == {"tour", "your_own", "interventions", "remote", "replication"}
    for path in NOTEBOOKS:
        assert path.read_text().startswith("---\nfile_format: mystnb\n"), path
