"""Requests without a server: what they bring suffices, they are small, faults are named, nothing waits for ever."""

import ast
import io
import json
import os
import pickle
import threading
import types

import httpx
import numpy as np
import pytest
import torch
import websocket
from helpers.trees import said
from nnsight.intervention.backends.remote import RemoteError as ServerSays
from nnsight.schema.config import CONFIG

import nnblip
from nnblip import errors
from nnblip.blip import upstream
from nnblip.errors import InputError, NnblipError, RemoteError
from nnblip.remote import client, errand
from nnblip.remote.faults import faults
from nnblip.remote.sources import needed
from nnblip.runs.envelope import opened, sealed


@pytest.fixture(scope="module")
def local(model):
    return model


def assert_same(one, other):
    assert {node.path for node in one.subtree} == {node.path for node in other.subtree}
    for node in other.subtree:
        for name in node.data_vars:
            np.testing.assert_allclose(one[node.path][name], node[name], atol=2e-5, rtol=0, err_msg=node.path)


def test_structure_without_weights(there):
    assert {parameter.device.type for parameter in there._module.parameters()} == {"meta"}
    assert [name for name, _ in there._module.named_parameters()] == [
        name for name, _ in nnblip.BlipVQA()._module.named_parameters()
    ]


def test_the_model_key_names_what_a_stock_server_serves(there):
    assert there.to_model_key().startswith("nnsight.modeling.transformers.TransformersModel:{")
    assert '"task": "document-question-answering"' in there.to_model_key()


def test_everything_a_request_needs_travels_with_it(there, local, stock):
    """Heads, cells of several sites, a family of the user's own, frozen sublayers, cut edges."""
    asked = dict(
        nu=[1, 5], draws=2, progress=False, kinds=["block", "crossattention_head"], freeze=["attention"],
        cells=lambda extent: [tuple(nnblip.Site("question_encoder", "block", 1, t) for t in range(2))],
        knock_out=nnblip.knock_out("image_to_question", layers=[2]),
    )  # fmt: skip
    example = nnblip.demo.examples()[0]
    result = nnblip.causal_trace(there, [example], **asked)
    assert_same(result, nnblip.causal_trace(local, [example], **asked))
    assert float(abs(result["clean"].probability - result["corrupted"].probability).max()) > 0.1


def test_sizes_of_a_map_in_which_the_key_is_nowhere(there, stock, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "a-secret-key")
    tree = nnblip.causal_trace(there, nnblip.demo.examples()[:1], draws=10, progress=False)
    assert nnblip.demo.examples()[0].question in said(tree) and "a-secret-key" not in said(tree)
    ((up, down),) = stock  # one request
    assert up < 400_000
    assert down < 65_536


def test_an_answer(there, local, stock):
    example = nnblip.demo.examples()[0]
    here, far = (model.answer(example.image, example.question) for model in (local, there))
    assert (far.text, far.ids) == (here.text, here.ids)
    assert far.probability == pytest.approx(here.probability, abs=1e-6)


@pytest.mark.slow
def test_attention_and_lenses(there, local, stock):
    """Grad-CAM too, whose gradients no weight needs."""
    examples = nnblip.demo.examples()[:1]
    for reading in (nnblip.attention, nnblip.lens):
        assert_same(reading(there, examples, progress=False), reading(local, examples, progress=False))
    found = nnblip.attention(there, examples, "answer_decoder", kinds="crossattention", progress=False)
    cam = found["answer_decoder/crossattention"].grad_cam
    here = nnblip.attention(local, examples, progress=False)["answer_decoder/crossattention"].grad_cam
    assert float(here.max()) > 0
    np.testing.assert_allclose(cam, here, atol=0.01 * float(here.max()), rtol=0)


@pytest.mark.slow
def test_gradients_without_weights_that_need_one(there, local, stock):
    """The stand-in freezes the weights as NDIF does."""
    asked = dict(nu=[1, 3], draws=2, steps=2, kinds=["block", "attention_head", "mlp_out"], progress=False)
    examples = nnblip.demo.examples()[:1]
    here, far = (nnblip.attribution_trace(model, examples, **asked) for model in (local, there))
    effects = nnblip.indirect_effect(here)
    for node in ("question_encoder", "answer_decoder", "question_encoder_heads", "answer_decoder_heads"):
        for name, effect in effects[node].data_vars.items():
            largest = float(abs(effect).max())
            assert largest > 0.001
            np.testing.assert_allclose(far[node][name], here[node][name], atol=max(5e-5 * largest, 1e-6), rtol=0)
    np.testing.assert_allclose(far["check"].rank_correlation, here["check"].rank_correlation, atol=0.02)
    assert float(far["check"].rank_correlation.min()) > 0.3
    assert far["question_encoder"]["method"].item() == "integrated gradients, 2 steps"
    ((_, down),) = stock
    assert down < 65_536


