"""Remote traces against local ones and, since both could be wrong alike, against the oracle."""

import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.scenes import VISIBLE, visible

import nnblip
from nnblip.remote import client
from nnblip.sites import HEAD_KINDS, KINDS, Site

#: Logits and log-probabilities: other builds of torch round otherwise.
CLOSE = 5e-5


@pytest.fixture(scope="session")
def seen(local):
    return visible(local)


def assert_same(one, other):
    assert {node.path for node in one.subtree} == {node.path for node in other.subtree}
    for node in other.subtree:
        for name, values in node.data_vars.items():
            np.testing.assert_allclose(one[node.path][name], values, atol=CLOSE, rtol=0, err_msg=f"{node.path} {name}")


ASKED = {
    "ν and draws": dict(nu=[0, 1, 5], draws=3),
    "every kind": dict(draws=1, kinds=list(KINDS)),
    "noising": dict(draws=2, direction="noising", kinds=["crossattention"]),
    "windows": dict(draws=1, cells=nnblip.sites.windows([1, 3], kind="attention")),
    "tokens together, noising": dict(draws=1, cells=nnblip.sites.all_tokens(), direction="noising"),
    "a family of the user's": dict(
        draws=1, cells=lambda extent: [(Site("question_encoder", "block", 1, 1), Site("answer_decoder", "block", 2, 0))]
    ),
    "frozen": dict(draws=1, freeze=["crossattention", "mlp_out"]),
    "regions": dict(draws=1, noise_at="pixels", components=["image_encoder", "answer_decoder"], regions=4),
    "patches": dict(draws=1, noise_at="patch_embeds"),
    "knock-out": dict(draws=1, knock_out=nnblip.knock_out("image_to_question", layers=[1, 2])),
    **{f"noise {kind}": dict(draws=1, noise=kind) for kind in ("additive", "uniform", "scale", "mean", "shuffle")},
}


@pytest.mark.parametrize("name", ASKED)
def test_equal_to_local(far, local, seen, name):
    image, question, _ = seen
    examples = [nnblip.Example(image, question, id="seen")]
    here = nnblip.causal_trace(local, examples, progress=False, **ASKED[name])
    assert_same(nnblip.causal_trace(far, examples, progress=False, **ASKED[name]), here)


def test_swapped_images(far, local, seen):
    image, question, truth = seen
    other = next(
        example.image
        for example in nnblip.demo.examples()
        if local.answer(example.image, question).ids[0] != truth.answer[0]
    )
    examples = [nnblip.Example(image, question, partner=other)]
    here, there = (
        nnblip.causal_trace(model, examples, noise="swap", nu=1, draws=1, progress=False) for model in (local, far)
    )
    assert_same(there, here)


def test_agrees_with_the_oracle(far, seen):
    image, question, truth = seen
    tree = nnblip.causal_trace(far, [(image, question)], draws=2, kinds=list(KINDS), progress=False)
    assert float(tree["clean"].probability[0] - tree["corrupted"].probability.min()) > VISIBLE
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for component in ("question_encoder", "answer_decoder"):
            node = tree[component + "_heads" * (kind in HEAD_KINDS)]
            draw, nu = int(rng.integers(2)), 5.0
            where = {n: int(rng.integers(node.sizes[n])) for n in ("layer", "token", "head") if n in node.sizes}
            expected = truth.restored(truth.noisy(nu, draw=draw), Site(component, kind, **where))
            found = node.isel(example=0).sel(nu=nu, draw=draw, kind=kind, **where)
            # float32 itself is no better, see `helpers.cells.agree`
            for name, close in {"probability": 3e-5, "log_probability": 1e-3, "logit_difference": 1e-3}.items():
                assert float(found[name]) == pytest.approx(getattr(expected, name), abs=close), (kind, where, name)


def test_an_answer(far, local):
    for example in nnblip.demo.examples()[:3]:
        here, there = (model.answer(example.image, example.question) for model in (local, far))
        assert there.text == here.text
        assert there.probability == pytest.approx(here.probability, abs=1e-5)


