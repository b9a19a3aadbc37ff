"""Tables whose columns have names that no coordinate of a result can have."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import nnblip
from nnblip import datasets, demo, results
from nnblip.errors import NnblipWarning
from nnblip.results import OWN_NAMES, coordinate_names
from nnblip.tracing.requests import several

#: The index that pandas writes, names that are places of files, of nodes, of variables, of coordinates, with a space.
NAMES = {
    "": "extra",
    ".": "extra_2",
    "..": "extra_3",
    "a/b": "a_b",
    "clean": "extra_clean",
    "question_encoder": "extra_question_encoder",
    "probability": "extra_probability",
    "token": "extra_token",
    "status": "extra_status",
    "predicted": "extra_predicted",
    "Unnamed: 0": "Unnamed_0",
    "image width": "image_width",
    ".zattrs": "zattrs",
    "zarr.json": "extra_zarr.json",
    "\x1b[31mred": "_x1b_31mred",
    "y" * 300: "y" * 60,
    "plain": "plain",
    "größe": "größe",
}


def table(path, names):
    image = demo.HERE / "scenes" / "scene00.png"
    (path / "p.png").write_bytes(image.read_bytes())
    with (path / "t.csv").open("w", newline="", encoding="utf8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "question", *names])
        rows.writerow(["p.png", "what is the color of the circle", *(f"value of {name}" for name in names)])
        rows.writerow(["p.png", "how many circles are there", *("" for _ in names)])
    return path / "t.csv"


def test_names_of_columns_become_names_of_coordinates():
    assert coordinate_names(NAMES) == NAMES


@given(st.lists(st.text(max_size=8) | st.sampled_from(sorted(OWN_NAMES)) | st.sampled_from("a A a_2 a/ b B".split())))
@settings(deadline=None)
def test_names_are_different_files_and_none_of_the_result(names):
    found = coordinate_names(names)
    assert set(found) == set(names)
    assert len({name.casefold() for name in found.values()}) == len(found)
    for name in found.values():
        assert name.casefold() not in OWN_NAMES and len(name.encode()) < 256
        assert not name.startswith(".") and not {*name} & {*" /\\\x00:"} and name.isprintable()
    assert coordinate_names(found.values()) == {name: name for name in found.values()}, "those of a result stay"


def test_the_index_of_pandas_is_a_column_like_others(tmp_path):
    frame = pd.DataFrame({"image": ["p.png"] * 2, "question": ["what is it", "who is it"]})
    table(tmp_path, [])
    frame.to_csv(tmp_path / "t.csv")
    with pytest.warns(NnblipWarning, match=r"names in the result.*: '' -> 'extra'$"):
        found = several(datasets.table(tmp_path / "t.csv"))
    assert [one.extra for one in found] == [{"extra": "0"}, {"extra": "1"}]


def test_a_warning_names_ten_and_counts_the_rest():
    with pytest.warns(NnblipWarning, match=r"'/0' -> '_0', .*'/9' -> '_9' and 2 more$"):
        several([nnblip.Example("p", "q", extra={f"/{number}": 1 for number in range(12)})])


def test_a_trace_of_such_a_table_is_stored_and_opened(model, tmp_path):
    examples = list(datasets.table(table(tmp_path, NAMES)))
    with pytest.warns(NnblipWarning, match="'a/b' -> 'a_b'"):
        tree = nnblip.causal_trace(model, examples, draws=1, progress=False)
    stored = results.open_result(results.save(tree, tmp_path / "r.zarr"))
    assert_labelled(stored)


def test_a_sweep_of_such_a_table_does_every_example(model, tmp_path):
    with pytest.warns(NnblipWarning, match="'clean' -> 'extra_clean'"):
        tree = nnblip.sweep(model, f"table:{table(tmp_path, NAMES)}", tmp_path / "s.zarr", draws=1, progress=False)
    assert tree.status.values.tolist() == ["done", "done"]
    assert_labelled(tree)
    assert {"y" * 60, "extra"} <= {one.name for one in (tmp_path / "s.zarr").iterdir()}


def assert_labelled(tree):
    assert (tree["clean"].probability > 0).all() and len(np.unique(tree["question_encoder"].probability)) > 10
    for given_name, name in NAMES.items():
        assert tree.coords[name].dims == ("example",), name
        assert tree.coords[name].values.tolist() == [f"value of {given_name}", ""], name
    assert {node.path for node in tree.subtree} == {
        "/", "/clean", "/corrupted", "/question_encoder", "/answer_decoder",
    }  # fmt: skip
    assert isinstance(tree, xr.DataTree)
