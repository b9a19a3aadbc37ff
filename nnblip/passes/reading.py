"""What a clean run can be read for beside patching: attention, Grad-CAM, lenses. Runs where the model is.

One pass for each example: the vision model without a graph, then question encoder and answer
decoder in one trace. Where the answer has to be found first and has more than one token, the
decoder alone runs once more on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from nnblip.blip.decoding import decode, said_in
from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import require_numbers, wide
from nnblip.blip.upstream import is_edited, skip
from nnblip.errors import InputError, ModelError, SettingError
from nnblip.passes.measure import Asked, stack
from nnblip.passes.states import skip_vision

#: Attention of a component: what its tokens read of each other, and of the component before.
ATTENTIONS = ("attention", "crossattention")

#: By (component, kind of attention), each (layer, head, token, source).
Maps = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Attended:
    """Where an example's clean run looks.

    Attributes:
        answer_ids: the answer that Grad-CAM is of, [SEP] left out.
        predicted: what the model says.
        weights: each attention's weights; rows sum to 1.
        grad_cam: of cross-attention, the positive part of weights times gradient; empty if not asked for.
    """

    answer_ids: list[int]
    predicted: list[int]
    weights: Maps
    grad_cam: Maps


@dataclass(frozen=True)
class Lensed:
    """What an example's clean run would say after each layer.

    Attributes:
        answer_ids, predicted: as of `Attended`.
        rivals: at each position, the token against which `logit_difference` holds the answer's.
        decoder_lens: (3, layer), in the order of `nnblip.blip.outcome.NAMES`: the answer decoder reads the question
            encoder's block of that layer in place of its last.
        logit_lens: (3, layer, position), likewise of each answer token alone: the decoder's head reads the decoder's
            block of that layer.
        decoder_said, logit_said: the likeliest token, (layer) the answer's first and (layer, position).
        decoder_sure, logit_sure: its probability.
    """

    answer_ids: list[int]
    predicted: list[int]
    rivals: list[int]
    decoder_lens: np.ndarray
    logit_lens: np.ndarray
    decoder_said: np.ndarray
    logit_said: np.ndarray
    decoder_sure: np.ndarray
    logit_sure: np.ndarray


# --- attention ---------------------------------------------------------------------------


def attend(model: Blip, components: Sequence[str], kinds: Sequence[str], grad_cam: bool, asked: Asked) -> Attended:
    """The attention of an example. Raises `NnblipError` for what cannot be read."""
    embeds, image = see(model, asked.encoded, "image_encoder" in components and "attention" in kinds)
    wanted = [(name, kind) for name in model.task.text_components if name in components for kind in kinds]

    def read(answer_ids: Sequence[int], before: Looked | None) -> Looked:
        return look(model, asked.encoded, embeds, answer_ids, wanted, grad_cam, before)

    looked, answer_ids, predicted = _with_answer(model, asked, embeds, read)
    cams = looked.grad_cam(answer_ids) if grad_cam else {}
    weights = {key: _checked(parts, *key) for key, parts in looked.weights.items()}
    if image:
        weights["image_encoder", "attention"] = _checked(image, "image_encoder", "attention")
    return Attended(answer_ids, predicted, {key: weights[key] for key in sorted(weights)}, cams)


class Looked(NamedTuple):
    """A pass whose attention is kept.

    Attributes:
        logits: (1, position, word).
        question_states: what the question encoder hands over.
        weights: by (component, kind), a tensor (1, head, token, source) for each layer, with the graph to `logits`.
    """

    logits: Float[Tensor, "1 position word"]
    question_states: Float[Tensor, "1 token hidden"]
    weights: dict[tuple[str, str], list[Tensor]]

    def grad_cam(self, answer_ids: Sequence[int]) -> Maps:
        """Of cross-attention: weights times the gradient of the answer's log-probability, where that is positive."""
        keys = [key for key in self.weights if key[1] == "crossattention"]
        weights = [one for key in keys for one in self.weights[key]]
        if not weights:
            return {}
        with torch.enable_grad():
            logits = self.logits[0].double()  # of a sure answer what is left of 1 is less than float32 tells apart
            chosen = logits.gather(1, torch.tensor(list(answer_ids), device=logits.device)[:, None])[:, 0]
            score = (chosen - logits.logsumexp(-1)).sum()
            # of an edited model, an answer need not depend on any attention
            alive = [one for one in weights if one.requires_grad] if score.requires_grad else []
            try:
                slopes = iter(torch.autograd.grad(score, alive, materialize_grads=True) if alive else ())
            except RuntimeError as error:
                if "inplace" not in str(error):
                    raise
                raise SettingError(
                    "an edit of this model writes into a state in place, after which no gradient can be had: make a"
                    " changed copy of the state, or ask for grad_cam=False"
                ) from error
        found = {}
        for key in keys:
            cams = [
                (wide(one) * wide(next(slopes))).clamp(min=0) if alive and one.requires_grad else wide(one) * 0
                for one in self.weights[key]
            ]
            require_numbers(torch.cat(cams))
            found[key] = torch.cat(cams).detach().cpu().numpy()
        return found


