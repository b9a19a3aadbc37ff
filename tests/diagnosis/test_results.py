"""Real results of every form are diagnosed without an error, and sound ones without a warning."""

import numpy as np
import pytest
import xarray as xr
from helpers.faults import sound

import nnblip
from nnblip import diagnosis, effects
from nnblip.command import printing
from nnblip.command.cli import main
from nnblip.diagnosis import Findings, diagnose, ratios
from nnblip.diagnosis.look import Look
from nnblip.sites import HEAD_KINDS, Site, all_tokens, windows

#: Of the bundled scenes those at which the damage hurts.
HURT = 0.1


@pytest.fixture(scope="module")
def steady(model):
    """Bundled scenes under the damage whose maps come out again, with enough draws."""
    every = nnblip.demo.examples()
    tree = nnblip.causal_trace(model, every, nu=0.5, noise="shuffle", draws=12)
    total = effects.total_effect(tree)["corrupted"].probability.mean("draw").values[:, 0]
    assert (total > HURT).sum() >= 2
    return tree.isel(example=np.flatnonzero(total > HURT))


@pytest.mark.slow
def test_sound_traces_have_notes_at_most(steady):
    for k in range(steady.sizes["example"]):
        assert not nnblip.diagnose(steady.isel(example=[k])).at_least("warning")
    assert not nnblip.diagnose(steady).at_least("warning")


def test_the_default_noise_of_few_draws_is_not_believed(model):
    tree = nnblip.causal_trace(model, nnblip.demo.examples()[:3], nu=10, draws=4)
    names = nnblip.diagnose(tree).at_least("warning").names
    assert "too few draws or examples" in names


FORMS = {
    "one draw": dict(nu=5, draws=1),
    "several nu and 0": dict(nu=[0, 1, 5], draws=2),
    "no randomness": dict(noise="mean", nu=1, draws=1),
    "one component": dict(nu=3, draws=4, components=["answer_decoder"]),
    "regions": dict(nu=3, draws=2, components=["image_encoder"], regions=2),
    "cells alone": dict(nu=3, draws=4, cells=[windows(2), all_tokens(), [Site("question_encoder", "block", 5, 1)]]),
    "cells and maps": dict(nu=3, draws=2, cells=[all_tokens()], kinds=["block", "crossattention", "mlp_out"]),
    "heads alone": dict(nu=3, draws=4, kinds=list(HEAD_KINDS)),
    "noising": dict(nu=3, draws=4, direction="noising"),
    "pixels": dict(nu=1, draws=2, noise_at="pixels", components=["image_encoder", "question_encoder"], regions=2),
    "cut": dict(nu=3, draws=2, knock_out=nnblip.knock_out("image_to_question", layers=range(3, 6))),
    "auto": dict(nu=0.5, noise="shuffle", draws="auto", reliability=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_results_of_every_form_are_diagnosed(model, form, tmp_path):
    """Two examples, whose questions differ in length; whole, selected, and from a file."""
    examples = [nnblip.demo.examples()[k] for k in (0, 5)]
    tree = nnblip.causal_trace(model, examples, **FORMS[form])
    findings = nnblip.diagnose(tree)
    assert isinstance(findings, Findings) and findings == nnblip.diagnose(tree)
    nnblip.diagnose(tree, tree, width=0.2)
    one = tree.isel(example=0, nu=-1)
    assert nnblip.diagnose(one).names == nnblip.diagnose(tree.isel(example=[0], nu=[-1])).names
    nnblip.diagnose(one.isel(draw=0))
    nnblip.results.save(tree, tmp_path / "r.zarr")
    with xr.open_datatree(tmp_path / "r.zarr") as stored:
        assert nnblip.diagnose(stored) == findings
    assert "noises disagree" not in nnblip.diagnose(tree, tree).names


def test_estimates_are_diagnosed(model):
    tree = nnblip.attribution_trace(model, nnblip.demo.examples()[:2], nu=3, draws=2, sample=5)
    assert "check" in tree.children
    assert isinstance(nnblip.diagnose(tree), Findings)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gone", [[0], [0, 1, 2]], ids=["one", "all"])
def test_examples_that_failed_are_left_out_and_said(gone):
    tree = sound(3)
    for node in tree.children.values():
        for name in ("probability", "log_probability", "logit_difference"):
            node[name].values[gone] = np.nan
    findings = nnblip.diagnose(tree)
    (said,) = [one for one in findings if one.name == "examples without numbers"]
    assert said.where == tuple(f"q{k}" for k in gone)
    assert not findings.at_least("warning") or len(gone) == 3


@pytest.mark.slow
def test_nothing_is_changed(steady):
    before = steady.copy(deep=True)
    nnblip.diagnose(steady, steady, width=0.3)
    assert steady.identical(before)


def test_a_trace_is_diagnosed_once_prints_and_keeps_what_was_found_and_is_whole(tmp_path, capsys, monkeypatch):
    asked = []
    for module in (diagnosis, printing):
        monkeypatch.setattr(module, "diagnose", lambda tree: asked.append(tree) or diagnose(tree))
    assert main(["trace", "--out", str(tmp_path), "--nu", "5", "--draws", "2"]) == 0
    assert len(asked) == 1
    tree = nnblip.results.open_result(tmp_path / "result.zarr")
    stored = Findings.stored_in(tree)
    assert stored and stored == diagnose(tree)
    assert f"\n\n{stored}\n\nMeans of 2 draws" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "result.zarr")]) == 0
    assert stored[0].measured in capsys.readouterr().out


def test_the_strongest_cell_is_looked_for_once_though_two_checks_need_it(monkeypatch):
    look, sought, seek = Look(sound(3)), [], ratios._strongest
    monkeypatch.setattr(ratios, "_strongest", lambda look: sought.append(look) or seek(look))
    for check in (ratios.unstable, ratios.dominated):
        asked = len(sought)
        list(check(Look(sound(3))))
        assert len(sought) == asked + 1  # each alone needs it
        list(check(look))
    assert sought.count(look) == 1


def test_a_sweep_is_diagnosed_anew_and_its_store_is_whole(model, tmp_path, capsys):
    tree = nnblip.sweep(model, nnblip.demo.examples()[:2], tmp_path / "s.zarr", draws=2)
    assert Findings.stored_in(tree) is None and nnblip.diagnose(tree)
    assert main(["check", str(tmp_path / "s.zarr")]) == 0
    assert "too few draws" in capsys.readouterr().out
    again = nnblip.sweep(model, nnblip.demo.examples()[:2], tmp_path / "s.zarr", draws=2)
    assert again.equals(tree)
