"""Every experiment runs offline from end to end, says of each claim what is established, and writes what it says.

One run each, on the fewest examples of which there is a test; the numbers are held against plain NumPy on the stored
datasets. That the frame refuses, goes on and chooses as it should is in tests/experiments.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers.figures import all_inside
from scipy.stats import permutation_test, spearmanr

import nnblip
from nnblip.experiments import controls, index, perform
from nnblip.experiments.claims import FAILS, HOLDS, OPEN
from nnblip.plants.kinds import KINDS

#: What makes an experiment small enough for a test.
SMALLER: dict[str, dict[str, Any]] = {
    "attention_or_cause": {"dataset": ("scenes:300",), "types": ("color",)},
    "bypass_controls": {"draws": 1},
    "cross_dataset": {"draws": 2, "types": ("color",)},
    "cross_modal": {"draws": 2},
    "mechanisms": {"types": ("object",), "n": 4},
    "multi_state": {"draws": 2, "n": 4},  # traces many times
    "noise_level": {"draws": 2, "nu": (0.5, 5.0), "noise": ("multiplicative", "scale"), "types": ("color",)},
    "paper_heatmaps": {"draws": 2, "dataset": ("scenes",)},
    "planted": {"n": 1},
    "replications": {"draws": 2},
    "question_types": {"draws": 2, "dataset": ("scenes",), "types": ("color", "location")},
}
#: What else does, of its own constants.
FEWER: dict[str, dict[str, Any]] = {
    "mechanisms": {"SHARES": (100, 5, 0.5), "STEPS": 1, "RANDOM": 4, "SINGLES": 6, "SAFE": 0.5},
    "multi_state": {"STEPS": 3},  # of the greedy sets
    "replications": {"ASKED": 4},
    "planted": {"KINDS": {kind: KINDS[kind] for kind in ("layer", "or")}, "EXAMPLES": 1, "STEPS": 2},
}
#: These trace no sweep, of which something could be diagnosed.
WITHOUT_SWEEPS = ("planted",)
#: One of these is run twice: they go on through the same functions.
GOES_ON = "question_types"


@pytest.fixture
def ran(model, tmp_path, monkeypatch) -> Callable[..., tuple[Path, str]]:
    """Run an experiment with the model that is loaded already; gives its folder and summary."""
    monkeypatch.setattr(nnblip.experiments.options.Options, "load", lambda self: model)

    def one(name: str, **asked: Any) -> tuple[Path, str]:
        given = {"n": 8, **SMALLER.get(name, {}), **asked}
        found = replace(index.load(name), least=min(8, given["n"]))
        for constant, fewer in FEWER.get(name, {}).items():
            monkeypatch.setitem(found.run.__globals__, constant, fewer)
        if name == "bypass_controls":
            monkeypatch.setattr(controls, "SCALES", (0.2, 0.4))  # of random weights
        options = found.options(tmp_path / name, **given)
        return tmp_path / name, perform(found, options).summary()

    return one


@pytest.mark.slow
@pytest.mark.parametrize("name", index.names())
def test_an_experiment_writes_datasets_figures_and_what_is_established(name, ran):
    out, summary = ran(name)
    found = index.load(name)
    assert (out / "summary.md").read_text() == summary and (out / f"{found.figure}.png").exists()
    assert summary.startswith(f"# {found.question}\n") and "nan" not in summary.replace("NaN", "")
    claims = json.loads((out / "claims.json").read_text())
    end = summary.split("## What is established")[1]
    assert claims.keys() == found.claims.keys()
    for key, verdict in claims.items():
        assert verdict["said"] in (HOLDS, FAILS, OPEN)
        assert f"- **{verdict['said']}**: {found.claims[key]} (" in end
    against = summary.partition("## What speaks against these numbers")[2]
    stores = [path for path in out.glob("*.zarr") if "status" in xr.open_datatree(path).coords]
    assert bool(stores) == (name not in WITHOUT_SWEEPS) and all(
        str(one) in against for path in stores for one in nnblip.diagnose(nnblip.results.open_result(path))
    )
    if check := globals().get(f"check_{name}"):
        check(out, summary, claims)
    if name == GOES_ON:
        before = numbers(out)
        assert ran(name)[1] == summary
        assert numbers(out) == before, "nothing is traced again"


def numbers(out: Path) -> dict[str, int]:
    """When each file of a sweep's numbers was written."""
    files = (out / "result.zarr").rglob("probability/[0-9]*")
    found = {str(file): file.stat().st_mtime_ns for file in files if file.is_file()}
    assert found
    return found