@torch.no_grad()
def see(
    model: Blip, encoded: Encoded, attention: bool = False
) -> tuple[Float[Tensor, "1 patch hidden"], list[Float[Tensor, "1 head patch patch"]]]:
    """The image embeddings, and the weights of each of the image encoder's layers if they are asked for."""
    if not attention:
        return model.image_embeds(encoded), []
    weights: list[Tensor] = []
    with model.trace(**model.forward_inputs(encoded, []), remote=False):
        for layer in range(model.config.vision_config.num_hidden_layers):
            weights.append(model.image_encoder.layer[layer].self_attn.output[1])
        embeds = model.image_encoder.output.last_hidden_state.save()
        if not is_edited(model):  # the text is read in another pass
            skip(model.question_encoder, BaseModelOutput(last_hidden_state=embeds))
            skip(model.text_decoder, BaseModelOutput(last_hidden_state=embeds))
    return embeds, weights


def look(
    model: Blip,
    encoded: Encoded,
    embeds: Float[Tensor, "1 patch hidden"],
    answer_ids: Sequence[int],
    wanted: Sequence[tuple[str, str]],
    graph: bool,
    before: Looked | None = None,
) -> Looked:
    """One pass of question encoder and answer decoder whose attention is kept.

    Args:
        embeds: what the vision model gives.
        wanted: (component, kind of attention).
        graph: whether gradients are wanted.
        before: a pass with another answer, whose question encoder serves for this one, with its graph.
    """
    first_component, layers = model.task.text_components[0], model.config.text_config.num_hidden_layers
    weights: dict[tuple[str, str], list[Tensor]] = {
        key: before.weights[key] if before is not None and key[0] == first_component else [] for key in wanted
    }
    inputs = model.forward_inputs(encoded, answer_ids)
    with torch.set_grad_enabled(graph), model.trace(**inputs, use_cache=False, remote=False):
        skip_vision(model, embeds)
        for component in model.task.text_components:
            if component == first_component and before is not None:
                skip(model.question_encoder, BaseModelOutput(last_hidden_state=before.question_states))
            else:
                if graph:  # a server's weights need no gradient; a copy, which edits may write into
                    first = getattr(model, component).layer[0]
                    first.input = first.input.detach().requires_grad_().clone()
                for layer in range(layers):
                    for kind in ATTENTIONS:
                        if (component, kind) in weights:
                            attention = getattr(getattr(model, component).layer[layer], kind).self
                            weights[component, kind].append(attention.output[1])
            if component == first_component:
                states = model.task.handed_over(model).save()
        logits = model.task.logits(model).save()
    return Looked(logits, states, weights)


def _checked(weights: Sequence[Tensor], component: str, kind: str) -> np.ndarray:
    """(layer, head, token, source) of each layer's weights. Raises `ModelError` where a row's sum is not 1."""
    found = torch.cat([one.detach() for one in weights])
    allowed = max(1e-5, 2 * torch.finfo(found.dtype).eps)  # each weight is rounded by half of eps of itself at most
    off = (found.double().sum(-1) - 1).abs()
    require_numbers(off)
    if float(off.max()) > allowed:
        layer = int(off.flatten(1).amax(1).argmax())
        raise ModelError(
            f"{kind} weights of {component}, layer {layer}: a row's sum is {float(off.max()):.2g} away from 1, so they"
            " are no attention; read a model without edits of them"
        )
    return np.asarray(wide(found).cpu().numpy())


# --- lenses ------------------------------------------------------------------------------


