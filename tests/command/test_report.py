"""`nnblip report`: a stored result as a page."""

import pytest
from helpers.pages import Page, result
from PIL import Image

from nnblip import results
from nnblip.command.cli import main
from nnblip.report import charts


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    tree = result(examples=2, draws=2, layers=2, words=5, nus=(5.0,), grid=(2, 2))
    tree.dataset = tree.to_dataset().assign_coords(image=("example", ["elsewhere/one.png", "elsewhere/two.png"]))
    return results.save(tree, tmp_path_factory.mktemp("stored") / "result.zarr")


@pytest.fixture(autouse=True)
def without_vega(monkeypatch):
    monkeypatch.setattr(charts, "script", lambda: "")


def test_a_page_is_written_with_pictures_from_a_folder(stored, tmp_path, capsys):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "two.png")
    out = tmp_path / "page.html"
    assert main(["report", str(stored), "-o", str(out), "--images", str(tmp_path)]) == 0
    assert f"Wrote {out}, a page of 2 examples" in capsys.readouterr().out
    page = Page(out.read_text())
    assert [one["example"] for one in page.index["sheets"]] == [None, 0, 1]
    assert page.has("picture-1") and not page.has("picture-0")
    assert "one.png" in page.index["sheets"][1]["missing"]
    assert main(["report", str(stored), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["report", str(stored), "-o", str(out), "--overwrite", "--n", "1"]) == 0
    assert [one["example"] for one in Page(out.read_text()).index["sheets"]] == [0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["-o", "page.png"], "ends in .html"),
        (["--images", "nowhere"], "folder of pictures"),
        (["--n", "0"], "at least 1"),
        (["--n", "1.5"], "1.5"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(stored, tmp_path, monkeypatch, capsys, more, says):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(stored), *more]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