def effects_of(result: xr.DataTree, component: str) -> np.ndarray:
    """(example, layer, token), means over draws."""
    node = result[component].probability.values[:, 0, :, 0]
    return (node - result["corrupted"].probability.values[:, 0, :, None, None]).mean(1)


def row_of(text: str, first: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(f"| {first} |")).strip("| ").split(" | ")


# --- what each says, once more ------------------------------------------------------------------


def check_attention_or_cause(out: Path, summary: str, claims: dict[str, Any]) -> None:
    causal, stored = xr.open_datatree(out / "causal.zarr"), xr.open_datatree(out / "pointing.zarr")
    lost = causal["clean"].logit_difference.values[:, None] - causal["cells"].logit_difference.values[:, 0, 0]
    assert abs(lost).max() > 0.5, "a model without effects would pass"
    lost = dict(zip(causal.example.values, lost, strict=True))
    box = {e.id: [int(one) for one in e.extra["box"].split(",")] for e in nnblip.datasets.generated_scenes(300)
           if e.question_type == "color"}  # fmt: skip

    def touches(patch: int, left: int, upper: int, right: int, lower: int) -> bool:
        row, column = divmod(patch, 8)
        return 8 * column < right and 8 * column + 8 > left and 8 * row < lower and 8 * row + 8 > upper

    hits = [touches(int(lost[name].argmax()), *box[name]) for name in stored["causal"].example.values]
    assert stored["causal"].hit.values.tolist() == hits
    assert row_of(summary, "causal map")[1].startswith(f"{np.mean(hits):+.3f}") and np.mean(hits) > 0.5

    weights = xr.open_datatree(out / "attention-0.zarr")
    for name in ("attention", "grad_cam"):
        maps = weights[name].transpose("example", "layer", "head", "patch").values.mean(2)
        for place, example in enumerate(weights.example.values):
            ranks = stored[name]["rank"].sel(example=example, layer=[str(layer) for layer in range(maps.shape[1])])
            wanted = [spearmanr(one, lost[example]).statistic for one in maps[place]]
            np.testing.assert_allclose(ranks.values, wanted, atol=1e-6)

    region = stored["regions"]
    more = (region.lost[:, 0] - region.lost[:, 1:].mean("region")).values
    assert region.lost.notnull().all() and f"{more.mean():+.3f}" in claims["lost"]["because"]
    assert more.mean() > 0.5, "the object matters to the small model"
    assert (out / "scenes.png").exists() and (out / "heads.png").exists()


def check_bypass_controls(out: Path, summary: str, claims: dict[str, Any]) -> None:
    kept = xr.open_datatree(out / "later_minus_earlier.zarr")
    late = {}
    for name, row in (("result", "later_minus_earlier"), ("frozen", "cross-attention_frozen")):
        layers = np.nanmean(effects_of(xr.open_datatree(out / f"{name}.zarr"), "question_encoder"), -1)
        late[name] = layers[:, 3:5].mean(1) - layers[:, :2].mean(1)  # of six the last is left out
        np.testing.assert_allclose(kept[row]["question_encoder"], late[name], atol=1e-6)
    rows = summary.split("## What later minus earlier is made of")[1].splitlines()
    at = next(place for place, line in enumerate(rows) if line.startswith("| question encoder | later"))
    parts = [float(line.split(" | ")[2].split(" ")[0]) for line in rows[at : at + 4]]
    assert parts[0] == pytest.approx(late["result"].mean(), abs=6e-4) == pytest.approx(sum(parts[1:]), abs=2e-3)
    assert parts[2] == pytest.approx((late["result"] - late["frozen"]).mean(), abs=6e-4)


