"""bypass_controls on models of which the answer is known, and its parts by hand."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import nnblip
from nnblip.errors import SettingError
from nnblip.experiments import controls, index
from nnblip.experiments.choose import Group
from nnblip.experiments.claims import Verdict, above
from nnblip.experiments.late import parts_of
from nnblip.experiments.numbers import mean, share
from nnblip.experiments.options import Options
from nnblip.experiments.run import Run, perform

EXPERIMENT = index.load("bypass_controls")
MODULE = sys.modules[EXPERIMENT.run.__module__]


def test_parts_are_known_shares_and_add_up():
    """Half is built, a third is read again, a sixth is computed."""
    rng = np.random.default_rng(0)
    whole = xr.DataArray(rng.uniform(0.1, 0.5, 24), dims="example")
    random, frozen = whole / 2, whole * 2 / 3
    parts = parts_of(whole, frozen, random)
    xr.testing.assert_allclose(sum(parts.values()), whole)
    noisy = {name: one + xr.DataArray(rng.normal(0, 0.004, 24), dims="example") for name, one in parts.items()}
    late = above(mean(whole), 0, "late")
    shares = {name: share(one, whole) for name, one in noisy.items()}
    for name, expected in (("construction", 1 / 2), ("reading again", 1 / 3), ("computation", 1 / 6)):
        assert shares[name].low < expected < shares[name].high and shares[name].high - shares[name].low < 0.05
        assert MODULE.part(noisy[name], whole, late, 0, name).said == "holds"
    assert MODULE.part(noisy["computation"], whole, late, 0.5, "computation").said == "fails"
    assert MODULE.part(whole * 1e-6, whole, late, 0, "nothing").said == "fails"
    assert MODULE.part(-noisy["computation"], whole, late, 0, "against").said == "fails"
    no_late = Verdict("not established", "around 0")
    verdict = MODULE.part(noisy["computation"], whole, no_late, 0, "computation")
    assert verdict.said == "not established" and "nothing to divide" in verdict.because


def plant_with(depth, examples=8):
    """A planted model whose image is read by one token at this layer and at no other."""
    plant = nnblip.planted("layer", {0: 2, 2: 6}[depth], examples)
    read = [s for s in plant.sites if (s.component, s.kind) == ("question_encoder", "crossattention_out")]
    assert [site.layer for site in read] == [depth]
    return plant


def performed(plant, out, monkeypatch):
    """The experiment on a planted model and its pictures."""
    monkeypatch.setattr("nnblip.experiments.run.opened", lambda options, needs: [])
    monkeypatch.setattr(Options, "load", lambda options: plant.model)
    monkeypatch.setattr(Run, "choose", lambda run, **_: [Group("planted", examples=list(plant.examples))])
    return perform(EXPERIMENT, EXPERIMENT.options(out, n=8, nu=(5.0,), draws=2))


@pytest.mark.slow
def test_an_image_that_is_read_once_is_not_read_again(tmp_path, monkeypatch):
    """Read at layer 2 of 4: of the three layers that count the last restores, and frozen cross-attention takes none."""
    monkeypatch.setattr(controls, "scrambled", lambda *_, **__: None)  # no random weights are found
    run = performed(plant_with(2), tmp_path / "out", monkeypatch)
    tree = nnblip.results.open_result(tmp_path / "out" / "result.zarr")
    assert float(nnblip.total_effect(tree)["corrupted"].probability.mean()) > 0.1
    late = xr.open_datatree(tmp_path / "out" / "later_minus_earlier.zarr")
    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").values
    rows = {"later_minus_earlier": 1, "cross-attention_frozen": 1, "crossattention_out_alone": 1, "mlp_out_alone": 0}
    for row, part in rows.items():
        np.testing.assert_allclose(late[row]["question_encoder, all tokens"], part * total, atol=1e-5)
        np.testing.assert_allclose(late[row]["question_encoder"], part * total / 7, atol=1e-5)  # one of seven tokens
    assert "none was found for 8 of 8 examples" in run.summary()
    assert run.verdicts["computation"] == ("not established", "computation, as a share of the whole: none (no numbers)")
    said = {name: verdict.said for name, verdict in run.verdicts.items()}
    assert said["late"] == said["single"] == said["damaging"] == "holds"
    assert said["reading"] == said["sublayers"] == "fails", "of sublayers, what attention and the MLP add is nothing"
    assert "no more than rounding in any of 8 examples" in run.verdicts["reading"].because
    # what is cut is cut from clean runs that are all alike: a number, and no interval
    lost = nnblip.effects.knock_out_effect(tree).probability
    single = lost.isel(knock_out=((lost.edges == "image_to_question") & (lost.window == 1)).values)
    assert (abs(single.where(single.layer != 2, drop=True)) < 1e-5).all()
    assert (single.where(single.layer == 2, drop=True) > 0.1).all()
    rows = [line for line in run.summary().splitlines() if line.startswith("| image to question")]
    assert len(rows) == 2 and all("layer 2: +" in row for row in rows)
    assert "| question to question | mask |" in run.summary() and "none: no layer has any effect" in run.summary()
    (edges,) = [line for line in run.summary().splitlines() if line.startswith("| from the picture")]
    assert "layer 2: +" in edges


@pytest.mark.slow
def test_where_all_layers_restore_alike_there_is_nothing_to_divide(tmp_path, monkeypatch):
    """Read at layer 0: every layer has it, later ones no more than earlier ones."""
    monkeypatch.setattr(controls, "SCALES", (0.2, 0.4))
    run = performed(plant_with(0, 2), tmp_path / "out", monkeypatch)
    assert run.verdicts["late"].said == "fails" and "rounding" in run.verdicts["late"].because
    for name in ("construction", "reading", "computation", "mostly"):
        assert run.verdicts[name].said == "not established" and "nothing to divide" in run.verdicts[name].because
    random = xr.open_datatree(tmp_path / "out" / "later_minus_earlier.zarr")["random_weights"]
    assert (abs(random["question_encoder, all tokens"]) > 1e-7).any()


@pytest.mark.parametrize(
    ("remote", "layers", "noise", "nu", "said"),
    [
        (True, 6, "multiplicative", 3.0, "bypass_controls with --remote: its controls need weights"),
        (False, 6, "mean", 1.0, "noise mean at nu 1: all image embeddings become one"),
        (False, 2, "mean", 0.7, "a model of 2 layers: expected at least 3"),
    ],
)
def test_what_it_cannot_do_is_refused(remote, layers, noise, nu, said):
    """Such as noise by which all image embeddings are the mean: whatever a query asks, it reads the same."""
    text = SimpleNamespace(num_hidden_layers=layers)
    model = SimpleNamespace(remote=remote, config=SimpleNamespace(text_config=text))
    run = SimpleNamespace(model=model, options=SimpleNamespace(noise=(noise,), nu=(nu,)))
    with pytest.raises(SettingError, match=said):
        MODULE.require(run)


def test_it_is_refused_before_anything_is_computed(model, monkeypatch, tmp_path):
    monkeypatch.setattr("nnblip.experiments.run.opened", lambda options, needs: [])
    monkeypatch.setattr(Options, "load", lambda options: model)
    monkeypatch.setattr(Run, "choose", lambda run, **_: pytest.fail("it is asked first"))
    with pytest.raises(SettingError, match="noise mean at nu 1"):
        perform(EXPERIMENT, EXPERIMENT.options(tmp_path / "out", n=8, noise=("mean",), nu=(1.0,)))
    assert not (tmp_path / "out").exists()
