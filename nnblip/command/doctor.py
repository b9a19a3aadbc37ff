"""Is this installation all right? Versions, device, and the engine's numbers against plain PyTorch hooks."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from nnblip import demo
from nnblip.errors import NnblipError
from nnblip.model import BlipVQA
from nnblip.sites import TEXT_COMPONENTS
from nnblip.tracing import provenance
from nnblip.tracing.trace import causal_trace

#: Largest difference in probability that float32 rounding explains.
TOLERANCE = 1e-4


def examine(say: Callable[[str], None]) -> bool:
    """Print what is found; True if all is well."""
    say(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name, version in provenance.code().items():
        say(f"{name.removeprefix('version_')} {version or '(not a checkout)'}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    say(f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {name}' for name in devices)}")
    try:
        model = BlipVQA()
        say(f"small model: loads, {sum(p.numel() for p in model._module.parameters()):,} parameters")
        effect, difference = self_check(model)
    except (NnblipError, ImportError, RuntimeError) as error:
        say(f"FAILED: {error}")
        return False
    well = effect > 0.1 and difference < TOLERANCE
    say(f"self-check: total effect {effect:.3f} (at least 0.1), largest difference to plain hooks {difference:.1e}")
    say(
        "all is well"
        if well
        else f"FAILED: the map differs from plain hooks by more than {TOLERANCE:g}, or shows nothing"
    )
    return well


def self_check(model: BlipVQA) -> tuple[float, float]:
    """Trace a bundled scene, and every third of its cells once more with forward hooks, one cell at a time.

    Returns:
        The total effect, and the largest difference between the two in probability.
    """
    example = demo.examples()[0]
    tree = causal_trace(model, [example], nu=5.0, draws=1, progress=False)
    with model.clean(example.image, example.question) as clean:
        pass
    with model.corrupt(clean, nu=5.0) as run:
        pass
    worst = 0.0
    for component in TEXT_COMPONENTS:
        cells = tree[component].probability.isel(example=0, nu=0, draw=0, kind=0)
        for number in range(0, cells.size, 3):
            layer, token = divmod(number, cells.sizes["token"])
            plain = _with_hook(model, clean, run.image_embeds, component, layer, token)
            worst = max(worst, abs(plain - float(cells[layer, token])))
    return clean.probability - run.probability, worst


@torch.no_grad()
def _with_hook(model: BlipVQA, clean: Any, embeds: torch.Tensor, component: str, layer: int, token: int) -> float:
    """The answer's probability with one block output restored by a forward hook."""
    torch_model = model._module
    owner = torch_model.text_encoder if component == "question_encoder" else torch_model.text_decoder.bert

    def restore(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, token] = clean.states[component, "block", layer][:, token]
        return output

    handle = owner.encoder.layer[layer].register_forward_hook(restore)
    try:
        states = torch_model.text_encoder(clean.input_ids.to(embeds.device), encoder_hidden_states=embeds)[0]
        ids = torch.tensor([[torch_model.config.text_config.bos_token_id, *clean.answer_ids]], device=embeds.device)
        logits = torch_model.text_decoder(ids[:, :-1], encoder_hidden_states=states).logits
    finally:
        handle.remove()
    return float(logits.softmax(-1).gather(2, ids[:, 1:, None]).prod())
