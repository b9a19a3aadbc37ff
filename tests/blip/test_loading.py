"""BlipVQA: what is loaded, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from helpers.scenes import question_of

import nnblip
from nnblip import demo
from nnblip.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """A copy of the small model's folder, to spoil."""
    shutil.copytree(demo.MODEL, tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_loads_as_a_hub_id_would_without_a_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nnblip.BlipVQA(folder, device_map="cpu", dtype="bfloat16")
    assert model._module.dtype == torch.bfloat16 and not model._module.training
    assert model.name == str(folder)


def test_accelerate_places_the_model_by_itself(model):
    pair = question_of(0, "number")
    placed = nnblip.BlipVQA(device_map="auto")
    assert placed.answer(*pair) == model.answer(*pair)


def test_the_weights_are_the_ones_in_the_file(model):
    from safetensors.torch import load_file

    stored = load_file(demo.MODEL / "model.safetensors")
    loaded = model._module.state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def pickle_weights(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_encoder.encoder.layer.0.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def spoil_weights(**changes):
    """Replace or add weights, by functions of the one that is there."""

    def spoil(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        for name, change in changes.items():
            weights[name] = change(weights.get(name))
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def edit_part(part, **changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        edit_config(folder, **{part: config[part] | changes})

    return spoil


def no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


QUERY = "text_encoder.encoder.layer.0.attention.self.query.weight"
POSITIONS = "text_encoder.embeddings.position_ids"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no configuration"),
        (lambda f: (f / "config.json").write_text("{"), "no configuration"),
        (lambda f: edit_config(f, architectures=["BlipForConditionalGeneration"]), "BlipForConditionalGeneration"),
        (lambda f: edit_config(f, model_type="bert"), "nnblip needs BlipForQuestionAnswering"),
        (pickle_weights, "weights cannot be loaded"),
        (drop_a_weight, "missing or of the wrong shape, such as text_encoder.encoder.layer.0"),
        (lambda f: (f / "model.safetensors").write_bytes(b"0" * 100), "weights cannot be loaded"),
        (lambda f: (f / "processor_config.json").unlink(), "processor"),
        (edit_part("text_config", num_hidden_layers="six"), "'num_hidden_layers' expected int, got str"),
        (edit_part("text_config", num_hidden_layers=4), "no place for 104 of its weights, such as text_decoder.bert"),
        (edit_part("vision_config", num_hidden_layers=1), "no place for 36 of its weights, such as vision_model"),
        (edit_part("text_config", num_hidden_layers=7), "52 weights are missing or of the wrong shape"),
        (edit_part("text_config", max_position_embeddings=16), "2 weights are missing or of the wrong shape"),
        (edit_part("vision_config", hidden_size=64), "image encoder is 64 wide and its text layers 128"),
        (edit_part("text_config", sep_token_id=None), "sep_token_id of its text_config is None"),
        (edit_part("text_config", sep_token_id=4), r"\[SEP\] at 3, the model 64 and 4"),
        (edit_part("text_config", bos_token_id=64), "bos_token_id of its text_config is 64"),
        (spoil_weights(more=lambda _: torch.zeros(2)), "no place for 1 of its weights, such as more"),
        (spoil_weights(**{QUERY: lambda w: w * torch.nan}), f"its weights {QUERY} have numbers that are NaN"),
        (spoil_weights(**{QUERY: lambda w: w.index_fill(0, torch.tensor([3]), -torch.inf)}), "NaN or infinite"),
        (no_tokenizer, "its tokenizer knows no words"),
        (lambda f: (f / "tokenizer.json").unlink(), "its tokenizer knows no words"),
        (lambda f: (f / "config.json").write_text("5"), "no configuration"),
        (lambda f: (f / "config.json").write_text("[" * 10**5), "no configuration"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(folder, spoil, says, capfd):
    spoil(folder)
    with pytest.raises(ModelError, match=says) as caught:
        nnblip.BlipVQA(folder)
    assert "\n" not in str(caught.value)
    said = capfd.readouterr()
    assert not said.out + said.err, "no table of weights, no report"


def test_positions_that_older_versions_stored_are_no_weights(folder, model):
    spoil_weights(**{POSITIONS: lambda _: torch.arange(32)[None]})(folder)
    pair = question_of(0, "number")
    assert nnblip.BlipVQA(folder).answer(*pair) == model.answer(*pair)


@pytest.mark.parametrize("size", [1e38, -1e38])
def test_weights_whose_sum_is_too_large_are_numbers(folder, size):
    spoil_weights(**{QUERY: lambda w: torch.full(w.shape, size)})(folder)
    with pytest.raises(ModelError, match="probabilities are NaN"):
        nnblip.BlipVQA(folder).answer(*question_of(0, "number"))


def test_a_model_that_is_nowhere_is_refused():
    with pytest.raises(ModelError, match="there is no such folder; expected a hub id such as"):
        nnblip.BlipVQA("/no/such/folder")


HUB = "Salesforce/blip-vqa-base"


@pytest.mark.parametrize("remote", [False, True])
def test_offline_a_hub_id_is_not_answered_by_itself(monkeypatch, tmp_path, remote):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        nnblip.BlipVQA(HUB, cache_dir=tmp_path, remote=remote)
    assert str(caught.value) == (
        f"model '{HUB}' is not in the cache, and HF_HUB_OFFLINE is set: unset it, or give a folder that has it"
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("LocalEntryNotFoundError", r"not in the cache, and the hub \(.*\) cannot be reached: check the network"),
        ("RepositoryNotFoundError", "the hub shows no such model; is the name right.* token="),
        ("GatedRepoError", "the hub shows no such model; is the name right.* token="),
        ("RevisionNotFoundError", "the hub has no revision 'old' of it"),
    ],
)
def test_what_the_hub_says_is_told_with_its_remedy(monkeypatch, error, says):
    import httpx
    import transformers
    from huggingface_hub import errors

    kind = getattr(errors, error)
    answer = {} if error.startswith("Local") else {"response": httpx.Response(404, request=httpx.Request("GET", "x"))}

    def fails(*_, **__):
        try:
            raise kind("no", **answer)
        except kind as cause:
            raise OSError("many lines\nof advice") from cause

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fails)
    with pytest.raises(ModelError, match=says) as caught:
        nnblip.BlipVQA(HUB, revision="old")
    assert str(caught.value).count(HUB) == 1


# --- a model that is in memory -----------------------------------------------------------


def test_a_module_in_memory_is_used_as_it_is(model):
    import copy

    module = copy.deepcopy(model._module).train()
    mine = nnblip.BlipVQA(module, processor=model.processor)
    pair = question_of(0, "number")
    assert mine._module is module and not module.training and mine.name == "a model in memory"
    assert mine.answer(*pair) == model.answer(*pair)
    with torch.no_grad():
        module.text_encoder.encoder.layer[5].output.dense.weight.zero_()
    assert mine.answer(*pair) != model.answer(*pair), "it is this module, not a copy"
    tree = nnblip.causal_trace(mine, [pair], draws=1, progress=False)
    traced, answered, before = float(tree["clean"].probability[0]), mine.answer(*pair), model.answer(*pair)
    assert tree.attrs["model"] == mine.name and abs(answered.probability - before.probability) > 0.01
    assert traced == pytest.approx(answered.probability, abs=1e-5)  # a pass of another form may round otherwise


def test_a_module_in_its_own_dtype(model):
    import copy

    module = copy.deepcopy(model._module).to(torch.bfloat16)
    mine = nnblip.BlipVQA(module, processor=model.processor)
    assert mine.dtype == torch.bfloat16 and 0 < mine.answer(*question_of(0, "number")).probability < 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(), "processor None: a model that is in memory needs its own"),
        (dict(processor=5), "processor 5: a model that is in memory needs its own"),
        (dict(device_map="cpu", processor=5), "used as it is: leave device_map out"),
        (dict(revision="main", cache_dir="x"), "used as it is: leave revision, cache_dir out"),
        (dict(remote=True), "a server loads its model itself; give a hub id or a folder"),
    ],
)
def test_what_is_wrong_with_a_module_in_memory(model, given, says):
    with pytest.raises(ModelError, match=says):
        nnblip.BlipVQA(model._module, **given)


