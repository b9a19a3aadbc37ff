"""The user's own blocks on a server: clean, corrupt, trace, session, each against the same block here."""

import os

import nnsight
import pytest
import torch
from helpers.scenes import VISIBLE, visible

import nnblip
from nnblip.errors import NnblipError, RemoteError
from nnblip.remote import client
from nnblip.sites import Site

SITE = Site("question_encoder", layer=4, token=0)


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


def same(here, away):
    assert (away.answer_ids, away.answer, away.rival) == (here.answer_ids, here.answer, here.rival)
    for name in ("probability", "log_probability", "logit_difference"):
        assert getattr(away, name) == pytest.approx(getattr(here, name), abs=1e-4), name


@pytest.mark.slow
def test_clean_and_what_its_body_saves(model, there, stock, seen):
    image, question, truth = seen
    found = []
    for where in (model, there):
        with where.clean(image, question) as run:
            patches = where.image_encoder.output.last_hidden_state.save()
            where.answer_decoder.layer[5].output[:] = 0
            edited = where.answer_decoder.layer[5].output.save()
        found.append((run, patches, edited))
    (here, *expected), (away, *saved) = found
    same(here, away)
    assert here.probability != pytest.approx(truth.clean.probability, abs=1e-3), "the edit matters"
    for one, other in zip(saved, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_states_stay_there(there, stock, seen):
    image, question, truth = seen
    with there.clean(image, question, there.text(truth.answer)) as clean:
        pass
    assert clean.probability == pytest.approx(truth.clean.probability, abs=1e-5)
    with pytest.raises(NnblipError, match=r"stayed on the server.*\.save\(\)"):
        clean.states["question_encoder", "block", 3]
    with pytest.raises(NnblipError, match="stayed on the server"):
        _ = clean.image_embeds
    ((up, down),) = stock
    assert up < 200_000 and down < 8_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restore": SITE},
        {"restore": [Site("question_encoder", "attention_head", 2, 0, 1), Site("answer_decoder", layer=1, token=0)]},
        {"restore": SITE, "freeze": ["crossattention"], "seed": 3, "draw": 2},
        {"restore": Site("image_encoder", layer=1, token=5), "noise_at": "pixels", "noise": "additive"},
        {"knock_out": nnblip.knock_out("image_to_question", layers=[1, 2])},
    ],
)  # fmt: skip
def test_corrupt(model, there, stock, seen, options):
    image, question, truth = seen
    runs = []
    for where in (model, there):
        with where.clean(image, question) as clean:
            pass
        with where.corrupt(clean, nu=5, **options) as run:
            last = where.question_encoder.layer[5].output.save()
        runs.append((run, last))
    (here, expected), (away, last) = runs
    same(here, away)
    torch.testing.assert_close(last, expected, atol=1e-3, rtol=1e-3)
    assert truth.clean.probability - here.probability > VISIBLE / 2 or "restore" in options
    with pytest.raises(NnblipError, match="stayed on the server"):
        _ = away.image_embeds


@pytest.mark.slow
def test_a_body_that_puts_back_clean_states_by_hand(there, stock, seen):
    image, question, truth = seen
    with there.clean(image, question) as clean:
        pass
    with there.corrupt(clean, nu=5.0, seed=0) as run:
        there.question_encoder.layer[4].output[:, 0] = clean.states["question_encoder", "block", 4][:, 0]
    assert run.probability == pytest.approx(truth.restored(truth.noisy(5.0), SITE).probability, abs=1e-4)


@pytest.mark.slow
def test_an_edit_in_the_clean_block_is_in_the_states_that_are_put_back(model, there, stock, seen):
    """They are made anew on the server, from what was sent then: later changes of what it refers to do not count."""
    image, question, _ = seen
    runs = []
    for where, later in ((model, 0.2), (there, 1.0)):
        factor = [0.2]
        with where.clean(image, question, "red") as clean:
            where.question_encoder.layer[3].output[:] = where.question_encoder.layer[3].output * factor[0]
        factor[0] = later
        with where.corrupt(clean, nu=5, restore=SITE) as run:
            pass
        runs.append(run)
    with model.clean(image, question, "red") as clean:
        pass
    with model.corrupt(clean, nu=5, restore=SITE) as plain:
        pass
    assert abs(plain.log_probability - runs[0].log_probability) > 1e-2, "the edit matters"
    same(*runs)


@pytest.mark.slow
def test_swapped_images(model, there, stock, seen):
    image, question, truth = seen
    other = next(e.image for e in nnblip.demo.examples() if model.answer(e.image, question).ids[0] != truth.answer[0])
    runs = []
    for where in (model, there):
        with where.clean(image, question) as clean:
            pass
        with where.corrupt(clean, nu=1, noise="swap", partner=other) as run:
            pass
        runs.append(run)
    same(*runs)
    assert runs[0].answer != clean.answer


