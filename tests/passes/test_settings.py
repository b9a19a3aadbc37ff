"""The settings of a trace: every default stands in one place, whatever is given is brought to one form."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import nnblip
from nnblip.command import cli
from nnblip.errors import SettingError
from nnblip.noise import Additive
from nnblip.passes.settings import IN_FLIGHT, Settings

FIELDS = [field.name for field in dataclasses.fields(Settings)]


def defaults(function):
    found = inspect.signature(function).parameters
    return {name: found[name].default for name in FIELDS if name in found}


@pytest.mark.parametrize("function", [nnblip.causal_trace, nnblip.sweep, nnblip.attribution_trace])
def test_the_defaults_of_the_functions_are_those_of_the_settings(function):
    asked = defaults(function)
    assert Settings.of(**asked) == Settings()
    if function is not nnblip.attribution_trace:  # which has one direction and no frozen sublayers
        fixed = {"reliability"} if function is nnblip.sweep else set()  # whose examples have the same number of draws
        assert list(asked) != [] and set(asked) == set(FIELDS) - fixed
    for name, value in asked.items():
        kept = getattr(Settings, name)
        assert value is kept or value is None, f"{name} has a default of its own"


def test_the_defaults_of_the_command_are_those_of_the_settings():
    assert cli.Asked().settings(Settings.nu, Settings.seed) == Settings()
    taken = {field.name for field in dataclasses.fields(cli.Asked)}
    assert taken == set(FIELDS) - {"nu", "seed", "roles"}, "a function of roles is no text"
    assert defaults(cli.sweep) == {"nu": Settings.nu, "seed": Settings.seed}
    assert inspect.signature(cli.sweep).parameters["in_flight"].default == IN_FLIGHT


def test_help_shows_every_argument():
    shown = str(inspect.signature(nnblip.causal_trace))
    for text in (
        "nu: ",
        "draws: int | str = 10",
        "Multiplicative()",
        "max_rows: int | None = None",
        "direction: str = ",
    ):
        assert text in shown.replace("'", "")


def test_what_is_given_is_brought_to_one_form():
    one = Settings.of(nu=3, noise="additive", kinds="block", freeze=["mlp_out", "attention"])
    assert (one.nu, one.noise, one.kinds, one.freeze) == ((3.0,), Additive(), ("block",), ("attention", "mlp_out"))
    assert Settings.of(cells=[nnblip.Site("answer_decoder")]).kinds == ()
    assert dataclasses.replace(one) == one, "the one form stays as it is"


def test_it_is_checked_however_it_is_made_and_takes_keywords_only():
    with pytest.raises(SettingError, match="draws 0"):
        Settings(draws=0)
    with pytest.raises(TypeError):
        Settings((5.0,))
