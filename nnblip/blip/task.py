"""What one use of BLIP has of its own: its components, what its decoder reads, what counts as its outcome.

`Blip` and the passes above it ask here, so that another use is another class with these
members and no change elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip import decoding
from nnblip.blip.inputs import Encoded
from nnblip.blip.outcome import Outcome, outcome_of, rival_of
from nnblip.edges import Cuts
from nnblip.sites import COMPONENTS, TEXT_COMPONENTS


class Task(Protocol):
    """One use of BLIP.

    Attributes:
        architecture: the class of transformers that does it.
        for_example: a hub id of such a model.
        names: of the vocabulary, for transformers' modules.
        components: those that it has, in the order in which the model runs.
        text_components: those that text layers make up.
    """

    architecture: str
    for_example: str
    names: Mapping[str, str]
    components: tuple[str, ...]
    text_components: tuple[str, ...]

    def inputs(self, config: Any, encoded: Encoded, answer_ids: Sequence[int]) -> dict[str, Tensor]:
        """Arguments of the torch module's forward, the answer teacher-forced."""
        ...

    def logits(self, model: Any) -> Any:
        """Inside a trace: what the head gives, (row, position, word); position i is about answer token i."""
        ...

    def head(self, model: Any) -> Any:
        """Inside a trace: the module that makes logits of the decoder's last states."""
        ...

    def rival(self, logits: Float[Tensor, "1 position word"], answer_ids: Sequence[int]) -> int:
        """The token against which the answer's first is held in `logit_difference`."""
        ...

    def outcome(self, logits: Float[Tensor, "row position word"], answer_ids: Sequence[int], rival: int) -> Outcome:
        """The numbers of every row."""
        ...

    def own_answer(self, module: Any, encoded: Encoded, image_embeds: Float[Tensor, "1 patch hidden"]) -> list[int]:
        """What the model says greedily, [SEP] left out; empty if nothing."""
        ...

    def said(self, module: Any, ending: decoding.Ending, answer_ids: Sequence[int], cuts: Cuts) -> list[int]:
        """What the model would say greedily after a pass with an answer teacher-forced."""
        ...

    def handed_over(self, model: Any) -> Any:
        """Inside a trace: what the components before hand to the decoder, (row, token, hidden)."""
        ...

    def ending(self, model: Any, handed_over: Any) -> decoding.Ending:
        """Inside a trace: what `said` needs of a pass."""
        ...

    def longest_answer(self, config: Any) -> int:
        """How many tokens an answer of its own has at most."""
        ...


class QuestionAnswering:
    """A question about an image: the answer decoder reads [DEC] and the answer, and sees the question encoder only."""

    architecture = "BlipForQuestionAnswering"
    for_example = "Salesforce/blip-vqa-base"
    #: `output` is a name that nnsight serves on every module (the module's output), so BLIP's
    #: submodules of that name (dense layer, residual, LayerNorm) become `add_norm`.
    names: Mapping[str, str] = {
        "vision_model": "image_encoder",
        "text_encoder": "question_encoder",
        "text_decoder.bert": "answer_decoder",
        "encoder.layer": "layer",
        "encoder.layers": "layer",
        "E_output": "add_norm",
    }
    components: tuple[str, ...] = COMPONENTS
    text_components: tuple[str, ...] = TEXT_COMPONENTS

    def inputs(self, config: Any, encoded: Encoded, answer_ids: Sequence[int]) -> dict[str, Tensor]:
        return {
            "pixel_values": encoded.pixel_values,
            "input_ids": encoded.input_ids,
            "decoder_input_ids": torch.tensor([[config.text_config.bos_token_id, *answer_ids[:-1]]]),
        }

    def logits(self, model: Any) -> Any:
        return model.text_decoder.output.logits

    def head(self, model: Any) -> Any:
        return model.text_decoder.cls

    def rival(self, logits: Float[Tensor, "1 position word"], answer_ids: Sequence[int]) -> int:
        return rival_of(logits, answer_ids)

    def outcome(self, logits: Float[Tensor, "row position word"], answer_ids: Sequence[int], rival: int) -> Outcome:
        return outcome_of(logits, answer_ids, rival)

    def own_answer(self, module: Any, encoded: Encoded, image_embeds: Float[Tensor, "1 patch hidden"]) -> list[int]:
        ids = encoded.input_ids.to(image_embeds.device)
        states = module.text_encoder(input_ids=ids, encoder_hidden_states=image_embeds).last_hidden_state
        return decoding.decode(module, states, [])

    def said(self, module: Any, ending: decoding.Ending, answer_ids: Sequence[int], cuts: Cuts) -> list[int]:
        return decoding.said_after(module, ending, answer_ids, cuts)

    def handed_over(self, model: Any) -> Any:
        return model.text_encoder.output.last_hidden_state

    def ending(self, model: Any, handed_over: Any) -> decoding.Ending:
        output = model.text_decoder.output
        return decoding.Ending(output.logits.detach(), handed_over.detach(), getattr(output, decoding.CACHE))

    def longest_answer(self, config: Any) -> int:
        return decoding.longest_answer(config)
