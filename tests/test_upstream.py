"""What comes from others: faults that nnblip works around, and names of nnsight that are not documented.

A failure of the first part says that a fault is mended; one of the second what broke when nnsight changed.
"""

from __future__ import annotations

import inspect
import linecache
import warnings

import httpx
import nnsight
import pytest
import torch
from helpers.scenes import visible
from nnsight import NNsight
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

from nnblip import demo
from nnblip.blip import upstream
from nnblip.runs.run import Run

# ---- faults -------------------------------------------------------------------------


def test_padding_changes_the_answer_in_transformers(model):
    """Fact 1 of the design: the answer decoder attends to padded question tokens."""
    _, _, truth = visible(model)
    padded = torch.cat([truth.ids, torch.zeros(1, 4, dtype=torch.long)], 1)
    start = torch.tensor([[model.config.text_config.bos_token_id]])

    def logits(ids):
        mask = (ids != 0).long()
        states = model._module.text_encoder(ids, attention_mask=mask, encoder_hidden_states=truth.embeds)[0]
        return model._module.text_decoder(start, encoder_hidden_states=states, encoder_attention_mask=mask).logits

    with torch.no_grad():
        assert (logits(padded) - logits(truth.ids)).abs().max() > 0.05


def test_a_fresh_vision_model_is_dead_by_default():
    """Fact 3: `initializer_range` of the vision config defaults to 1e-10."""
    assert BlipConfig().vision_config.initializer_range < 1e-6


def test_forward_returns_no_logits(model):
    """Fact 4: they are read at the answer decoder's head."""
    _, _, truth = visible(model)
    with torch.no_grad():
        out = model._module(
            input_ids=truth.ids,
            pixel_values=truth.encoded.pixel_values,
            decoder_input_ids=torch.tensor([[model.config.text_config.bos_token_id]]),
        )
    assert not hasattr(out, "logits")


