"""A run goes on in its own folder and in no other's; a refused one changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnblip.errors import InputError, ResultError
from nnblip.experiments.options import Options
from nnblip.experiments.record import ASKED, FILE, Record


@pytest.fixture
def options(tmp_path):
    return Options(
        out=tmp_path / "a" / "out", dataset=("scenes",), n=20, nu=(5.0,), draws=10, noise=("multiplicative",)
    )


def test_the_same_command_goes_on_and_another_is_refused_without_a_change(options):
    with Record("one", options).begun():
        (options.out / "result.zarr").mkdir()
    before = {path: path.read_bytes() for path in options.out.iterdir() if path.is_file()}
    Record("one", replace(options, device="cpu", images=("elsewhere",)))  # of these no number depends
    for name, changed in (("n", {"n": 21}), ("nu", {"nu": (3.0,)}), ("types", {"types": ("color",)})):
        with pytest.raises(ResultError, match=f"was made with {name} .* choose another folder with --out"):
            Record("one", replace(options, **changed))
    with pytest.raises(ResultError, match="was made with experiment 'one', asked is 'two'"):
        Record("two", options)
    assert before == {path: path.read_bytes() for path in options.out.iterdir() if path.is_file()}


def test_another_model_or_other_code_is_refused(options):
    record = Record("one", options)
    record.made_by({"weights": "a", "source": "b"})
    with record.begun():
        (options.out / "result.zarr").mkdir()
    Record("one", options).made_by({"weights": "a", "source": "b"})
    with pytest.raises(ResultError, match="made with weights 'a', asked is 'c': numbers of both do not mix"):
        Record("one", options).made_by({"weights": "c", "source": "b"})


def test_what_is_refused_before_anything_is_traced_leaves_nothing(options):
    with pytest.raises(InputError), Record("one", options).begun():
        (options.out / ASKED).write_text("{}\n")
        raise InputError("none is right")
    assert not options.out.parent.exists()
    with pytest.raises(KeyboardInterrupt), Record("one", options).begun():
        (options.out / ASKED).write_text("{}\n")
        raise KeyboardInterrupt
    assert (options.out / ASKED).exists(), "what was stopped goes on"
    with pytest.raises(InputError), Record("one", options).begun():
        raise InputError("refused, where something is kept")
    assert (options.out / ASKED).exists()


def test_a_folder_of_something_else_is_left_alone(options):
    options.out.mkdir(parents=True)
    (options.out / "letter.txt").write_text("dear")
    with pytest.raises(ResultError, match="holds something else"):
        Record("one", options)
    (options.out / "letter.txt").unlink()
    (options.out / FILE).write_text("{")
    with pytest.raises(ResultError, match="is damaged"):
        Record("one", options)
    with pytest.raises(ResultError, match="is a file"):
        Record("one", replace(options, out=options.out / FILE))


def test_time_adds_up(options):
    with Record("one", options).begun():
        pass
    first = Record("one", options)
    with first.begun():
        assert first.seconds >= 0
    assert Record("one", options).seconds > first.seconds * 0.5 > 0
