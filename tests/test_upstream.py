"""Faults of transformers and nnsight that nnblip works around; a failure here says that one is mended."""

from __future__ import annotations

import warnings

import torch
from helpers.scenes import visible
from nnsight import NNsight
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

from nnblip import demo


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