@pytest.mark.slow
def test_choosing_by_the_answers_of_a_server(there, local, stock):
    examples = [nnblip.Example(e.image, e.question, "red", id=str(i)) for i, e in enumerate(nnblip.demo.examples()[:6])]
    here, far = (nnblip.datasets.correct(model, examples, least=0) for model in (local, there))
    assert [p.what for p in far.left_out] == [p.what for p in here.left_out] != []
    assert [e.id for e in far] == [e.id for e in here]
    assert len(stock) == 1


@pytest.mark.slow
def test_a_sweep_asks_the_server_for_its_weights(there, local, stock):
    from nnblip.sweeps.fingerprint import fingerprint

    assert fingerprint(there)["weights"] == fingerprint(local)["weights"]


@pytest.mark.slow
def test_a_model_that_is_here_is_asked_of_the_server_too(local, stock, tmp_path):
    examples = nnblip.demo.examples()[:1]
    there = nnblip.causal_trace(local, examples, draws=1, progress=False, remote=True)
    assert there.attrs["device"] == "remote" and len(stock) == 1
    swept = nnblip.sweep(local, examples, tmp_path / "x.zarr", draws=1, progress=False, remote=True)
    assert swept.attrs["device"] == "remote" and len(stock) > 1
    np.testing.assert_array_equal(swept["question_encoder"].probability, there["question_encoder"].probability)
    with pytest.raises(nnblip.NnblipError, match="device"):  # its numbers are all from one place
        nnblip.sweep(local, examples, tmp_path / "x.zarr", draws=1, progress=False)


def test_an_error_of_ours_comes_back_as_what_it_is(there, stock):
    example = nnblip.demo.examples()[0]
    given = nnblip.Example(example.image, example.question, partner=example.image)
    with pytest.raises(InputError, match="nothing to trace"):
        nnblip.causal_trace(there, [given], noise="swap", draws=1, progress=False)


@pytest.mark.slow
def test_another_dtype_on_the_server_is_refused(stock):
    model = nnblip.BlipVQA(remote=True, dtype="bfloat16")
    with pytest.raises(nnblip.NnblipError, match="holds the model in float32, bfloat16 is asked for"):
        model.answer(nnblip.demo.examples()[0].image, "what is the color of the circle")


def test_another_architecture_is_refused(local):
    class Other:
        _module, task = torch.nn.Linear(1, 1), local.task

    with pytest.raises(nnblip.NnblipError, match="serves Linear"):
        opened(sealed(Other(), errand.nothing))


def test_what_travels_is_computed_from_the_imports_and_stays_below_the_server():
    found = needed("nnblip.remote.errand", "nnblip.model")
    folders = {name.split(".")[1] for name in found if name.count(".")}
    assert folders <= {
        "errors", "states", "noise", "roles", "edges", "paths", "sites", "examples", "blip", "passes", "runs", "remote",
        "model", "shown", "words",
    }  # fmt: skip
    assert [name for name in found if name.startswith("nnblip.remote.")] == ["nnblip.remote.errand"]
    for place, (name, text) in enumerate(found.items()):
        before = set(list(found)[:place])
        for node in ast.parse(text).body if name != "nnblip" else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nnblip"):
                assert node.module in before, f"{name} comes before {node.module}, which it imports"


def test_pixel_values_travel_bit_for_bit(local):
    import pickle

    encoded = local.encode(nnblip.demo.examples()[0].image, "what is the color of the circle")
    again = pickle.loads(pickle.dumps(encoded))
    assert torch.equal(encoded.pixel_values, again.pixel_values)
    assert (again.tokens, again.key) == (encoded.tokens, encoded.key)
    assert len(pickle.dumps(encoded)) < encoded.pixel_values.numel() * 1.5


# --- faults -------------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "HOST", "http://127.0.0.1:9")


def test_no_server(there, nobody):
    with pytest.raises(RemoteError, match=r"no server answers at http://127\.0\.0\.1:9.*nnblip serve"):
        there.answer(nnblip.demo.examples()[0].image, "what is the color of the circle")


def test_no_server_without_the_check(there, nobody, monkeypatch):
    monkeypatch.setattr(client, "check", lambda host: None)
    with pytest.raises(RemoteError, match="nnblip serve"):
        there.answer(nnblip.demo.examples()[0].image, "what is the color of the circle")