def check_question_types(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result, maps = xr.open_datatree(out / "result.zarr"), xr.open_datatree(out / "maps.zarr")
    assert len(set(result.image.values.tolist())) == result.sizes["example"] == 16, "each image once"
    effect, types, role = effects_of(result, "question_encoder"), result.question_type.values, "function word"
    has = result["question_encoder"].role.values == role
    own = {kind: np.array([effect[at][:, has[at]].mean(1) for at in np.flatnonzero(types == kind)])
           for kind in ("color", "location")}  # fmt: skip
    for kind, values in own.items():
        stored = maps["question_encoder"].value.sel(type=kind, role=role)
        assert stored.values == pytest.approx(values.mean(0), abs=1e-6)
        assert (maps["question_encoder"].units.sel(type=kind, role=role) == 8).all()
    pair = maps["differences"].to_dataset().sel(pair="color − location, question encoder", role=role)
    assert pair.difference.values == pytest.approx(own["color"].mean(0) - own["location"].mean(0), abs=1e-6)

    def welch(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        error = a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis]
        return np.abs(a.mean(axis) - b.mean(axis)) / np.sqrt(error)

    other = permutation_test(
        (own["color"][:, 5], own["location"][:, 5]), welch, vectorized=True, alternative="greater", n_resamples=np.inf
    )
    assert pair.p.sel(layer=5).item() == pytest.approx(other.pvalue, abs=0.03), "of 12,870 some thousand are tried"
    assert (pair.p_corrected >= pair.p - 1e-9).all()
    least = row_of(summary, "color − location, question encoder")[1]
    tests = [maps["differences"].p_corrected.sel(pair=name).min().item() for name in maps["differences"].pair.values]
    expected = min(1.0, tests[0] * 2) if tests[0] <= tests[1] else max(tests[0], min(1.0, 2 * tests[1]))
    assert float(least) == pytest.approx(expected, rel=0.01), "Holm, of two maps"


def check_cross_modal(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result, says = xr.open_datatree(out / "picture.zarr"), xr.open_datatree(out / "lens.zarr")["decoder_lens"]
    clean, cut = result["clean"].probability.values, result["knock_outs"].probability

    def lost(layers: Any) -> float:
        name = str(nnblip.knock_out("image_to_question", layers=layers))
        return (clean - cut.sel(knock_out=name).values).sum()

    assert lost(range(6)) > 0.1 * len(clean), "without the picture the answer is lost"
    table = summary.split("## Where the picture enters")[1]
    for layer in range(6):
        row = row_of(table, str(layer))
        for column, layers in ((1, [layer]), (3, range(layer + 1)), (4, range(layer, 6))):
            expected = lost(layers) / lost(range(6))
            assert float(row[column].split()[0]) == pytest.approx(expected, abs=6e-4)
    lens = summary.split("## What the decoder says of each layer")[1]
    left = clean - cut.sel(knock_out=str(nnblip.knock_out("image_to_question", layers=range(6)))).values
    for layer, said in enumerate(says.probability.values.T):
        row = row_of(lens, str(layer))
        assert float(row[1].split()[0]) == pytest.approx(said.mean(), abs=6e-4)
        assert float(row[2].split()[0]) == pytest.approx((said - clean + left).sum() / left.sum(), abs=6e-4)
    assert float(row_of(lens, "5")[3]) == 1, "the last layer is the clean run"
    total = (clean[:, None] - result["corrupted"].probability.values[:, 0]).mean()
    assert row_of(summary, "picture")[1].startswith(f"{total:+z.3f}")
    assert {claims[name]["said"] for name in ("apart", "override")} <= {HOLDS, FAILS, OPEN}


def check_paper_heatmaps(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result, mean = xr.open_datatree(out / "scenes.zarr"), xr.open_datatree(out / "mean_scenes.zarr")
    asked = nnblip.datasets.open_dataset("scenes").where(question_type="color", words=7).distinct()
    first = list({example.extra["image_id"]: example.id for example in reversed(list(asked))}.values())[::-1]
    assert result.example.values.tolist() == first[:8], "the first of each image; the small model is right"
    for component in ("question_encoder", "answer_decoder"):
        restored = result[component].probability.values[:, 0, :, 0]
        every = restored[..., ~np.isnan(restored).any((0, 1, 2))]
        stored = mean[component].probability.isel(nu=0).sel(kind="block").mean("draw").values[0]
        assert stored == pytest.approx(every.mean((0, 1)), abs=1e-6)
    effect = np.nanmean(effects_of(result, "question_encoder"), 2)
    assert row_of(summary, "4")[1].startswith(f"{effect[:, 4].mean():+z.3f} [")
    half = effect[:, 3:].mean() - effect[:, :3].mean()
    assert f"later minus earlier half of the layers: {half:+z.3f} [" in claims["encoder"]["because"]


def check_noise_level(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result, levels = xr.open_datatree(out / "multiplicative.zarr"), xr.open_datatree(out / "levels.zarr")
    clean, corrupted = result["clean"].probability.values, result["corrupted"].isel(nu=1)
    total = clean[:, None] - corrupted.probability.values
    assert result.nu[1] == 5 and total.mean() > 0.3
    behind = corrupted.logit_difference.values < 0
    restored = result["question_encoder"].probability.values[:, 1, :, 0]
    effect = restored - corrupted.probability.values[..., None, None]
    correlations = [np.corrcoef(*one[:, np.isfinite(one[0])])[0, 1] for one in effect]
    gamma = [np.nanmean(e.mean(0)) / t.mean() for e, t in zip(effect, total, strict=True) if t.mean() >= 0.05]
    row = row_of(summary.split("## multiplicative")[1], "5")
    lost = (total.mean(1) / clean).mean()
    assert row[1].startswith(f"{lost:+z.3f} [")
    assert row[2] == f"{behind.mean():.2f} to {(behind | (corrupted.probability.values <= 0.5)).mean():.2f}"
    # there are as many tokens in a map as its question has, so that each map has its own mean
    assert row[3].startswith(f"{np.mean(gamma):+z.3f} [") and row[3].endswith(f"n = {len(gamma)}")
    assert row[5].startswith(f"{np.mean(correlations):+z.3f} [")
    assert row_of(summary, "all questions")[1] == ("5" if lost >= 0.5 else "none")
    assert row_of(summary.split("## scale")[1], "5")[5] == "all draws alike"
    assert xr.open_datatree(out / "scale.zarr").sizes["draw"] == 1
    stored = levels["multiplicative/overtaken"].value.sel(group="all questions", nu=5)
    assert float(stored) == pytest.approx(behind.mean())
    assert f"mean share lost: {lost:+z.3f}" in claims["paper"]["because"]


def edge_of(line: dict[str, str]) -> nnblip.Edge:
    """A line of the file of a circuit."""
    first, last = (
        [nnblip.Site(line[f"{end}_component"], line[f"{end}_kind"], int(line[f"{end}_layer"]), int(token))
         for token in line[f"{end}_token"].split()]
        for end in ("sender", "receiver")
    )  # fmt: skip
    return nnblip.Edge(first, last[0], line["input"])


def check_planted(out: Path, summary: str, claims: dict[str, Any]) -> None:
    """Each method on two plants: what theory says of them."""
    found = xr.open_datatree(out / "auroc.zarr").to_dataset()
    assert found["kind"].values.tolist() == ["layer", "or"]
    layer, either = (
        dict(zip(found["method"].values.tolist(), one.tolist(), strict=True)) for one in found.auroc.values
    )
    assert {name for name, value in layer.items() if value < 1} == {"attention weights"}, "one way: all see it"
    sorts = sys.modules["nnblip_experiment_planted"].sorts_of(nnblip.planted("or", 0, examples=1))
    for name in ("states", "edges"):
        share = sorts[name].shown["noising"].sum() / sorts[name].planted.sum()
        assert 0 < share < 1, "what comes after the two ways meet"
        assert either[f"{name}, damaged"] == pytest.approx(share + (1 - share) / 2), "the others are found by chance"
    assert either["states, restored"] == either["edges, restored"] == 1, "either of two ways suffices"
    assert either["knock-out map"] == pytest.approx((1 + 1 / 3) / 2), "the last of three cuts, the others by chance"
    for name in ("attribution patching", "integrated gradients"):
        assert max(either[f"states, {name}"], either[f"edges, {name}"]) < 0.7, "flat on both sides of a threshold"
    assert either["Grad-CAM"] == 0.5 < 0.9 < either["attention weights"] < 1
    for place, kind in enumerate(("layer", "or"), 1):
        for name in found["method"].values.tolist():
            one = found.isel(plant=place - 1).sel({"method": name})
            cell = row_of(summary, name)[place]
            assert cell.rstrip("*") == f"{one.auroc.item():.2f}"
            assert cell.endswith("*") == (one.auroc_of_shown.item() == 1 and one.auroc.item() < 1), kind
    assert claims["shown"]["said"] == HOLDS and claims["whole"]["said"] == HOLDS


def check_mechanisms(out: Path, summary: str, claims: dict[str, Any]) -> None:
    data = xr.open_datatree(out / "circuits" / "0.zarr").to_dataset()
    result = xr.open_datatree(out / "runs_0.zarr")
    lost = (result["clean"].logit_difference - result["corrupted"].logit_difference.squeeze()).values
    assert lost.mean() > 1, "a model without effects would pass"
    np.testing.assert_allclose(data["all"].values, lost[-data.sizes["example"] :], atol=1e-3)
    shares = data.left.values.mean(0) / data["all"].values.mean()
    curve = dict(zip(data.share.values.tolist(), shares.tolist(), strict=True))
    assert curve[100] == pytest.approx(1, abs=1e-3), "all edges are the clean run"
    shares, values = np.array([*curve, 0]) / 100, np.array([*curve.values(), 0])
    cpr = sum((a - b) * (x + y) / 2 for a, b, x, y in zip(shares, shares[1:], values, values[1:], strict=False))
    row = row_of(summary.split("## Circuits")[1], "object")
    assert float(row[2]) == pytest.approx(cpr, abs=6e-4)
    with (out / "circuit_object.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert row[4].startswith(f"{curve[5]:+z.3f}")
    assert len(lines) == int(data.member.sum()) > 0 and row[5].startswith(f"{len(lines)} (")
    assert row[6].startswith(f"{data.circuit.values.mean() / data['all'].values.mean():+z.3f}")
    # the circuit, read from its file, run on the examples that did not choose it
    edges = [edge_of(line) for line in lines]
    held_out = [e for e in nnblip.datasets.open_dataset("scenes:3000") if e.id in set(data.example.values.tolist())]
    held_out.sort(key=lambda e: data.example.values.tolist().index(e.id))
    tree = nnblip.circuit_trace(
        nnblip.BlipVQA(), held_out, {"it": edges}, nu=1, draws=1, noise="mean", progress=False
    )["circuits"]  # fmt: skip
    brought = (
        tree.logit_difference.squeeze() - result["corrupted"].logit_difference.squeeze()[-len(held_out) :]
    ).values
    np.testing.assert_allclose(brought, data.circuit.values, atol=1e-2)


def check_replications(out: Path, summary: str, claims: dict[str, Any]) -> None:
    noise, scale = xr.open_datatree(out / "noise.zarr"), xr.open_datatree(out / "scale.zarr")
    clean = noise["clean"].probability.values
    assert (clean - noise["corrupted"].probability.values.mean((1, 2))).mean() > 0.3
    assert row_of(summary, "high_score: P(answer), clean")[2].startswith(f"{clean.mean():+z.3f}")
    restored = noise["question_encoder"].probability.sel(kind="block").values[:, 0].mean(1)
    best = np.nanmax(restored.reshape(len(clean), -1), 1).mean()
    assert row_of(summary, "scores: highest of the question encoder's map")[2].startswith(f"{best:+z.3f}")
    layers = np.nanmean(restored, 2) - noise["corrupted"].probability.values.mean((1, 2))[:, None]
    late = (layers[:, 3:].mean(1) - layers[:, :3].mean(1)).mean()
    row = row_of(summary, "later minus earlier half of the layers, question encoder, effect on P(answer)")
    assert float(row[2].split()[0]) == pytest.approx(late, abs=6e-4)

    # the second notebook: blocks of both, and windows in the question encoder alone
    assert scale["answer_decoder"].kind.values.tolist() == ["block"]
    blocks = scale["question_encoder"].probability.sel(kind="block").values
    best = np.nanmax(blocks.reshape(len(clean), -1), 1).mean()
    assert row_of(summary, "second notebook, scores: highest, question encoder")[2].startswith(f"{best:+z.3f}")
    cells = scale["cells"].to_dataset()
    assert set(cells.component.values) == {"question_encoder"}
    for kind in ("attention", "crossattention"):
        best = np.nanmax(cells.probability.values[..., cells.kind.values == kind].reshape(len(clean), -1), 1).mean()
        row = row_of(summary, f"second notebook, scores: highest of three layers, {kind}, question encoder")
        assert row[2].startswith(f"{best:+z.3f}")

    for column, name in ((2, "another_picture"), (3, "another_word")):
        pair = xr.open_datatree(out / f"{name}.zarr").to_dataset()
        assert pair.total.values.min() > 1 and pair.corrupted.values.mean() < 0.3
        for kind, said in (("attention_out", "self-attention"), ("crossattention_out", "cross-attention")):
            gained, total = pair.effect.sel(kind=kind).values.mean(1), pair.total.values
            for estimate, how in (
                (gained.mean() / total.mean(), "ratio of means"),
                ((gained / total).mean(), "patching effect"),
            ):
                row = row_of(summary, f"{how}, {said}, mean over layers and tokens")
                assert float(row[column].split()[0]) == pytest.approx(estimate, abs=6e-4)

    cut = scale["knock_outs"].probability
    table = summary.split("## Attention knock-outs")[1]
    for layer in range(6):
        row = row_of(table, str(layer))
        for column, edges, reach in (
            (1, "image_to_question", 0),
            (2, "image_to_question", 1),
            (6, "question_to_answer", 1),
        ):
            span = range(max(0, layer - reach), min(6, layer + reach + 1))
            left = cut.sel(knock_out=nnblip.knock_out(edges, layers=span).name).values
            change = 100 * (left - scale["clean"].probability.values) / scale["clean"].probability.values
            assert float(row[column].split()[0]) == pytest.approx(change.mean(), abs=6e-4)
            assert change.min() < -50 or layer < 4 or not reach, "what is read in the last layers is needed"

    said = xr.open_datatree(out / "lens.zarr")["decoder_lens"].said.values
    same = (said[:, -2] == said[:, -1]).mean()
    assert f"from the last layer but one: {same:+z.3f}" in claims["lens"]["because"]


def check_multi_state(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result = xr.open_datatree(out / "result.zarr")
    effect = effects_of(result, "question_encoder")
    for column, layers in ((1, slice(None)), (4, slice(5, 6)), (5, slice(4, 5))):  # all, the last, the one before
        mean = np.mean([np.nanmean(one[layers]) for one in effect])
        assert row_of(summary, "1")[column].startswith(f"{mean:+z.3f} "), "windows of one layer are single states"
    cells = nnblip.indirect_effect(result)["cells"].probability.isel(nu=0).mean("draw")
    both = cells.isel(cell=np.flatnonzero((cells.kind == "block") & (cells.width == 2)))
    later = [effect[:, layer + 1, token] for layer, token in zip(both.layer.values, both.token.values, strict=True)]
    wider = np.nanmean(both.values - np.stack(later, 1), 1).mean()
    assert f"two blocks minus the later one alone: {wider:+z.3f}" in claims["wider"]["because"]

    pair = xr.open_datatree(out / "pairs.zarr").to_dataset()
    means = pair.mean(("example", "draw"))
    for name, extra in zip(means.pair.values, means.interaction.values, strict=True):
        alone = [float(means.effect.sel(cell=one)) for one in name.split(" and ")]
        assert extra == pytest.approx(float(means.effect.sel(cell=name)) - sum(alone), abs=1e-6)
    names = [f"{part} {layer}" for part in ("question encoder", "answer decoder") for layer in range(6)]
    assert pair.state.values.tolist() == names[:-1], "every layer but the decoder's last"
    inner = [f"{a} and {b}" for a, b in combinations(names[:6], 2)]
    assert f"{float(means.interaction.sel(pair=inner).mean()):+z.3f}" in claims["redundant"]["because"]

    sets = xr.open_datatree(out / "greedy.zarr").to_dataset()
    halves = {"chosen": 0, "fresh": 0}
    for example in sets.example.values:
        one = sets.sel(example=example)
        found = int((one.site != "").sum())
        row = f"| {found}: {', '.join(one.site.values[1 : found + 1])} |"
        for noise in ("chosen", "fresh"):
            steps = one.probability.sel(noise=noise).mean("draw").values[: found + 1]
            shares = (steps - steps[0]) / (float(one.clean) - steps[0])
            row += f" {shares[-1]:+z.2f} |"
            halves[noise] += shares[-1] >= 0.5
            if noise == "chosen":
                assert (shares[:-1] < 0.5).all() and (shares[-1] >= 0.5 or found == 3)
                single = result["question_encoder"].probability.sel(example=example, nu=5, kind="block").mean("draw")
                assert steps[1] >= float(single.max()) - 1e-6, "the best state comes first"
        assert row in summary
    assert f"restore half in {halves['chosen']} of {sets.sizes['example']} examples" in summary
    assert f"and in {halves['fresh']} on fresh draws" in summary
    fresh = float(sets.end.sel(noise="fresh").mean())
    assert f"share that they restore on fresh draws: {fresh:+z.3f}" in claims["sets"]["because"]


def check_cross_dataset(out: Path, summary: str, claims: dict[str, Any]) -> None:
    result, profiles = xr.open_datatree(out / "result.zarr"), xr.open_datatree(out / "profiles.zarr")
    total = (result["clean"].probability - result["corrupted"].probability.isel(nu=0)).mean("draw").values
    source = np.array(["easy" in name for name in result.example.values])
    assert total.mean() > 0.3 and 0 < source.sum() < len(source)
    shares = np.nanmean(effects_of(result, "question_encoder"), 2) / np.where(total >= 0.05, total, np.nan)[:, None]
    for name, mine in (("scenes", ~source), ("easy-vqa", source)):
        stored = profiles["dataset/question_encoder"].value.sel(dataset=name)
        assert stored.values == pytest.approx(np.nanmean(shares[mine], 0), abs=1e-5)
        half = np.nanmean(shares[mine][:, 3:].mean(1) - shares[mine][:, :3].mean(1))
        shape = np.nanmean(shares[~mine], 0)
        r = np.nanmean([np.corrcoef(one, shape)[0, 1] for one in shares[mine]])
        row = row_of(summary, f"{name}, question encoder")
        assert row[1].startswith(f"{half:+z.3f} [") and row[2].startswith(f"{r:+z.3f} [")
    decoder = profiles["dataset/answer_decoder"]
    assert decoder.layer.values.tolist() == [0, 1, 2, 3, 4], "not the last, which is the answer"
    names = [f"{name}, {part}" for part in ("question encoder", "answer decoder") for name in ("scenes", "easy-vqa")]
    for column, key in ((1, "late"), (2, "follow")):
        every = [[float(x) for x in re.findall(r"[+-]\d+\.\d+", row_of(summary, name)[column])][1:] for name in names]
        bounds = [one or [np.nan, np.nan] for one in every]  # too few examples with a total effect have no interval
        expected = FAILS if any(b[1] < 0 for b in bounds) else HOLDS if all(b[0] > 0 for b in bounds) else OPEN
        assert claims[key]["said"] == expected


# --- figures -----------------------------------------------------------------


def test_figures_hold_everything_whatever_is_asked():
    plot_greedy = vars(__import__("sys").modules[index.load("multi_state").run.__module__])["plot_greedy"]
    steps, rng = 5, np.random.default_rng(0)
    long = ["what is the color of the thing that stands beside the other thing", "is it"] * 2
    sets = xr.Dataset(
        {
            "share": (("example", "noise", "step"), rng.random((4, 2, steps))),
            "early": (("example", "noise"), rng.random((4, 2))),
            "states": ("example", [steps - 1] * 4),
            "site": (("example", "step"), [["", *(f"5.{n} $word$" for n in range(steps - 1))]] * 4),
        },
        {"noise": ["chosen", "fresh"], "question": ("example", long), "answer": ("example", ["red"] * 4)},
    )
    for size in (1, 2, 4):
        all_inside(plot_greedy(sets.isel(example=slice(size))))
