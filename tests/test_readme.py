"""Every command and snippet of the README is run as a stranger would run it."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnblip import demo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def stranger(tmp_path):
    """A folder with a picture, and a hub cache in which the paper's model id leads to the small model."""
    shutil.copy(demo.HERE / "scenes" / "scene10.png", tmp_path / "photo.jpg")
    cache = tmp_path / "hub" / "models--Salesforce--blip-vqa-base"
    shutil.copytree(demo.MODEL, cache / "snapshots" / "0123abcd")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    changes = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PATH": programs,
        "VIRTUAL_ENV": sys.prefix,
    }
    return tmp_path, os.environ | changes


def test_the_snippets_run(stranger):
    folder, environment = stranger
    program = folder / "readme.py"
    program.write_text("\n".join(blocks("python")))
    done = subprocess.run([sys.executable, program], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("\n")
    assert answers[1] == answers[2], "a site written by hand and the same one named"
    assert (folder / "question_encoder.png").exists()


def test_the_commands_run(stranger):
    folder, environment = stranger
    commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    ran = 0
    for command in filter(None, commands):
        if command == ["scripts/test"]:
            continue  # that is what runs this
        at_home = command[0].startswith("scripts/")
        done = subprocess.run(
            [*command, "--draws", "1"] if at_home else command,
            cwd=ROOT if at_home else folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran == 9


def test_every_file_of_the_package_is_in_the_layout():
    (layout,) = blocks("text")
    for path in sorted((ROOT / "nnblip").iterdir()):
        if path.name.startswith("__"):
            continue
        assert re.search(rf"^    {re.escape(path.name)}/? ", layout, re.MULTILINE), f"{path.name} is not in the layout"


def test_a_file_imports_only_from_files_above_it():
    (layout,) = blocks("text")
    order = [name.removesuffix(".py").rstrip("/") for name in re.findall(r"^    (\S+) ", layout, re.MULTILINE)]
    for path in (ROOT / "nnblip").rglob("*.py"):
        here = path.relative_to(ROOT / "nnblip").parts[0].removesuffix(".py")
        for node in ast.parse(path.read_text()).body if not here.startswith("__") else []:
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "nnblip":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnblip."):
                names = [node.module.split(".")[1]]
            for name in names:
                assert name == here or order.index(name) < order.index(here), f"{path} imports {name}"


def test_the_picture_and_the_links_are_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
