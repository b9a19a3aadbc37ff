"""What `bench.py` times: a model of the real size, the map, and the same with plain PyTorch hooks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nnblip import BlipVQA, Site
from nnblip.blip.outcome import Outcome, outcome_of, rival_of
from nnblip.noise import corrupt, get_noise, unit_noise
from nnblip.passes import engine
from nnblip.passes.plan import INPUT, Point, Step, make_plans
from nnblip.passes.room import least_rows
from nnblip.passes.sharing import share_keys
from nnblip.sites import TEXT_COMPONENTS, heatmap

QUESTION, ANSWER, NU = "what is the color of the character", "red", 5.0
#: Hidden size, layers, heads, intermediate size, image, patch; text and vision alike.
SIZES = {"real": (768, 12, 12, 3072, 384, 16), "small": (64, 3, 4, 128, 64, 16)}
SAMPLE = 12  # cells that stand for all in "one by one"


def write_model(folder: str, size: str) -> None:
    """A BLIP with random weights in transformers' format: config, safetensors, processor."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.utils.logging import disable_progress_bar

    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    vision: dict[str, Any] = dict(zip(names, SIZES[size], strict=True)) | {"initializer_range": 0.02}
    hidden, side = vision["hidden_size"], {"height": vision["image_size"], "width": vision["image_size"]}
    text = {name: vision[name] for name in (*names[:4], "initializer_range")} | {"encoder_hidden_size": hidden}
    text |= {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0}
    text |= {"max_position_embeddings": 512, "is_decoder": True}
    disable_progress_bar()
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config=vision, initializer_range=0.02, image_text_hidden_size=hidden)
    BlipForQuestionAnswering(config).save_pretrained(folder)

    words = [f"[unused{i}]" for i in range(30524)]
    words[0], words[100:104], words[30522:] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["[DEC]", "[ENC]"]
    for i, word in enumerate(dict.fromkeys([*QUESTION.split(), ANSWER]), start=2000):
        words[i] = word
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=512)
    BlipProcessor(BlipImageProcessorPil(size=side), tokenizer).save_pretrained(folder)


class Bench:
    """One example, ready to be traced, with the plan of its whole map; `module` has the weights without nnsight."""

    sample = SAMPLE

    def __init__(self, model: BlipVQA, module: Any = None) -> None:
        side = model.config.vision_config.image_size
        picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        self.model, self.module, self.picture = model, module, picture
        self.encoded, self.answer_ids = model.encode(picture, QUESTION), model.encode_answer(ANSWER)
        embeds, noise = model.image_embeds(self.encoded), get_noise("multiplicative")
        self.clean, logits = engine.run_alone(model, engine.Forward(self.encoded, embeds, self.answer_ids))
        self.rival = rival_of(logits, self.answer_ids)
        self.noisy = corrupt(noise, embeds, unit_noise(noise, tuple(embeds.shape), 0, self.encoded.key, 0), NU)
        self.forward = engine.Forward(self.encoded, self.noisy, self.answer_ids)
        extent = model.extent(len(self.encoded.tokens), len(self.answer_ids))
        cells = [cell for component in TEXT_COMPONENTS for cell in heatmap(extent, component)]
        self.sites = [site for (site,) in cells]
        (self.plan,) = make_plans(cells, extent.layers, least=least_rows(extent))
        text, tokens = model.config.text_config, extent.question_tokens
        rows, wide, mlp = tokens * (1 + extent.layers * tokens), text.hidden_size, text.intermediate_size
        self.shapes = [(rows, wide, wide), (rows, wide, mlp), (rows, mlp, wide)]  # where most work is: (rows, in, out)
        inputs = model.forward_inputs(self.encoded, self.answer_ids)
        self.inputs = {name: value.to(embeds.device) for name, value in inputs.items()}

    def run_map(self) -> Outcome:
        return engine.run_plan(self.model, self.forward, self.rival, self.clean, self.plan)


# --- the same with plain PyTorch hooks, no nnsight -----------------------------------

LAYERS = {"question_encoder": "text_encoder.encoder.layer", "answer_decoder": "text_decoder.bert.encoder.layer"}