def test_one_small_request_for_a_map(far, monkeypatch):
    made, init = [], client.Backend.__init__
    monkeypatch.setattr(client.Backend, "__init__", lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1])
    nnblip.causal_trace(far, nnblip.demo.examples()[:1], draws=10, progress=False)
    (backend,) = made
    assert 0 < backend.received < 65_536
    assert 0 < backend.sent < 400_000


def test_a_sweep_with_several_in_flight_stopped_and_resumed(far, local, tmp_path, monkeypatch):
    from nnblip.sweeps.store import Store

    examples = nnblip.demo.examples()[:8]
    here = nnblip.sweep(local, examples, tmp_path / "here.zarr", draws=2, progress=False)
    assert float(abs(here["clean"].probability - here["corrupted"].probability).max()) > VISIBLE
    now, most, ask, count = [0], [0], client.ask, iter(range(99))

    def counted(*args, **options):
        now[0] += 1
        most[0] = max(most[0], now[0])
        try:
            return ask(*args, **options)
        finally:
            now[0] -= 1

    def stopped(*args):
        if next(count) == 3:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(client, "ask", counted)
    write = Store.write
    monkeypatch.setattr(Store, "write", stopped)
    out = tmp_path / "there.zarr"
    with pytest.raises(KeyboardInterrupt, match="3 of 8 examples finished"):
        nnblip.sweep(far, examples, out, draws=2, progress=False, in_flight=3)
    assert most[0] == 3
    assert sorted(Store(out).status()) == ["done"] * 3 + ["pending"] * 5
    while now[0]:  # what was in flight when it stopped
        time.sleep(0.05)
    there = nnblip.sweep(far, examples, out, draws=2, progress=False)
    assert list(there.status.values) == ["done"] * 8
    assert most[0] == 4
    for path in ("clean", "corrupted", "question_encoder", "answer_decoder"):
        np.testing.assert_allclose(there[path].probability, here[path].probability, atol=CLOSE)


def test_several_examples_keep_their_order(far, local):
    examples = nnblip.demo.examples()[:6]
    here, there = (nnblip.causal_trace(model, examples, draws=1, progress=False) for model in (local, far))
    assert list(there.question.values) == list(here.question.values)
    assert_same(there, here)


def test_gradients(far, local):
    examples = nnblip.demo.examples()[:1]
    asked = dict(nu=[1, 3], draws=2, steps=2, kinds=["block", "attention_head", "mlp_out"], progress=False)
    asked["components"] = ["image_encoder", "question_encoder", "answer_decoder"]
    here, there = (nnblip.attribution_trace(model, examples, **asked) for model in (local, far))
    effects = nnblip.indirect_effect(here)
    for node in effects.children:
        if node not in ("clean", "corrupted", "check"):
            for name, effect in effects[node].data_vars.items():
                largest = float(abs(effect).max())
                # Gauss and Legendre's two steps say little of a probability, and yet far more than the tolerance
                assert largest > 20 * CLOSE, (node, name)
                np.testing.assert_allclose(there[node][name], here[node][name], atol=CLOSE * largest, rtol=0)
    np.testing.assert_allclose(there["check"].rank_correlation, here["check"].rank_correlation, atol=0.02)


def test_choosing_by_its_answers(far, local):
    questions = list(nnblip.datasets.generated_scenes(20, seed=77))
    for choose in (nnblip.datasets.correct, nnblip.datasets.partners):
        here, there = (choose(model, questions) for model in (local, far))
        assert 5 < len(list(here)) <= 20
        assert [(e.id, e.extra.get("partner_id")) for e in there] == [(e.id, e.extra.get("partner_id")) for e in here]
        assert there.left_out == here.left_out


def test_the_command(server, tmp_path):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "nnblip", "trace", "--remote", "--draws", "1", "--out", tmp_path / "out"],
        env=os.environ | {"NDIF_HOST": server.url}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The answer is " in done.stdout
