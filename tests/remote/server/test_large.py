"""Requests over 1 MiB (which NDIF's API once refused) and results over 8 MiB (which go by the object store)."""

import numpy as np
import torch
from helpers.slow import Tabled, weights

import nnblip
from nnblip.remote import client, errand

EXAMPLES = nnblip.demo.examples()


def test_a_large_request(far, local, monkeypatch):
    made, init = [], client.Backend.__init__
    monkeypatch.setattr(client.Backend, "__init__", lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1])
    noise = Tabled(np.random.default_rng(0).standard_normal(3_000_000, dtype=np.float32))
    here, there = (
        nnblip.causal_trace(model, EXAMPLES[:1], draws=2, noise=noise, progress=False) for model in (local, far)
    )
    assert made[0].sent > 10 * 2**20
    for path in ("clean", "corrupted", "question_encoder", "answer_decoder"):
        np.testing.assert_allclose(there[path].log_probability, here[path].log_probability, atol=5e-5)
    assert float(abs(here["clean"].probability - here["corrupted"].probability).max()) > 0.1


def test_a_large_result(far, local, monkeypatch):
    monkeypatch.setattr(errand, "weights", weights)
    there = client.ask(far, "weights")
    assert there.nbytes > 12 * 2**20
    assert torch.equal(there, weights(local))