def hook_step(b: Bench, point: Point, step: Step) -> Any:
    """Put a forward hook on the module at a point: rows are born, then states are overwritten."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        state = torch.cat([state, state[:1].expand(step.births, -1, -1)]) if step.births else state.clone()
        if step.rows:
            state[step.rows, step.tokens] = b.clean[point.component, point.kind, point.layer][0, step.tokens]
        return (state, *output[1:]) if isinstance(output, tuple) else state

    part = {"block": "", "mlp_out": ".output.dense"}.get(point.kind, "." + point.kind.replace("_out", ".output.dense"))
    return b.module.get_submodule(f"{LAYERS[point.component]}.{point.layer}{part}").register_forward_hook(hook)


def shared_keys(attention: Any, hidden: Tensor, **options: Any) -> Any:
    """In place of a cross-attention's `forward`: the engine's own mathematics, outside a trace."""
    given: list[Any] = []
    parts = {name: getattr(attention, name) for name in ("num_attention_heads", "query", "key", "value")}
    share_keys(SimpleNamespace(inputs=((hidden,), options), skip=given.append, **parts))
    return given[0]


def run_text(b: Bench) -> Outcome:
    states = b.module.text_encoder(input_ids=b.inputs["input_ids"], encoder_hidden_states=b.noisy).last_hidden_state
    answer = {"input_ids": b.inputs["decoder_input_ids"], "encoder_hidden_states": states}
    return outcome_of(b.module.text_decoder(**answer, use_cache=False).logits, b.answer_ids, b.rival)


def run_hooked(b: Bench) -> Outcome:
    """`engine.run_plan` without nnsight: hooks bear and write, another `forward` shares the keys."""
    rows, steps = 1, b.plan.steps
    with ExitStack() as undo:
        for component in TEXT_COMPONENTS:
            layers = b.module.get_submodule(LAYERS[component])
            start = rows + steps.get(Point(component, INPUT, 0), Step()).births
            rows += sum(step.births for point, step in steps.items() if point.component == component)

            def grow(_module: Any, args: Any, start: int = start) -> Any:
                return args[0].expand(start, -1, -1), *args[1:]

            undo.callback(layers[0].register_forward_pre_hook(grow).remove)
            for attention in (layer.crossattention.self for layer in layers):
                attention.forward = partial(shared_keys, attention)
                undo.callback(delattr, attention, "forward")
        for point, step in steps.items():
            if point.kind != INPUT:
                undo.callback(hook_step(b, point, step).remove)
        return run_text(b)


def run_cell(b: Bench, site: Site) -> Outcome:
    """One cell in a run of its own with one forward hook, the image embeddings at hand."""
    with ExitStack() as undo:
        step = Step(rows=[0], tokens=[site.token])
        undo.callback(hook_step(b, Point(site.component, site.kind, site.layer), step).remove)
        return run_text(b)


# --- what is measured ----------------------------------------------------------------

Row = dict[str, Any]


def row(name: str, values: Any, unit: str, sense: str = "", target: float | None = None) -> Row:
    """The median of the values, their range, and whether the median is "at most" or "at least" the target."""
    low, value, high = (float(pick(np.asarray(values))) for pick in (np.min, np.median, np.max))
    met = None if target is None else value <= target if sense == "at most" else value >= target
    measured = {"name": name, "value": value, "unit": unit, "low": low, "high": high}
    return measured | {"sense": sense, "target": target, "met": met}


def operations(call: Callable[[], Any]) -> int:
    sdpa: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know
    known = {sdpa: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        call()
    return counter.get_total_flops()


# --- tasks: each is timed once in every round ----------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    wait: Any = torch.cuda.synchronize if torch.cuda.is_available() else int
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def cell_by_cell(b: Bench) -> float:
    """Scaled up from a sample: one cell from each of SAMPLE equal stretches of their list."""
    stretches = np.array_split(np.arange(len(b.sites)), min(b.sample, len(b.sites)))
    sample = [b.sites[random.choice(stretch)] for stretch in stretches]
    return seconds(lambda: [run_cell(b, site) for site in sample]) * len(b.sites) / len(sample)


def matmul(b: Bench, *shapes: tuple[int, int, int]) -> float:
    """Operations per second of activations @ weights.T, the best of the shapes (rows, in, out)."""
    rates = []
    for rows, inner, outer in shapes:
        x, weight = (b.noisy.new_empty(n, inner).normal_() for n in (rows, outer))
        times = [seconds(partial(torch.mm, x, weight.t())) for _ in range(16)][2:]
        rates.append(2 * rows * inner * outer * len(times) / sum(times))
    return max(rates)


TASKS: dict[str, Callable[[Bench], float]] = {
    "plain": lambda b: seconds(lambda: b.module(**b.inputs)),
    "map": lambda b: seconds(lambda: b.run_map()),
    "hooks": lambda b: seconds(lambda: run_hooked(b)),
    "cells": cell_by_cell,
    "clean": lambda b: seconds(lambda: engine.run_alone(b.model, b.forward)),
    "square": lambda b: matmul(b, (2048, 2048, 2048)),
    "shapes": lambda b: matmul(b, *b.shapes),
}
