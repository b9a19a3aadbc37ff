"""bypass_controls on models of which the answer is known, and its parts by hand."""

import numpy as np
import pytest
import xarray as xr

import nnblip
from nnblip.experiments import index
from nnblip.experiments.choose import Group
from nnblip.experiments.options import Options
from nnblip.experiments.run import Run, perform

EXPERIMENT = index.load("bypass_controls")
MODULE = __import__("sys").modules[EXPERIMENT.run.__module__]


def test_parts_are_known_shares_and_add_up():
    """Half is built, a third is read again, a sixth is computed."""
    rng = np.random.default_rng(0)
    whole = xr.DataArray(rng.uniform(0.1, 0.5, 24), dims="example")
    random, frozen = whole / 2, whole * 2 / 3
    parts = MODULE.parts_of(whole, frozen, random)
    xr.testing.assert_allclose(sum(parts.values()), whole)
    noisy = {name: one + xr.DataArray(rng.normal(0, 0.004, 24), dims="example") for name, one in parts.items()}
    late = nnblip.experiments.claims.above(nnblip.experiments.numbers.mean(whole), 0, "late")
    shares = {name: nnblip.experiments.numbers.share(one, whole) for name, one in noisy.items()}
    for name, expected in (("construction", 1 / 2), ("reading again", 1 / 3), ("computation", 1 / 6)):
        assert shares[name].low < expected < shares[name].high and shares[name].high - shares[name].low < 0.05
        assert MODULE.part(noisy[name], whole, late, 0, name).said == "holds"
    assert MODULE.part(noisy["computation"], whole, late, 0.5, "computation").said == "fails"
    assert MODULE.part(whole * 1e-6, whole, late, 0, "nothing").said == "fails"
    assert MODULE.part(-noisy["computation"], whole, late, 0, "against").said == "fails"
    no_late = nnblip.experiments.claims.Verdict("not established", "around 0")
    verdict = MODULE.part(noisy["computation"], whole, no_late, 0, "computation")
    assert verdict.said == "not established" and "nothing to divide" in verdict.because


def plant_with(depth, examples=8):
    """A planted model whose image is read by one token at this layer and at no other, and that token."""
    for seed in range(40):
        plant = nnblip.planted("layer", seed, examples)
        read = next(s for s in plant.sites if (s.component, s.kind) == ("question_encoder", "crossattention_out"))
        if read.layer == depth:
            return plant, read.token
    raise AssertionError(f"no seed reads at layer {depth}")


def performed(plant, out, monkeypatch):
    """The experiment on a planted model and its pictures."""
    monkeypatch.setattr("nnblip.experiments.run.opened", lambda options, needs: [])
    monkeypatch.setattr(Options, "load", lambda options: plant.model)
    monkeypatch.setattr(Run, "choose", lambda run, **_: [Group("planted", list(plant.examples))])
    return perform(EXPERIMENT, EXPERIMENT.options(out, n=8, nu=(5.0,), draws=2))


@pytest.mark.slow
def test_an_image_that_is_read_once_is_not_read_again(tmp_path, monkeypatch):
    """Read at layer 2 of 4: of the three layers that count the last restores, and frozen cross-attention takes none."""
    plant, token = plant_with(2)
    run = performed(plant, tmp_path / "out", monkeypatch)
    tree = nnblip.results.open_result(tmp_path / "out" / "result.zarr")
    assert float(nnblip.total_effect(tree)["corrupted"].probability.mean()) > 0.1
    late = xr.open_datatree(tmp_path / "out" / "later_minus_earlier.zarr")["question_encoder"]
    total = nnblip.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").values
    np.testing.assert_allclose(late["clean_states"].value, total / 7, atol=1e-5)  # one of seven tokens restores all
    np.testing.assert_allclose(late["cross-attention_frozen"].value, total / 7, atol=1e-5)
    np.testing.assert_allclose(late["crossattention_out_alone"].value, total / 7, atol=1e-5)
    np.testing.assert_allclose(late["attention_out_alone"].value, 0, atol=1e-5)
    said = {name: verdict.said for name, verdict in run.verdicts.items()}
    assert said["late"] == "holds" and said["reading"] == said["sublayers"] == "fails"
    assert said["damaging"] == said["own"] == said["edges"] == "holds"
    assert "no more than rounding in any of 8 examples" in run.verdicts["reading"].because
    # what is cut is cut from clean runs that are all alike: a number, and no interval
    lost = nnblip.effects.knock_out_effect(tree).probability
    single = lost.isel(knock_out=((lost.edges == "image_to_question") & (lost.window == 1)).values)
    assert (abs(single.where(single.layer != 2, drop=True)) < 1e-5).all()
    assert (single.where(single.layer == 2, drop=True) > 0.1).all()
    rows = [line for line in run.summary().splitlines() if line.startswith("| image to question")]
    assert len(rows) == 2 and all("layer 2: +" in row and "+0.000" in row for row in rows)
    assert token in (1, 2, 3, 4, 5)


@pytest.mark.slow
def test_where_all_layers_restore_alike_there_is_nothing_to_divide(tmp_path, monkeypatch):
    """Read at layer 0: every layer has it, later ones no more than earlier ones."""
    run = performed(plant_with(0)[0], tmp_path / "out", monkeypatch)
    assert run.verdicts["late"].said == "fails" and "rounding" in run.verdicts["late"].because
    for name in ("construction", "reading", "computation", "mostly"):
        assert run.verdicts[name].said == "not established" and "nothing to divide" in run.verdicts[name].because
    assert run.verdicts["edges"].said == "fails" and "layer 0: +" in run.summary()


def test_what_it_cannot_do_is_refused_before_anything_is_computed(there, monkeypatch, tmp_path):
    monkeypatch.setattr("nnblip.experiments.run.opened", lambda options, needs: [])
    monkeypatch.setattr(Options, "load", lambda options: there)
    monkeypatch.setattr(Run, "choose", lambda run, **_: pytest.fail("it is asked first"))
    with pytest.raises(nnblip.SettingError, match="bypass_controls with --remote"):
        perform(EXPERIMENT, EXPERIMENT.options(tmp_path / "out", n=8))
    assert not (tmp_path / "out").exists()