def test_nnsight_warns_of_submodules_called_output():
    """Fact 5: and serves them as `E_output`, which nnblip renames to `add_norm`."""
    module = BlipForQuestionAnswering.from_pretrained(demo.MODEL, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        NNsight(module)
    assert any("which nnsight already serves" in str(w.message) for w in caught)


def test_a_vocabulary_file_is_ignored(tmp_path):
    """Fact 8: `BertTokenizer(vocab_file=...)` is ignored in transformers 5, `vocab=` is read."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "xylophone"]))
    tokenizer = BertTokenizer(vocab_file=str(tmp_path / "vocab.txt"))
    assert "xylophone" not in tokenizer.get_vocab()


# ---- names of nnsight, see nnblip/blip/upstream.py ----------------------------------


@pytest.fixture(scope="module")
def encoded(model):
    image, question, truth = visible(model)
    return model.encode(image, question), truth.answer


def takes(function, *names: str) -> bool:
    return list(inspect.signature(function).parameters)[1 : 1 + len(names)] == list(names)


# --- a pass --------------------------------------------------------------------------


def test_two_functions_run_beside_a_body_in_one_pass(model, encoded):
    """`Mediator`, `interleaver.mediators`, `_batcher_class`, `interleave`, `push_result`: see `run_beside`."""
    inputs, order = model.forward_inputs(*encoded), []

    class Beside(upstream.InterleavingTracer):
        def execute(self, code):
            def before():
                model.question_encoder.layer[0].output[:] = 0
                order.append("before")

            def after():
                order.append(float(model.question_encoder.layer[0].output.abs().max()))

            upstream.run_beside(self, model, code, inputs, before, after)

    with torch.no_grad(), Beside(model, "__call__"):
        seen = model.question_encoder.layer[0].output.abs().max().save()
        model.question_encoder.layer[0].output[:] = 1
    assert float(seen) == 0, "the function before comes before the body"
    assert order == ["before", 1.0], "the function after comes after it"
    assert model.interleaver.mediators == [], "nothing of it is left"


def test_an_error_in_a_function_beside_leaves_nothing_behind(model, encoded):
    """`interleaver.cancel` and `clear_shared_locals`."""
    inputs = model.forward_inputs(*encoded)

    class Beside(upstream.InterleavingTracer):
        def execute(self, code):
            upstream.run_beside(self, model, code, inputs, lambda: 1 / 0, lambda: None)

    with pytest.raises(ZeroDivisionError), torch.no_grad(), Beside(model, "__call__"):
        nothing = 0  # noqa: F841
    with torch.no_grad(), model.trace(encoded[0]):
        again = model.question_encoder.layer[0].output.save()
    assert again.abs().max() > 0


def test_a_skipped_module_does_not_run(model, encoded):
    ran, embeds = [], torch.ones(1, 65, model.config.vision_config.hidden_size)
    handle = model._module.vision_model.embeddings.patch_embedding.register_forward_hook(lambda *_: ran.append(1))
    try:
        with torch.no_grad(), model.trace(encoded[0]):
            upstream.skip(model.image_encoder.embeddings, embeds)
            read = model.image_encoder.layer[0].input.save()
    finally:
        handle.remove()
    assert ran == [] and torch.equal(read, embeds)


def test_tensors_are_made_in_earnest_while_a_structure_is_loaded():
    from nnsight.modeling.mixins.meta import MetaDevice

    with MetaDevice():
        assert torch.zeros(1).device.type == "meta"
        with upstream.real_device():
            assert torch.zeros(1).device.type == "cpu"


# --- the model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "_load", "_load_meta", "_batch", "_batch_size", "_remoteable_class", "_remoteable_model_key", "_remote_backend",
        "_remoteable_get_env", "_remoteable_persistent_objects", "_shallow_copy", "_batcher_class", "interleave",
        "to_model_key", "__getstate__",
    ],
)  # fmt: skip
def test_what_a_model_overrides_or_calls_is_still_a_name_of_nnsights(name):
    """An override of a name that is gone would silently do nothing."""
    assert hasattr(upstream.HuggingFaceModel, name)


def test_how_the_overridden_are_called():
    model = upstream.HuggingFaceModel
    assert takes(model._batch, "invokes", "fn")
    assert takes(model._remote_backend, "remote", "blocking", "job_id", "verbose")


# --- a request -----------------------------------------------------------------------


def test_a_block_is_packed_and_unpacked_with_its_code(model, encoded):
    """`dumps`, `reduce_block`, `pull_env`, `RequestModel.deserialize`, `_remoteable_persistent_objects`."""
    packed = []

    class Backend(upstream.LocalSimulationBackend):
        def __call__(self, tracer):
            packed.append(upstream.pack(lambda one: (None, one)[1], tracer, not_by_value="nnblip"))

    factor = 3
    with model.session(backend=Backend(model)):
        found = factor * 7  # noqa: F841
    lines = dict(linecache.cache)
    with upstream.lines_kept():
        tracer = upstream.unpack(packed[0], model, compressed=False)
    assert all(linecache.cache[name] == lines[name] for name in lines)
    assert tracer.info.frame.f_locals["factor"] == 3
    assert "factor * 7" in "".join(inspect.getsource(test_a_block_is_packed_and_unpacked_with_its_code))


def test_what_is_brought_back_is_a_saved_variable_of_the_frame():
    class Frame:
        f_locals: dict = {}  # noqa: RUF012

    def inside():
        model = nnsight.NNsight(torch.nn.Linear(1, 1))

        class Brings(upstream.InterleavingTracer):
            def execute(self, code):
                upstream.bring_back(self, "brought", 7)

        with Brings(model, "__call__"):
            pass
        return locals().get("brought")

    assert inside() == 7


def test_the_backends_have_the_methods_that_are_called_and_overridden():
    """client.py gives `request` a deadline, and guards `_post`, `poll` and what is read."""
    backend = upstream.RemoteBackend
    assert takes(backend.__init__, "model_key", "host", "api_key", "env", "blocking", "job_id", "verbose")
    assert takes(backend.request, "request", "tracer") and takes(backend.send, "request", "blob")
    assert takes(backend._post, "request", "blob") and takes(backend._serialize, "tracer")
    assert takes(backend._push, "result", "tracer") and takes(backend.finalize, "content")
    assert takes(backend.poll, "tracer") and takes(backend.submit, "tracer") and takes(backend.download_result, "url")
    for name in ("parse", "note", "handle", "__call__"):
        assert callable(getattr(backend, name)), name
    one = backend("key", "http://127.0.0.1:9")
    assert (one.host, one.ws_host, one.job_id, one.blocking) == ("http://127.0.0.1:9", "ws://127.0.0.1:9", None, True)
    assert callable(one.display.refresh) and isinstance(one.display.enabled, bool) and isinstance(one.compress, bool)
    for name in ("_hide_local_modules", "_restore"):
        assert callable(getattr(upstream.LocalSimulationBackend, name)), name


def test_a_refused_request_says_its_status(monkeypatch):
    answer = httpx.Response(403, json={"detail": "not you"}, request=httpx.Request("POST", "http://server/request"))
    monkeypatch.setattr(httpx.Client, "post", lambda *_, **__: answer)
    backend = upstream.RemoteBackend("key", "http://server")
    with pytest.raises(upstream.ServerSays, match="not you") as caught:
        backend._post(type("Request", (), {"metadata": lambda self: "{}"})(), b"")
    assert upstream.status_code(caught.value) == 403
    assert upstream.status_code(upstream.ServerSays("else")) is None


def test_the_words_of_a_server_and_the_settings_are_where_they_were():
    assert {"COMPLETED", "ERROR"} <= set(upstream.Status.__members__)
    assert {"status", "description", "data", "id"} <= set(upstream.ResponseModel.model_fields)
    for name in ("HOST", "APIKEY", "COMPRESS"):
        assert hasattr(upstream.CONFIG.API, name), name
    assert upstream.loads(upstream.dumps({"a": (1, 2)})) == {"a": (1, 2)}
    assert upstream.served_class().__name__ == "TransformersModel"


def test_a_run_that_is_over_has_no_frame_left():
    """`Run.__getstate__` tells by that whether there is anything to run."""
    assert issubclass(Run, upstream.InterleavingTracer) and hasattr(upstream.InterleavingTracer, "__getstate__")
