"""What happens inside a trace: states are read, kept and overwritten."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from nnblip.blip.network import Blip
from nnblip.blip.upstream import is_edited, skip
from nnblip.errors import SiteError, one_of
from nnblip.passes.plan import Plan, Point
from nnblip.shown import code, plain, table
from nnblip.sites import COMPONENTS, IMAGE_KINDS, KINDS
from nnblip.states import runs


@runtime_checkable
class Donor(Protocol):
    """Where the states come from that restored rows get."""

    def at(self, point: Point, plan: Plan) -> Float[Tensor, "write run hidden"]:
        """What is written at a point, whole states; of one run for all bases, or of as many as there are bases."""
        ...


class States(dict[tuple[str, str, int], Tensor]):
    """States of a run by (component, kind, layer), each (1, tokens, hidden); of several runs, (run, tokens, hidden).

    Attributes:
        image_embeds: what the question encoder saw, (1, patches, hidden); of several runs, or one for all of them.
    """

    image_embeds: Tensor | None = None

    def at(self, point: Point, plan: Plan) -> Tensor:
        return self[point.component, point.kind, point.layer][:, plan.steps[point].tokens].transpose(0, 1)

    def __repr__(self) -> str:
        rows = [
            (f"{component}, {kind}", f"layers {layers}, each {shape}")
            for component, kind, layers, shape in self._rows()
        ]
        return plain("States, by [component, kind, layer]", [*rows, *self._embeds()])

    def _repr_html_(self) -> str:
        rows = [(code(component), code(kind), layers, shape) for component, kind, layers, shape in self._rows()]
        said = "".join(f"{name}: {shape}" for name, shape in self._embeds())
        head = ("component", "kind", "layers", "shape of each")
        return table("States, by [component, kind, layer]", head, rows, said)

    def _rows(self) -> list[tuple[str, str, str, tuple[int, ...]]]:
        """Of each component and kind the layers and the shape, in the order of the run."""
        found: dict[tuple[str, str], list[int]] = {}
        for component, kind, layer in self:
            found.setdefault((component, kind), []).append(layer)
        return [
            (component, kind, runs(layers), tuple(self[component, kind, layers[0]].shape))
            for (component, kind), layers in found.items()
        ]

    def _embeds(self) -> list[tuple[str, tuple[int, ...]]]:
        return [] if self.image_embeds is None else [("image_embeds", tuple(self.image_embeds.shape))]

    def __missing__(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 3):
            raise SiteError(f"states[{key!r}]: expected states[component, kind, layer]")
        one_of(key[0], COMPONENTS, "component", SiteError)
        one_of(key[1], IMAGE_KINDS if key[0] == "image_encoder" else KINDS, "kind", SiteError)
        layers = 1 + max((layer for component, _, layer in self if component == key[0]), default=-1)
        raise SiteError(f"layer {key[2]!r} of {key[0]}: there are {layers}, 0 to {layers - 1}")


def skip_vision(model: Blip, image_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: these embeddings instead of what the vision model gives."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    _instead(model, model.image_encoder, BaseModelOutputWithPooling(last_hidden_state=image_embeds))


def start_vision(model: Blip, patch_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: the vision model starts from these patch embeddings instead of the image's own."""
    _instead(model, model.image_encoder.embeddings, patch_embeds)


def _instead(model: Blip, module: Any, value: Any) -> None:
    """A module need not run, unless edits that are stored on the model may wait for what is inside it."""
    if is_edited(model):
        module.output = value
    else:
        skip(module, value)


def start_words(model: Blip, words: Float[Tensor, "base token hidden"]) -> None:
    """Inside a trace: these word embeddings instead of the question's own."""
    model.question_encoder.embeddings.word_embeddings.output = words.clone()  # BLIP adds positions in place


def write_states(model: Blip, point: Point, plan: Plan, donor: Donor, bases: int = 1) -> None:
    """Inside a trace: overwrite the states that the plan names at a point by the donor's, for every base."""
    step = plan.steps[point]
    if step.rows:
        state = model.read_state(*point).clone()
        grid, values = state.unflatten(0, (-1, bases)), donor.at(point, plan).to(state)  # a view: writes reach `state`
        if step.heads:
            heads = model.config.text_config.num_attention_heads
            grid, values = (x.unflatten(-1, (heads, -1)) for x in (grid, values))
            grid[step.rows, :, step.tokens, step.heads] = values[range(len(values)), :, step.heads]
        else:
            grid[step.rows, :, step.tokens] = values
        model.write_state(*point, state)
