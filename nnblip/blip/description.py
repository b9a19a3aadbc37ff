"""What a model says of itself: its weights, and the names of its parts as they are typed."""

from __future__ import annotations

from typing import Any

from nnblip.blip.upstream import edits_of
from nnblip.shown import Markup, code, facts, listed, plain, table, text
from nnblip.sites import IMAGE_KINDS

#: Where in a layer the states of each kind are read: the part whose output they are.
PARTS = {
    "": ("block",),
    ".attention": ("attention",),
    ".attention.self": ("attention_head", "attention_value_output"),
    ".attention.add_norm.dense": ("attention_out",),
    ".crossattention": ("crossattention",),
    ".crossattention.self": ("crossattention_head",),
    ".crossattention.add_norm.dense": ("crossattention_out",),
    ".intermediate": ("mlp_activation",),
    ".add_norm.dense": ("mlp_out",),
}


def weights(model: Any) -> list[tuple[str, str]]:
    """Name, weights and place of a model, and what is changed in it."""
    module = model._module
    where = sorted({str(one.device) for one in module.parameters()})
    edits = len(edits_of(model))
    return [
        ("model", str(model.name) + (f", revision {model.revision}" if model.revision else "")),
        ("weights", f"{sum(one.numel() for one in module.parameters()):,} parameters, {_short(module.dtype)}"),
        ("device", "an NDIF server; no weights here" if model.remote else ", ".join(where)),
        *([("edits", f"{edits} stored on it")] if edits else []),
    ]


def parts(model: Any) -> list[tuple[str, tuple[str, ...]]]:
    """The parts of each layer as they are typed after `model.`, with the kinds of states that are read there."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for component in model.task.components:
        image = component == "image_encoder"
        config = model.config.vision_config if image else model.config.text_config
        layers = f"{component}.layer[0..{config.num_hidden_layers - 1}]"
        found += [(layers, IMAGE_KINDS)] if image else [(layers + part, kinds) for part, kinds in PARTS.items()]
    return found


def as_text(model: Any) -> str:
    every = parts(model)
    names = [name for name, _ in every if name.endswith("]") or name.endswith("attention")]
    return plain(type(model).__name__, [*weights(model), *(("layers", name) for name in names)])


def as_html(model: Any) -> str:
    """As `as_text`, with all parts; those of the second text component, which are the same, in a line."""
    first, *others = model.task.text_components
    rows: list[tuple[str, str]] = []
    for name, kinds in parts(model):
        component, _, inner = name.partition("]")
        if not component.startswith(tuple(others)):
            rows.append((code(f"model.{name}"), listed(kinds)))
        elif not inner:
            rows.append((code(f"model.{name}"), text(f"the same parts and kinds as {first}")))
    typed = table("Parts, and the states that are their output", ("as typed", "kinds of states"), rows, NOTE)
    return facts(type(model).__name__, weights(model)) + typed


NOTE = Markup(
    "<code>block_input</code> is a layer's input. The torch module is <code>model._module</code>; some outputs"
    " are tuples, whose first is the state."
)


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
