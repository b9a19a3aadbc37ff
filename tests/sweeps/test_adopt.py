"""Other code of nnblip: what counts as other, and how a store that it has begun is gone on with."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.sweeps import Scenes, same_arrays

import nnblip
from nnblip.command.cli import main
from nnblip.errors import ResultError
from nnblip.remote.sources import needed
from nnblip.sweeps import agenda as agenda_module
from nnblip.sweeps import fingerprint
from nnblip.sweeps.fingerprint import meaning
from nnblip.sweeps.store import Store, fingerprint_of

FEW = dict(nu=[5.0], draws=1)


# --- what counts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x = 1  # one", True),
        ("def f():\n    return 1", 'def f():\n    """One."""\n    return (1)', True),
        ('"""A module."""\nx = 1', "\n\nx = 1", True),
        ("x = f'{a} b'", 'x = f"{a} b"', True),
        ("x = 1", "x = 2", False),
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("def f(a): return a", "def f(a=None): return a", False),
        ("x = 'text'", "x = 'text '", False),
        ("f(1)\n'no docstring'", "f(1)", False),
    ],
)
def test_a_comment_or_docstring_means_nothing_and_all_else_does(one, other, same):
    assert (meaning(one) == meaning(other)) == same


def test_the_code_of_a_trace_is_what_its_imports_say():
    names = set(needed("nnblip.tracing.trace", inside_functions=True))
    assert {"nnblip.passes.engine", "nnblip.blip.places", "nnblip.noise", "nnblip.remote.client"} <= names
    assert not [name for name in names if name.startswith(("nnblip.sweeps", "nnblip.effects", "nnblip.plot"))]
    assert not [
        name for name in names if name.startswith(("nnblip.command", "nnblip.datasets", "nnblip.remote.server"))
    ]


# --- going on ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(model, tmp_path_factory):
    """A sweep of six examples by other code, stopped after four."""
    out = tmp_path_factory.mktemp("begun") / "results.zarr"
    trace, patch = agenda_module.trace_example, pytest.MonkeyPatch()

    def stopped(*args):
        if args[2].id == "q4":
            raise KeyboardInterrupt
        return trace(*args)

    with patch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr(fingerprint, "source_hash", lambda: "as it was")
        changed.setattr(agenda_module, "trace_example", stopped)
        nnblip.sweep(model, Scenes.of(6), out, **FEW)
    return out


@pytest.fixture
def store(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "results.zarr")


def test_a_store_of_other_code_is_refused_with_what_keeps_its_examples(model, store):
    before = fingerprint_of(store)
    with pytest.raises(ResultError, match=r"source: 'as it was' -> 'code \w+'.*--adopt \(adopt=True\) keeps"):
        nnblip.sweep(model, Scenes.of(6), store, **FEW)
    with pytest.raises(ResultError, match="setting draws: 1 -> 2") as caught:
        nnblip.sweep(model, Scenes.of(6), store, nu=[5.0], draws=2, adopt=True)
    assert "--adopt" not in str(caught.value) and fingerprint_of(store) == before


@pytest.mark.slow
def test_it_is_adopted_after_two_examples_gave_the_same_numbers(model, store, tmp_path, monkeypatch):
    ids, trace = [], agenda_module.trace_example
    monkeypatch.setattr(agenda_module, "trace_example", lambda *args: (ids.append(args[2].id), trace(*args))[1])
    tree = nnblip.sweep(model, Scenes.of(6), store, **FEW, adopt=True)
    assert ids == ["q0", "q3", "q4", "q5"], "the first and the last that were done, then the rest"
    assert json.loads(tree.attrs["adopted"])["model and code: source"] == "as it was"
    ids.clear()
    nnblip.sweep(model, Scenes.of(6), store, **FEW)
    assert ids == [], "it is this code's own now"
    nnblip.sweep(model, Scenes.of(6), tmp_path / "whole.zarr", **FEW)
    same_arrays(store, tmp_path / "whole.zarr")


def test_a_store_with_other_numbers_is_not_adopted(model, store):
    other = Store(store)
    row = {key: np.asarray(array[3]) for key, array in other.growing.items()}
    number = row["question_encoder/log_probability"][0, 0, 0, 2, 4]
    assert np.isfinite(number)
    row["question_encoder/log_probability"][0, 0, 0, 2, 4] = np.nextafter(number, np.float32(0))
    other.write(3, row)
    before = fingerprint_of(store)
    with pytest.raises(ResultError, match=r"example 'q3' traced again differs in /question_encoder/log_probability"):
        nnblip.sweep(model, Scenes.of(6), store, **FEW, adopt=True)
    assert fingerprint_of(store) == before and Store(store).status()[4] == "pending"


@pytest.mark.slow
def test_the_command_has_it_too(tmp_path, capsys, monkeypatch):
    out = tmp_path / "results.zarr"
    words = ["sweep", "scenes", "--n", "2", "--draws", "1", "--out", str(out)]
    with monkeypatch.context() as changed:
        changed.setattr(fingerprint, "source_hash", lambda: "as it was")
        assert main(words) == 0
    assert main(words) == 2 and "--adopt" in capsys.readouterr().err
    assert main([*words, "--adopt"]) == 0 and main(words) == 0