class Silent:
    """A connection to a server that takes a request and says nothing more, and the clock of who waits for it."""

    def __init__(self, monkeypatch, lives):
        self.now, self.heard, self.patience = 0.0, [json.dumps({"session_id": "1"})], 0.0
        monkeypatch.setattr(client, "check", lambda host: None)
        monkeypatch.setattr(client, "lives", lambda host: lives)
        monkeypatch.setattr(client.Backend, "send", lambda self, request, blob: None)
        monkeypatch.setattr(client, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(websocket, "create_connection", lambda *_, **__: self)

    def settimeout(self, seconds):
        self.patience = seconds

    def recv(self):
        if self.heard:
            return self.heard.pop()
        self.now += self.patience
        raise websocket.WebSocketTimeoutException

    def close(self):
        self.heard = ["closed"]


def test_a_server_that_works_for_ever_is_waited_for_until_the_deadline(there, monkeypatch):
    silent = Silent(monkeypatch, lives=True)
    with pytest.raises(RemoteError, match="deadline of 100 s passed"):
        client.ask(there, "nothing", timeout=100)
    assert 100 < silent.now < 101 and silent.heard == ["closed"]


def test_a_server_that_is_gone_is_not_waited_for(there, monkeypatch):
    silent = Silent(monkeypatch, lives=False)
    with pytest.raises(RemoteError, match="is gone"):
        client.ask(there, "nothing", timeout=100)
    assert silent.now < 60 and silent.heard == ["closed"]


def answers(monkeypatch, status, **body):
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(status, json=body))
    client.check.cache_clear()


def test_versions_that_cannot_talk_are_named(monkeypatch):
    answers(monkeypatch, 200, packages={"nnsight": "0.9.0"})
    with pytest.raises(RemoteError, match=r"nnsight 0\.9\.0.*cannot talk.*install nnsight 0\.9"):
        client.check("http://server")
    answers(monkeypatch, 200, packages={"nnsight": "0.8.7", "transformers": "4.50.1"})
    with pytest.raises(RemoteError, match=r"transformers 4\.50\.1"):
        client.check("http://server")


def test_a_server_that_is_not_ready(monkeypatch):
    answers(monkeypatch, 503, detail="reconnecting")
    with pytest.raises(RemoteError, match="not ready"):
        client.check("http://server")


def test_what_a_status_says_is_not_looked_for_in_texts():
    refusal = httpx.HTTPStatusError("", request=None, response=httpx.Response(403))  # type: ignore[arg-type]
    for cause, expected in ((refusal, "refuses the credentials"), (None, "Is the model's name right")):
        with pytest.raises(RemoteError, match=expected), faults("http://server"):
            raise ServerSays("not for 401 of you") from cause


def test_an_error_while_packing_a_block_is_shown_as_what_it_is(there, monkeypatch):
    monkeypatch.setattr(client, "check", lambda host: None)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="pickle"), there.session(backend=client.Backend(there)):
        held = lock  # noqa: F841 - what cannot travel


def test_bad_input_is_a_value_error_and_a_fault_of_the_server_is_none():
    assert not issubclass(NnblipError, ValueError) and not issubclass(RemoteError, ValueError)
    for kind in (InputError, errors.SiteError, errors.ModelError, errors.ResultError, errors.SettingError):
        assert issubclass(kind, NnblipError) and issubclass(kind, ValueError)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("Failed to send request: Invalid API key.", "refuses the credentials"),
        ("Could not deploy this model. No such repo\nTraceback: ...", "cannot serve this model"),
        ("it has no module at 'model.text_encoder'", "not the one that this client knows"),
        ("Your request payload could not be read (EOFError)", "versions differ"),
        ("Failed to send request: 413 Request Entity Too Large", "too large"),
        ("Traceback (most recent call last):\n  line 3\n    1 / 0\nZeroDivisionError", "1 / 0"),
        ("Traceback (most recent call last):\n  line 401\n    1 / 0\nZeroDivisionError", "block raised an error"),
        (
            "Traceback ...\nbotocore.exceptions.EndpointConnectionError: Could not connect",
            "object store, which is gone",
        ),
        ("Failed to send request: Missing or invalid API key. Please visit", "NDIF_API_KEY"),
        ("Failed to send request: Auth backend unavailable.", "NDIF_POSTGRES_URL"),
        ("Failed to send request: Internal server error.", "a part of the server"),
        ("Error starting model. Please try again later. Sorry for the inconvenience.", "its Ray"),
        ("something else", "nnblip serve MODEL"),
    ],
)
def test_what_the_server_says_comes_with_a_remedy(says, expected):
    with pytest.raises(RemoteError) as caught, faults("http://server"):
        raise ServerSays(says)
    assert expected in str(caught.value)


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "a-secret-key")
    for error in (ServerSays("Invalid API key format: 'a-secret-key'"), OSError("a-secret-key")):
        with pytest.raises(RemoteError) as caught, faults("http://server"):
            raise error
        assert "a-secret-key" not in str(caught.value)
        assert caught.value.__cause__ is error and "a-secret-key" not in str(error)


