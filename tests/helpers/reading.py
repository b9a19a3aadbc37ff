"""Attention, Grad-CAM and lenses by plain PyTorch: forward hooks on the torch module, autograd, no nnsight."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import oracle
import torch
from transformers import BlipConfig, BlipForQuestionAnswering, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import nnblip

SUBLAYERS = ("attention", "crossattention")


@contextmanager
def hooked(*hooks):
    """Forward hooks (submodule, hook) during a block."""
    handles = [submodule.register_forward_hook(hook) for submodule, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_modules(module):
    """By (component, sublayer, layer), what computes attention."""
    return {
        (component, sublayer, number): getattr(layer, sublayer).self
        for component, layers in oracle.COMPONENTS.items()
        for number, layer in enumerate(layers(module))
        for sublayer in SUBLAYERS
    }


def score(module, embeds, input_ids, answer):
    """The answer's log-probability, teacher-forced, with its graph."""
    states = module.text_encoder(input_ids=input_ids, encoder_hidden_states=embeds).last_hidden_state
    start = module.config.text_config.bos_token_id
    decoder_ids = torch.tensor([[start, *answer[:-1]]])
    logits = module.text_decoder(input_ids=decoder_ids, encoder_hidden_states=states, use_cache=False).logits
    log_probabilities = logits[0].double().log_softmax(-1)
    return sum(log_probabilities[place, token] for place, token in enumerate(answer))


def gradients(module, embeds, input_ids, answer):
    """By (component, sublayer, layer): each attention's weights (1, head, token, source) and the gradient there."""
    kept = {}

    def keep(key):
        def hook(submodule, args, output):
            output[1].retain_grad()
            kept[key] = output[1]

        return hook

    with torch.enable_grad(), hooked(*((one, keep(key)) for key, one in attention_modules(module).items())):
        score(module, embeds, input_ids, answer).backward()
    module.zero_grad()
    return {key: (one.detach(), one.grad) for key, one in kept.items()}


def moved(module, embeds, input_ids, answer, site, step):
    """The score with one attention weight moved by `step`, through what it does to the context: step · value."""
    component, sublayer, number, head, token, source = site
    attention, values = attention_modules(module)[component, sublayer, number], []
    size = attention.attention_head_size
    part = slice(head * size, (head + 1) * size)

    def move(submodule, args, output):
        context = output[0].clone()
        context[0, token, part] += step * values[-1][0, source, part]
        return (context, *output[1:])

    keep = (attention.value, lambda submodule, args, output: values.append(output))
    with torch.no_grad(), hooked(keep, (attention, move)):
        return float(score(module, embeds, input_ids, answer))


@torch.no_grad()
def lenses(module, embeds, input_ids, answer):
    """Logits by layer, (layer, position, word): of the decoder on a question-encoder layer, of the head on its own."""
    states = oracle.states(module, embeds, input_ids, answer)
    start = module.config.text_config.bos_token_id
    decoder_ids = torch.tensor([[start, *answer[:-1]]])
    by_question, by_answer = [], []
    for layer in range(module.config.text_config.num_hidden_layers):
        read = states["question_encoder", "block", layer]
        by_question.append(module.text_decoder(input_ids=decoder_ids, encoder_hidden_states=read).logits[0])
        by_answer.append(module.text_decoder.cls(states["answer_decoder", "block", layer])[0])
    return torch.stack(by_question), torch.stack(by_answer)


#: Hidden size, layers and heads of text, of vision; image and patch size.
SHAPES = {"wide": (96, 3, 6, 2, 3, 48, 16), "one layer": (64, 1, 2, 3, 4, 32, 8)}


def random_model(like, shape, seed=0):
    """A BLIP of another shape whose weights are so large that it looks somewhere, and answers without an end."""
    hidden, layers, heads, image_layers, image_heads, side, patch = SHAPES[shape]
    text = copy.deepcopy(like.config.text_config.to_dict()) | {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 80,
        "encoder_hidden_size": hidden, "initializer_range": 0.3,
    }  # fmt: skip
    vision = {
        "hidden_size": hidden, "num_hidden_layers": image_layers, "num_attention_heads": image_heads,
        "intermediate_size": 80, "image_size": side, "patch_size": patch, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = BlipConfig(text_config=text, vision_config=vision, initializer_range=0.3, image_text_hidden_size=hidden)
    module = BlipForQuestionAnswering(config).eval()
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": side, "width": side}), like.processor.tokenizer)
    return nnblip.BlipVQA(module, processor=processor)