def lens(model: Blip, asked: Asked) -> Lensed:
    """What an example's run would say after each layer. Raises `NnblipError` for what cannot be read."""
    embeds = model.image_embeds(asked.encoded)

    def read(answer_ids: Sequence[int], before: Through | None) -> Through:
        return look_through(model, asked.encoded, embeds, answer_ids, before)

    through, answer_ids, predicted = _with_answer(model, asked, embeds, read)
    if asked.rival == answer_ids[0]:
        raise InputError(
            f"rival {model.text([asked.rival]) or asked.rival!r}: it is the first token of the traced answer itself;"
            " expected another"
        )
    rivals = _rivals(model, through.logits, answer_ids, asked.rival)
    decoder = stack(model.task.outcome(through.by_question_layer, answer_ids, rivals[0]))
    singly = [
        stack(model.task.outcome(through.by_answer_layer[:, [place]], [token], rival))
        for place, (token, rival) in enumerate(zip(answer_ids, rivals, strict=True))
    ]
    decoder_said, decoder_sure = _likeliest(through.by_question_layer[:, 0])
    logit_said, logit_sure = _likeliest(through.by_answer_layer)
    return Lensed(
        answer_ids, predicted, rivals, decoder, np.stack(singly, -1), decoder_said, logit_said, decoder_sure, logit_sure
    )


class Through(NamedTuple):
    """A pass through both lenses.

    Attributes:
        by_question_layer: (layer, position, word), the logits of a decoder that reads this layer of the question
            encoder; the last are those of the plain run.
        by_answer_layer: the logits that the head gives of this layer of the decoder; likewise.
        question_states: (layer, token, hidden), what the question encoder hands over.
    """

    by_question_layer: Float[Tensor, "layer position word"]
    by_answer_layer: Float[Tensor, "layer position word"]
    question_states: Float[Tensor, "layer token hidden"]

    @property
    def logits(self) -> Float[Tensor, "1 position word"]:
        """Of the plain run."""
        return self.by_question_layer[-1:]


@torch.no_grad()
def look_through(
    model: Blip,
    encoded: Encoded,
    embeds: Float[Tensor, "1 patch hidden"],
    answer_ids: Sequence[int],
    before: Through | None = None,
) -> Through:
    """One pass: the decoder has a row for each layer of the question encoder, the head one more for each of its own.

    Args:
        embeds: what the vision model gives.
        before: a pass with another answer, whose question encoder serves for this one.
    """
    asking, answering = model.task.text_components
    layers, blocks = model.config.text_config.num_hidden_layers, []
    inputs = model.forward_inputs(encoded, answer_ids)
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"].expand(layers, -1)
    with model.trace(**inputs, use_cache=False, remote=False):
        skip_vision(model, embeds)
        if before is None:
            read = [model.read_state(asking, "block", layer) for layer in range(layers)]
            model.write_state(asking, "block", layers - 1, torch.cat(read))
        else:
            skip(model.question_encoder, BaseModelOutput(last_hidden_state=before.question_states))
        states = model.task.handed_over(model).save()
        for layer in range(layers - 1):
            blocks.append(model.read_state(answering, "block", layer)[-1:])
        head = model.task.head(model)
        head.input = torch.cat([head.input, *blocks])
        logits = model.task.logits(model).save()
    return Through(logits[:layers], torch.cat([logits[layers:], logits[layers - 1 : layers]]), states)


def _rivals(
    model: Blip, logits: Float[Tensor, "1 position word"], answer_ids: Sequence[int], first: int | None
) -> list[int]:
    """At each position the strongest other token of the plain run; at the first another, if one is given."""
    found = [model.task.rival(logits[:, place:], answer_ids[place:]) for place in range(len(answer_ids))]
    return found if first is None else [first, *found[1:]]


def _likeliest(logits: Float[Tensor, "*place word"]) -> tuple[np.ndarray, np.ndarray]:
    sure, said = wide(logits).softmax(-1).max(-1)
    return said.cpu().numpy(), sure.cpu().numpy()


# --- the answer ----------------------------------------------------------------------------


def _with_answer(
    model: Blip, asked: Asked, embeds: Tensor, read: Callable[[Sequence[int], Any], Any]
) -> tuple[Any, list[int], list[int]]:
    """A pass with the answer teacher-forced, the answer, and what the model says.

    The decoder reads [DEC] and all answer tokens but the last: of an answer that is to be found,
    the pass can begin, and is already the right one if the answer has one token.

    Args:
        read: makes the pass of an answer, after a pass with another one if there was one.
    """
    given = asked.answer_ids
    if is_edited(model):  # each token with the edits
        predicted = model.own_answer(asked.encoded, embeds, empty=given is not None)
        return read(given or predicted, None), given or predicted, predicted
    passed = read(given or [0], None)
    first = [int(passed.logits[0, 0].argmax())]
    predicted, over = said_in(passed.logits, given or first, model.config)
    if not over:
        predicted = decode(model._module, passed.question_states[-1:].detach(), predicted)
    if given is None and not predicted:
        model.own_answer(asked.encoded, embeds)  # raises, and says why
    if given is None and len(predicted) > 1:
        passed = read(predicted, passed)
    return passed, given or predicted, predicted
