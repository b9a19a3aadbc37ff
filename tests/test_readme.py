"""Every command and snippet of the README and the documentation is run as a stranger would run it.

The python blocks of a page are one program, its bash blocks are commands; each page has a folder of its own. The sh and
py blocks of docs/server.md need a server, and are run by the tests that have one.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnblip
from nnblip import datasets, demo, effects, errors, noise, plot
from nnblip.command.cli import app
from nnblip.experiments import index

ROOT = Path(__file__).parent.parent
PACKAGE, DOCS = ROOT / "nnblip", ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (*ROOT.glob("*.md"), *DOCS.glob("*.md"))}
#: Blocks by what they are in; a block in any other language would be run by nobody.
RUN, WITH_A_SERVER, READ = ("python", "bash"), ("sh", "py"), ("text", "{toctree}", "{include}")


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in fences(page) if language in languages]


def fences(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def stranger(tmp_path):
    """A folder with a picture, and a hub cache in which the paper's model id leads to the small model."""
    shutil.copy(demo.HERE / "scenes" / "scene10.png", tmp_path / "photo.jpg")
    cache = tmp_path / "hub" / "models--Salesforce--blip-vqa-base"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "snapshots" / "0123abcd").symlink_to(demo.MODEL)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    changes = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PATH": programs,
        "VIRTUAL_ENV": sys.prefix,
    }

    def run(command: list[str], folder: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=folder, env=os.environ | changes, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return tmp_path, run


# --- what is run ---------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_run():
    for page in PAGES:
        for language, text in fences(page):
            assert language in (*RUN, *WITH_A_SERVER, *READ), f"{page}: nobody runs {language!r}\n{text}"
            assert language not in WITH_A_SERVER or page == "docs/server.md", page
        assert len(re.findall("^```", PAGES[page], re.MULTILINE)) == 2 * len(fences(page)), page


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_snippets_of_a_page_are_a_program(page, stranger):
    folder, run = stranger
    program = folder / "program.py"
    program.write_text("\n".join(blocks(page, "python")))
    said = run([sys.executable, str(program)]).splitlines()
    if page == "README.md":
        assert said[1] == said[2] != said[0], "a site written by hand and the same one named"
        assert (folder / "question_encoder.png").exists()


def test_no_command_stands_twice():
    every = [command for page in PAGES for command in commands(page) if not command.startswith("scripts/test")]
    assert every and len(every) == len(set(every)), every


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page, stranger):
    _, run = stranger
    for command in map(shlex.split, commands(page)):
        at_home = command[0] == "scripts/demo"
        if (at_home or command[:2] == ["nnblip", "trace"]) and "--draws" not in command:
            command += ["--draws", "1"]  # the default takes its time
        if at_home:
            run(command, ROOT)
        elif command[0].startswith("scripts/"):  # this is run by one of them, and CI runs all
            assert os.access(ROOT / command[0], os.X_OK), command
        elif command[:2] == ["nnblip", "experiment"] and "--model" in command:  # for another model: can it be said so?
            function, given, _ = app.parse_args(command[1:], exit_on_error=False, print_error=False)
            asked = {name: value for name, value in given.arguments.items() if name not in ("name", "out")}
            assert function.__name__ == "experiment" and index.load(given.arguments["name"]).options(**asked)
        else:
            run(command)


# --- what is said --------------------------------------------------------------------------


