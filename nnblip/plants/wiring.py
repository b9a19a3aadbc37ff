"""A BLIP whose weights are all zero, and wires that are put into it one by one.

What keeps it exact:

- **Features.** The hidden dimensions are taken in pairs, chosen by the seed. A feature of value v is +v in one
  dimension and -v in the other, so that every state has mean 0, and is read as half the difference of both: a
  LayerNorm only scales it, and a feature that was never written is read as exactly 0.
- **Choice.** Where attention chooses, scores differ by many thousands, so that all weights but one are exactly 0 (the
  softmax underflows). What it chooses by is a feature that one token alone has, so that noise on others cannot
  distract it. Tokens that are to read nothing look at [CLS], which carries nothing.
- **Silence.** Whatever is not wired adds exact zeros to the stream. Its queries and keys are random, so that it looks
  somewhere.
- **Scale.** What a neuron reads is compared with a constant feature of the same token, so that it does the same
  whatever the LayerNorm before it divides by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

HIDDEN, HEADS, LAYERS, NEURONS = 64, 4, 4, 16
IMAGE_LAYERS, PATCH, SIDE = 2, 8, 4
#: How many tokens a question has, [CLS] and [SEP] included.
TOKENS = 7
#: The feature that every token of the question and of the answer has, and its value after the first LayerNorm.
CONSTANT, UNIT = "constant", 4.0
#: What the decoder's head reads: positive for the first answer, negative for the other.
SAID = "said"
_IMAGE_CONSTANT, _COLOUR, _IMAGE_CLS, _END = "image constant", "colour", "image [CLS]", "end"
#: Of a signal in the image embeddings: one of four features of one size in 64 dimensions.
_SHOWN = (HIDDEN / 2 / 4) ** 0.5
#: Times the same of the other side, a score of many thousands.
_SHARP = 300.0
#: How sure the answer is; the probability of the clean answer is about 0.97.
_SURE = 0.37

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] what color is the spot are both of them red blue any yes no ?
[DEC] [ENC]""".split()

#: Features with weights or values.
Features = Mapping[str, float]


def position(token: int) -> str:
    """The feature that this token of the question alone has, of the size of `CONSTANT`."""
    return f"token {token}"


def _marked(patch: int) -> str:
    return f"patch {patch}"


def _signal(patch: int) -> str:
    return f"signal {patch}"


