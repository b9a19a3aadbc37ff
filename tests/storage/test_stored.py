"""What is read of a stored result before anything is decoded: metadata, codecs, lists of checksums."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess

import pytest
import xarray as xr
from helpers.trees import random_tree as tree_like

from nnblip.command.cli import main
from nnblip.errors import ResultError
from nnblip.results import open_result, save
from nnblip.storage import checksums, stored


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return shutil.rmtree, (str(self.path),)


@pytest.fixture
def result(tmp_path):
    return save(tree_like(), tmp_path / "result.zarr")


# --- codecs --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "zlib", "no such"])
@pytest.mark.parametrize("where", ["compressor", "filters"])
@pytest.mark.parametrize("both", [True, False])
def test_a_codec_that_nnblip_does_not_write_with_is_refused_by_name_before_it_runs(
    result, tmp_path, capsys, codec, where, both
):
    victim = tmp_path / "thesis"
    victim.mkdir()
    changed = {where: {"id": codec} if where == "compressor" else [{"id": codec}]}
    own, every = result / "nu" / ".zarray", json.loads((result / ".zmetadata").read_text())
    own.write_text(json.dumps(json.loads(own.read_text()) | changed))
    every["metadata"]["nu/.zarray"] |= changed if both else {}
    (result / ".zmetadata").write_text(json.dumps(every))
    (result / "nu" / "0").write_bytes(pickle.dumps(Payload(victim)))
    checksums.seal(result)  # as a stranger would
    with pytest.raises(ResultError, match=f"names the codec '{codec}', which nnblip does not write with"):
        open_result(result)
    assert main(["check", str(result)]) == 1 and f"names the codec '{codec}'" in capsys.readouterr().out
    assert victim.exists()


def test_what_nnblip_writes_with_and_what_xarray_copies_with_is_known(result, tmp_path):
    stored.require_codecs(result)
    open_result(result).to_zarr(tmp_path / "copy2.zarr", zarr_format=2)
    assert open_result(tmp_path / "copy2.zarr").sizes == open_result(result).sizes
    plain = xr.Dataset({"x": ("y", [1.0, 2.0]), "text": ("y", ["a", "b"])})
    plain.to_zarr(tmp_path / "copy3.zarr", zarr_format=3)
    stored.require_codecs(tmp_path / "copy3.zarr")
    said = tmp_path / "copy3.zarr" / "x" / "zarr.json"
    said.write_text(said.read_text().replace('"zstd"', '"numcodecs.pickle"'))
    with pytest.raises(ResultError, match=r"names the codec 'numcodecs\.pickle'"):
        stored.require_codecs(tmp_path / "copy3.zarr")


def test_an_attribute_is_no_codec(result):
    attributes = result / ".zattrs"
    attributes.write_text(json.dumps(json.loads(attributes.read_text()) | {"filters": ["mine"], "codecs": "all"}))
    stored.require_codecs(result)


# --- lists of checksums --------------------------------------------------------------------


def test_a_list_is_written_and_read_whatever_files_are_called(tmp_path):
    names = [
        "plain/0",
        "two  spaces/0",
        "back\\slash/0",
        "end\\nof/0",
        "line\nend/0",
        "ν/0",
        "half \udcff/0",
        "\u2028/0",
    ]
    (tmp_path / checksums.FOLDER).mkdir()
    sums = {name: frozenset({f"{number:064x}"}) for number, name in enumerate(names, 1)}
    sums["plain/0"] |= {checksums.ABSENT}
    checksums.write(tmp_path, checksums.ALL, sums)
    lists = checksums.read(tmp_path)
    assert lists.sums == sums and not lists.damaged and not lists.settled
    data = (tmp_path / checksums.FOLDER / checksums.ALL).read_bytes()
    for place in range(len(data)):
        other = bytearray(data)
        other[place] ^= 1
        (tmp_path / checksums.FOLDER / checksums.ALL).write_bytes(other)
        assert checksums.read(tmp_path).damaged == {checksums.ALL}, place


def test_sha256sum_agrees(tmp_path):
    for name in ("0", "1 b", "2\\n", "3\nc"):
        (tmp_path / name).write_text(name)
    checksums.seal(tmp_path)
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "--check", ".checksums/all"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count(": OK") == 4, done


def test_what_is_written_while_one_looks_is_no_damage(result, monkeypatch):
    """The file is new, and the list was read before: the list is read again."""
    wrong, looks = checksums.wrong, []

    def meanwhile(root, path, sums):
        if path == "nu/0" and not looks:
            looks.append(path)
            (root / path).write_bytes(b"new")
            checksums.write(root, "7", {path: frozenset({checksums.held(root / path)})})
        return wrong(root, path, sums)

    monkeypatch.setattr(checksums, "wrong", meanwhile)
    assert not list(checksums.verify(result)) and looks
    (result / "nu" / "0").write_bytes(b"newer")
    assert [path for path, _ in checksums.verify(result)] == ["nu/0"]


def test_a_variable_in_the_place_of_the_lists_is_refused(tmp_path):
    tree = tree_like()
    tree.coords[checksums.FOLDER] = ("example", [""] * tree.sizes["example"])
    with pytest.raises(ResultError, match=r"can have no variable '\.checksums'"):
        save(tree, tmp_path / "result.zarr")
    assert not (tmp_path / "result.zarr").exists()


# --- metadata ------------------------------------------------------------------------------


def test_metadata_are_taken_from_where_they_are_whole(result):
    whole = stored.metadata(result)
    assert not whole.wrong and whole.growing("clean/probability") and not whole.growing("nu")
    (result / "nu" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["mu"]}')
    (result / "clean" / ".zgroup").unlink()
    found = stored.metadata(result)
    assert found.documents == whole.documents and set(found.wrong) == {"nu/.zattrs", "clean/.zgroup"}
    shutil.rmtree(result / checksums.FOLDER)
    found = stored.metadata(result)
    assert found.wrong == {"nu/.zattrs": "it says something else than .zmetadata", "clean/.zgroup": "it is not there"}
    (result / ".zmetadata").write_text("{")
    assert stored.metadata(result).wrong == {".zmetadata": "it is no JSON of metadata"}