def tree(page: str) -> dict[str, bool]:
    """The files (True) and folders (False) that the layout of a page names, by their paths."""
    (layout,) = blocks(page, "text")
    found, above = {}, []
    for indent, name in re.findall(r"^( *)(\S+)", layout, re.MULTILINE):
        above[len(indent) // 4 :] = [name.rstrip("/")]
        found["/".join(above)] = not name.endswith("/")
    return found


def test_every_file_of_the_package_has_its_line_in_the_architecture():
    files = {path.relative_to(ROOT) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")}
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("*.py")}
    named = tree("docs/architecture.md")
    assert {name for name, is_file in named.items() if is_file} == {path.as_posix() for path in files}
    assert {name for name, is_file in named.items() if not is_file} == {path.as_posix() for path in folders}


def test_every_folder_of_the_checkout_is_in_the_readme():
    named = tree("README.md")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {name.partition("/")[2] for name, is_file in named.items() if "/" in name and not is_file} == rooms
    for name in named:
        assert list(ROOT.glob(name)), name


def test_the_order_of_the_rooms_is_the_same_wherever_it_is_told():
    named = [name for name in tree("docs/architecture.md") if name.count("/") == 1]
    rooms = [name for name in tree("README.md") if name.count("/") == 1 and "*" not in name]
    assert rooms == [name for name in named if name in rooms]
    told = re.findall(r"`(\w+/|model\.py)`(?=[,\w /`]* \|)", PAGES["CONTRIBUTING.md"])
    assert [f"nnblip/{name.rstrip('/')}" for name in told] == rooms


def test_pictures_and_links_are_there():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path = (ROOT / page).parent / target.partition("#")[0]
            drawn = target.startswith("../build/gallery/") and f'.savefig("{path.name}"' in text  # by docs/gallery.py
            assert target.startswith("https://") or drawn or path.exists(), f"{page}: {target}"


def test_names_that_are_told_exist():
    told = re.compile(r"`(nnblip(?:\.\w+)+)")
    now = {page: text for page, text in PAGES.items() if page != "CHANGELOG.md"}  # which tells of what is gone
    texts = {**now, **{str(path): path.read_text() for path in PACKAGE.rglob("*.py")}}
    for where, text in texts.items():
        for name in told.findall(text):
            assert exists(name), f"{where}: there is no {name}"


def exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        owner, _, field = name.rpartition(".")  # a field without a default is no attribute of its class
        return "." in owner and exists(owner) and field in getattr(pkgutil.resolve_name(owner), "__annotations__", ())
    return True


# --- the documentation ---------------------------------------------------------------------


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for path in DOCS.rglob("*.*"):
        if path.suffix == ".md":
            inside = re.findall(r"^```{toctree}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
        else:
            inside = re.findall(r"^\.\. toctree::\n(.*?)(?=^\S|\Z)", path.read_text(), re.DOTALL | re.MULTILINE)
        names = [line.strip() for text in inside for line in text.splitlines() if line.strip()[:1] not in ("", ":")]
        listed |= {(path.parent / name).relative_to(DOCS).as_posix() for name in names}
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix() for kind in ("md", "rst") for path in DOCS.rglob(f"*.{kind}")
    }
    assert listed == pages - {"index"}


def test_every_public_name_is_in_the_reference():
    text = "".join(path.read_text() for path in (DOCS / "reference").glob("*.rst"))
    told = re.findall(r"^\.\. auto(?:function|class|data):: (nnblip[.\w]+)", text, re.MULTILINE)
    assert len(told) == len(set(told))
    known = [pkgutil.resolve_name(name) for name in told]
    modules = re.findall(r"^\.\. (?:auto)?module:: (nnblip\.\w+)\n(?:   :members:)?", text, re.MULTILINE)
    assert ".. automodule:: nnblip.errors\n   :members:" in text
    public = {f"nnblip.{name}" for name in nnblip.__all__}
    public |= {f"{module.__name__}.{name}" for module in (datasets, effects, plot) for name in module.__all__}
    public |= {f"nnblip.noise.{kind.__name__}" for kind in noise.NOISES.values()}
    public |= {name for page in PAGES for text in blocks(page, *RUN, *WITH_A_SERVER) for name in used(text)}
    for name in public:
        found = pkgutil.resolve_name(name)
        if inspect.ismodule(found):
            assert name in modules or any(one.startswith(f"{name}.") for one in told), name
        elif not (inspect.isclass(found) and found.__module__ == errors.__name__):
            assert any(found is one for one in known), f"{name} is in no page of the reference"


def used(program: str) -> set[str]:
    """The names of nnblip that a program uses."""
    imported = {f"{module}.{name}" for module, name in re.findall(r"from (nnblip[.\w]*) import (\w+)", program)}
    return imported | {name for name in re.findall(r"(?<![\w.])(nnblip(?:\.\w+)+)", program) if "__" not in name}


def test_the_page_of_experiments_has_all_of_them_and_all_of_their_claims():
    folder = ROOT / "experiments"
    page = (folder / "README.md").read_text()
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert [part.partition(":")[0] for part in parts] == index.names()
    for name, part in zip(index.names(), parts, strict=True):
        made = index.load(name)
        assert part.startswith(f"{name}: {made.question}\n") and (folder / "figures" / f"{name}.png").is_file()
        assert all(claim in part for claim in made.claims.values()), "`nnblip experiment --all` makes it anew"