def test_what_is_there_and_what_is_here_do_not_mix(model, there, stock, seen):
    image, question, _ = seen
    with model.clean(image, question, remote=True) as away:
        pass
    with pytest.raises(NnblipError, match="give both the same remote="):
        model.corrupt(away, nu=5)
    with pytest.raises(NnblipError, match="remote=False: this model has no weights here"):
        there.clean(image, question, remote=False)
    early = there.clean(image, question)
    with pytest.raises(NnblipError, match="known after the `with` block"):
        _ = early.answer


def test_errors_of_nnblip_and_of_the_body(there, stock, seen):
    image, question, _ = seen
    cut = nnblip.knock_out("image_to_question", layers=[9])
    with pytest.raises(nnblip.errors.SiteError, match="layer 9"), there.clean(image, question, knock_out=cut):
        pass
    with pytest.raises(RemoteError, match="1 / nothing"), there.clean(image, question):
        nothing = 0
        there.question_encoder.layer[0].output[:] = 1 / nothing


@pytest.mark.slow
def test_a_trace_of_the_users_own(model, there, stock, seen):
    image, question, truth = seen
    found = []
    for where in (model, there):
        with where.trace(image, question, answer=model.text(truth.answer)):
            where.question_encoder.layer[2].output[:, 1] = 0
            logits = where.output.logits.save() if hasattr(where, "logits") else where.text_decoder.output.logits.save()
        found.append(logits)
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=0)
    assert max(up for up, _ in stock) < 200_000


@pytest.fixture(autouse=True)
def not_looked_at(monkeypatch):
    monkeypatch.setattr(client, "_SERVED", set())


@pytest.mark.slow
def test_a_session_is_one_request(model, there, stock, seen):
    encoded = model.encode(*seen[:2])  # a stock server need not have what reads images
    runs = []
    for where in (model, there):
        with where.session():
            with where.clean(encoded) as clean:
                pass
            with where.corrupt(clean, nu=5, restore=SITE) as run:
                pass
            with where.trace(encoded):
                state = where.question_encoder.layer[4].output
            numbers = [clean.probability, run.probability].save()
            distance = (clean.states["question_encoder", "block", 4] - state).abs().max().save()
        runs.append((numbers, distance))
    assert len(stock) == 2  # the first looks at what is served
    assert runs[0][0][0] - runs[0][0][1] > 1e-3
    assert runs[1][0] == pytest.approx(runs[0][0], abs=1e-4)
    assert float(runs[1][1]) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif("NNBLIP_SERVER_PYTHON" in os.environ, reason="a real server can")
def test_a_session_on_a_server_that_cannot_read_images(there, stock, seen):
    path, question = "scene.png", seen[1]
    says = r"call model\.encode\(image, question\) before the session"
    with pytest.raises(RemoteError, match=says), there.session():
        there.clean(path, question)


def test_nnsights_own_rehearsal(model, seen):
    """remote="local" serializes and runs here."""
    image, question, _ = seen
    with model.trace(image, question, remote="local"):
        rehearsed = model.question_encoder.layer[3].output.save()
    with model.trace(image, question):
        state = model.question_encoder.layer[3].output.save()
    assert torch.equal(rehearsed, state)


def test_the_model_is_looked_at_before_the_first_block(there, monkeypatch, seen):
    image, question, _ = seen
    asked = []
    monkeypatch.setattr(client, "ask", lambda model, name, **_: asked.append(name))
    for _ in range(2):
        there.trace(image, question)
    assert asked == ["nothing"]


@pytest.mark.slow
def test_edits_and_operations_inside_a_module(model, there, stock, seen):
    image, question, _ = seen
    found = []
    for where in (model, there):
        with where.edit() as (_tracer, edited):
            edited.question_encoder.layer[3].output[:] = 0
        with edited.trace(image, question):
            query = edited.question_encoder.layer[0].crossattention.self.source.self_query_0.output.save()
            logits = edited.text_decoder.output.logits.save()
        with where.trace(image, question):
            plain = where.text_decoder.output.logits.save()
        found.append((query, logits, plain))
    here, away = found
    assert (here[1] - here[2]).abs().max() > 1e-2, "the edit matters"
    for one, other in zip(away, here, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_shapes_need_no_server(there, seen):
    with there.scan(*seen[:2]):
        shape = nnsight.save(tuple(there.question_encoder.layer[0].output.shape))
    assert shape == (1, len(there.encode(*seen[:2]).tokens), there.config.text_config.hidden_size)