def test_modules_that_are_not_this_blip(model):
    with pytest.raises(ModelError, match="the module is a Linear; nnblip needs BlipForQuestionAnswering"):
        nnblip.BlipVQA(torch.nn.Linear(2, 2), processor=model.processor)
    with pytest.raises(ModelError, match="a model that is loaded brings its own"):
        nnblip.BlipVQA(processor=model.processor)


def test_a_module_in_memory_is_on_no_server(model):
    import copy

    mine = nnblip.BlipVQA(copy.deepcopy(model._module), processor=model.processor)
    with pytest.raises(ModelError, match="a model that is in memory is on no server"):
        nnblip.causal_trace(mine, [question_of(0, "number")], draws=1, remote=True)


def test_a_single_example_will_do(model):
    image, question = question_of(0, "number")
    example, plain = nnblip.Example(image, question), model.answer(image, question)
    assert model.answer(example) == plain
    with model.clean(example) as clean:
        pass
    assert (clean.answer, clean.probability) == plain[:2]
    given = nnblip.Example(image, question, answer="red")
    with model.clean(given) as clean:
        pass
    assert clean.answer == "red" != clean.predicted == plain.text and model.answer(given) == plain
    with model.clean(given, answer="blue") as clean:
        pass
    assert clean.answer == "blue"
    tree = nnblip.causal_trace(model, example, draws=1, progress=False)
    assert tree.question.values.tolist() == [question]
    with pytest.raises(nnblip.errors.InputError, match="question 'what': an example has its question already"):
        model.answer(example, "what")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", torch.float8_e5m2])
def test_dtypes_in_which_nothing_is_computed_are_refused(dtype):
    with pytest.raises(ModelError, match=r"expected one of 'float32', 'bfloat16', 'float16', 'float64'$"):
        nnblip.BlipVQA(dtype=dtype)


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"dtype": "floaty"}, {"trust_remote_code": True}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ModelError):
        nnblip.BlipVQA(**wrong)


def test_a_missing_name_is_told_at_load(monkeypatch):
    monkeypatch.setitem(nnblip.BlipVQA.task.names, "E_output", "add_nrom")
    with pytest.raises(ModelError, match="a state that nnblip promises is missing"):
        nnblip.BlipVQA()