def test_too_large_a_request_is_not_sent(there, monkeypatch):
    monkeypatch.setattr(client, "LARGEST", 10)
    monkeypatch.setattr(client, "check", lambda host: None)
    backend = client.Backend(there)
    with pytest.raises(RemoteError, match="at most"), there.session(backend=backend):
        found = 1  # noqa: F841


def test_a_model_without_weights_does_not_trace_here(there):
    with pytest.raises(nnblip.NnblipError, match="no weights here"):
        nnblip.causal_trace(there, nnblip.demo.examples()[:1], remote=False, progress=False)


def test_a_fault_of_the_server_stops_a_sweep_and_marks_no_example(there, monkeypatch, tmp_path):
    def down(*_, **__):
        raise RemoteError("the server is gone")

    monkeypatch.setattr(client, "ask", down)
    with pytest.raises(nnblip.NnblipError, match="the server is gone"):
        nnblip.sweep(there, nnblip.demo.examples()[:2], tmp_path / "x.zarr", draws=1)


# --- what is believed ---------------------------------------------------------------------


class Runs:
    """A pickle that would run code where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_what_a_server_sends_runs_no_code_here(there, tmp_path):
    backend, planted = client.Backend(there), tmp_path / "planted"
    backend.compress = False
    content = io.BytesIO()
    torch.save({"found": Runs(planted)}, content)
    with pytest.raises(RemoteError, match="something else than tensors, numbers, texts"):
        backend.finalize(content.getvalue())
    with pytest.raises(RemoteError, match="something else than tensors"):
        backend.parse(content.getvalue())  # as a status that brings its result along
    assert not planted.exists()
    good = upstream.ResponseModel(id="1", status=upstream.Status.COMPLETED, data=b"bytes")
    assert backend.parse(good.pickle()).data == b"bytes"
    told = {"numbers": [1, 2.5, None, True, ("text",)], "tensor": torch.ones(2)}
    content = io.BytesIO()
    torch.save(told, content)
    assert backend.finalize(content.getvalue())["numbers"] == told["numbers"]


@pytest.mark.parametrize("host", ["http://server", "http://192.168.0.7:8001", "http://localhost.evil.org"])
def test_an_unencrypted_server_elsewhere_is_refused_unless_allowed(there, host, monkeypatch):
    with pytest.raises(RemoteError, match=r"is not encrypted.*NNBLIP_ALLOW_HTTP=1"):
        client.Backend(there, host=host)
    monkeypatch.setenv("NNBLIP_ALLOW_HTTP", "1")
    assert client.Backend(there, host=host).host == host


@pytest.mark.parametrize("host", ["https://server", "http://127.0.0.1:8001", "http://localhost:1", "http://[::1]:1"])
def test_this_machine_and_encrypted_servers_are_right(there, host):
    assert client.Backend(there, host=host).host == host


@pytest.mark.parametrize("host", ["server:8001", "ftp://server", "http://", "https://[::1"])
def test_what_is_no_address_is_refused(there, host):
    with pytest.raises(RemoteError, match=r"NDIF_HOST .*expected an address such as"):
        client.Backend(there, host=host)


def test_a_password_in_the_address_is_never_shown(there, monkeypatch):
    host = "http://me:a-password@127.0.0.1:9"
    monkeypatch.setattr(CONFIG.API, "HOST", host)
    client.check.cache_clear()
    with pytest.raises(RemoteError, match="no server answers") as caught:
        there.answer(nnblip.demo.examples()[0].image, "what is the color of the circle")
    assert "a-password" not in str(caught.value) + str(caught.value.__cause__)
    assert "(password)@127.0.0.1:9" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no modes here")
def test_a_record_that_others_may_write_is_not_run(tmp_path, monkeypatch):
    from nnblip.tracing import jobs

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    jobs.folder().mkdir(parents=True)
    jobs.folder().chmod(0o700)
    planted, record = tmp_path / "planted", jobs.folder() / "j1.labels"
    record.write_bytes(pickle.dumps(Runs(planted)))
    job = jobs.Job("j1", "http://127.0.0.1:9", None, None, "float32", "2026-01-01T00:00:00+00:00", ["what"])
    for where, mode in ((record, 0o666), (jobs.folder(), 0o777)):
        record.chmod(0o600)
        where.chmod(mode)
        with pytest.raises(RemoteError, match="others may write to it"):
            job._tree([])
        assert not planted.exists()
        where.chmod(0o700)
