"""The user's own blocks on a real server: what a stand-in cannot do (`tests/remote/test_blocks.py` runs here too)."""

import nnsight
import pytest
import torch

import nnblip


def test_a_session_that_reads_images_there(model, there, server):
    image, question = nnblip.demo.examples()[0].image, nnblip.demo.examples()[0].question
    with there.session():
        with there.clean(image, question) as clean:
            pass
        found = (clean.probability, clean.answer).save()
    with model.clean(image, question) as here:
        pass
    assert found[0] == pytest.approx(here.probability, abs=1e-5)
    assert found[1] == here.answer


def test_gradients_there(model, there, server):
    image, question = nnblip.demo.examples()[0].image, nnblip.demo.examples()[0].question
    found = []
    for where in (model, there):
        with where.trace(image, question):
            state = where.question_encoder.layer[1].output.detach().requires_grad_()
            where.question_encoder.layer[1].output = state
            loss = where.text_decoder.output.logits[0, 0].logsumexp(-1)
            loss.backward()
            gradient = state.grad.save()
        found.append(gradient)
    assert found[0].abs().max() > 1e-6
    assert (found[1] - found[0]).abs().max() < 1e-4


def test_as_many_threads_as_here(there, server):
    with there.session():
        threads = nnsight.save([torch.get_num_threads()])
    assert threads == [torch.get_num_threads()]