class Wiring:
    """A torch module that is being built.

    Args:
        rng: decides which dimensions a feature has, and the queries and keys of what is not wired.
        answers: what it says where the feature `SAID` is positive, and negative.

    Attributes:
        module: the `BlipForQuestionAnswering`.
    """

    def __init__(self, rng: np.random.Generator, answers: tuple[str, str]) -> None:
        self._rng = rng
        self._free = iter(rng.permutation(HIDDEN).reshape(-1, 2).tolist())
        self._pairs: dict[str, tuple[int, int]] = {}
        self._neurons: dict[Any, int] = {}
        self.module: Any = _empty()
        self._look_somewhere()
        self._embed()
        self._speak(answers)

    # --- the image --------------------------------------------------------------------

    def mark(self, patch: int, layer: int | None = None) -> None:
        """Give a patch (counted from 1) a feature of its own; its colour becomes a signal in this layer's MLP."""
        vision = self.module.vision_model
        with torch.no_grad():
            vision.embeddings.position_embedding[0, patch] += self._column({_marked(patch): 1.0})
        if layer is None:
            return
        mlp = vision.encoder.layers[layer].mlp
        here = {_IMAGE_CONSTANT: -20.0, _marked(patch): 20.0}  # 0 at this patch; elsewhere the neuron is off
        size = (6 / HIDDEN) ** 0.5  # undoes the LayerNorm of three features
        for sign in (1.0, -1.0):
            self._neuron(mlp, mlp.fc1, mlp.fc2, {_COLOUR: sign, **here}, {_signal(patch): sign * size})

    # --- the text ---------------------------------------------------------------------

    def read(self, layer: int, head: int, token: int, patch: int, feature: str) -> None:
        """In the question encoder, let one token read the signal of one patch; it is then of the size of `CONSTANT`."""
        self._attend(
            self.module.text_encoder.encoder.layer[layer].crossattention, head,
            [{position(token): 1}, {CONSTANT: 1, position(token): -1}],
            [{_marked(patch): 1}, {_IMAGE_CLS: 1, _marked(patch): -1}],
            {_signal(patch): 1}, {feature: UNIT / _SHOWN},
        )  # fmt: skip

    def glance(self, layer: int, head: int, patch: int) -> None:
        """Let every token look at a patch, and take nothing from there."""
        part = self.module.text_encoder.encoder.layer[layer].crossattention
        self._attend(part, head, [{CONSTANT: 1}], [{_marked(patch): 1}], {}, {})

    def move(
        self, layer: int, head: int, source: int, target: int, values: Features, writes: Features
    ) -> None:  # fmt: skip
        """In the question encoder, let one token read features of another."""
        self.attend(
            layer, head, [{position(target): 1}, {CONSTANT: 1, position(target): -1}],
            [{position(source): 1}, {position(0): 1, position(source): -1}], values, writes,
        )  # fmt: skip

    def attend(
        self, layer: int, head: int, queries: Sequence[Features], keys: Sequence[Features], values: Features,
        writes: Features,
    ) -> None:  # fmt: skip
        """Self-attention of the question encoder: scores are sums of products of queries and keys."""
        self._attend(self.module.text_encoder.encoder.layer[layer].attention, head, queries, keys, values, writes)

    def gate(self, component: str, layer: int, neurons: Sequence[tuple[Features, Features]]) -> None:
        """Neurons of an MLP: what is read, if it is positive, times what is written."""
        text = self.module.text_encoder if component == "question_encoder" else self.module.text_decoder.bert
        part = text.encoder.layer[layer]
        for reads, writes in neurons:
            self._neuron(part, part.intermediate.dense, part.output.dense, reads, writes)

    def hand_over(self, layer: int, head: int, token: int, values: Features, feature: str) -> None:
        """In the answer decoder, let [DEC] read features of one token of the question."""
        part = self.module.text_decoder.bert.encoder.layer[layer].crossattention
        self._attend(part, head, [{CONSTANT: 1}], [{position(token): 1}], values, {feature: 1.0})

    # --- weights ----------------------------------------------------------------------

    def _pair(self, feature: str) -> tuple[int, int]:
        if feature not in self._pairs:
            plus, minus = next(self._free)
            self._pairs[feature] = plus, minus
        return self._pairs[feature]

    def _row(self, features: Features) -> torch.Tensor:
        """Weights (hidden,) that read a sum of features."""
        return self._column({name: weight / 2 for name, weight in features.items()})

    def _column(self, features: Features) -> torch.Tensor:
        """A state (hidden,) that has these features."""
        found = torch.zeros(HIDDEN)
        for name, value in features.items():
            plus, minus = self._pair(name)
            found[plus] += value
            found[minus] -= value
        return found

    @torch.no_grad()
    def _attend(
        self, part: Any, head: int, queries: Sequence[Features], keys: Sequence[Features], values: Features,
        writes: Features,
    ) -> None:  # fmt: skip
        size = HIDDEN // HEADS
        rows = slice(head * size, (head + 1) * size)
        for linear, given in ((part.self.query, queries), (part.self.key, keys)):
            linear.weight[rows] = 0
            for number, features in enumerate(given):
                linear.weight[rows.start + number] = _SHARP * self._row(features)
        number = rows.start + int(self._rng.integers(size))
        part.self.value.weight[number] = self._row(values)
        part.output.dense.weight[:, number] = self._column(writes)

    @torch.no_grad()
    def _neuron(self, part: Any, into: Any, out: Any, reads: Features, writes: Features) -> None:
        number = self._neurons.get(part, 0)
        self._neurons[part] = number + 1
        into.weight[number] = self._row(reads)
        out.weight[:, number] = self._column(writes)

    @torch.no_grad()
    def _look_somewhere(self) -> None:
        for text in (self.module.text_encoder, self.module.text_decoder.bert):
            for layer in text.encoder.layer:
                for part in (layer.attention.self, layer.crossattention.self):
                    for linear in (part.query, part.key):
                        linear.weight.copy_(torch.from_numpy(self._rng.normal(0, 0.3, linear.weight.shape)))

    @torch.no_grad()
    def _embed(self) -> None:
        vision = self.module.vision_model.embeddings
        vision.position_embedding[0] = self._column({_IMAGE_CONSTANT: 1.0})
        vision.position_embedding[0, 0] += self._column({_IMAGE_CLS: 1.0})
        colour = self._column({_COLOUR: 1 / (2 * PATCH**2)})[:, None, None]  # half of red minus blue, each from -1 to 1
        vision.patch_embedding.weight[:, 0] = colour
        vision.patch_embedding.weight[:, 2] = -colour
        question = self.module.text_encoder.embeddings.position_embeddings.weight
        question[:] = self._column({CONSTANT: 1.0})
        for token in range(TOKENS):
            question[token] += self._column({position(token): 1.0})
        answer = self.module.text_decoder.bert.embeddings.position_embeddings.weight
        answer[0] = self._column({CONSTANT: 1.0})
        answer[1:] = self._column({_END: 1.0})  # after one word the answer is at its end

    @torch.no_grad()
    def _speak(self, answers: tuple[str, str]) -> None:
        head = self.module.text_decoder.cls.predictions
        for feature in (SAID, CONSTANT, _END):
            head.transform.dense.weight += torch.outer(self._column({feature: 1.0}), self._row({feature: 1.0}))
        words = self.module.text_decoder.bert.embeddings.word_embeddings.weight  # the head's weights too
        head.decoder.bias[:] = -30
        for answer, sign in zip(answers, (1, -1), strict=True):
            words[WORDS.index(answer)] = self._column({SAID: sign * _SURE})
            head.decoder.bias[WORDS.index(answer)] = 0
        words[WORDS.index("[SEP]")] = self._column({_END: 8.0})


def _empty() -> Any:
    """All weights 0, but for LayerNorms, which only norm."""
    from transformers import BlipConfig, BlipForQuestionAnswering

    sizes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": NEURONS, "hidden_act": "relu"}
    config = BlipConfig(
        text_config=dict(
            **sizes, num_hidden_layers=LAYERS, encoder_hidden_size=HIDDEN, vocab_size=len(WORDS),
            max_position_embeddings=12, is_decoder=True, pad_token_id=0, projection_dim=HIDDEN,
            bos_token_id=WORDS.index("[DEC]"), sep_token_id=WORDS.index("[SEP]"), eos_token_id=WORDS.index("[SEP]"),
        ),
        vision_config=dict(
            **sizes, num_hidden_layers=IMAGE_LAYERS, image_size=SIDE * PATCH, patch_size=PATCH, projection_dim=HIDDEN
        ),
        projection_dim=HIDDEN,
        image_text_hidden_size=HIDDEN,
    )  # fmt: skip
    module = BlipForQuestionAnswering(config)
    for name, weight in module.named_parameters():
        norm = name.endswith("weight") and ("LayerNorm" in name or "layer_norm" in name or "layernorm" in name)
        torch.nn.init.constant_(weight, float(norm))
    return module.eval()
