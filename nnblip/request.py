"""What is asked of a trace, checked, and each example made ready for it.

What `causal_trace` and `attribution_trace` share: their settings, the loop over examples,
and what an example needs before its first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from nnblip import engine, results
from nnblip.edges import KnockOut, as_knock_outs, cuts
from nnblip.engine import Forward
from nnblip.errors import NnblipError, SiteError, one_of, whole
from nnblip.inputs import Encoded, Example, answer_tokens
from nnblip.interventions import States
from nnblip.noise import Noise, Swap, check_nu, corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.roles import Rules, answer_roles
from nnblip.sites import (
    COMPONENTS,
    HEAD_KINDS,
    KINDS,
    PLACES,
    SUBLAYERS,
    WHOLE_KINDS,
    Cell,
    Extent,
    describe,
    gather,
    grid_of,
    heatmap,
)  # fmt: skip
from nnblip.vision import clean_at, patch_embeds

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: What a restored node shows: states put back in a corrupted run, or damaged in a clean one.
DIRECTIONS = ("denoising", "noising")


@dataclass(frozen=True)
class Settings:
    """What `causal_trace` was asked for, checked; the fields are its arguments."""

    nu: tuple[float, ...]
    draws: int
    noise: Noise
    seed: int
    kinds: tuple[str, ...]
    components: tuple[str, ...]
    cells: Any
    direction: str
    freeze: tuple[str, ...]
    max_rows: int | None
    noise_at: str = "image_embeds"
    regions: int | tuple[int, int] | None = None
    knock_out: tuple[KnockOut, ...] = ()
    roles: Rules = field(default_factory=Rules)

    @classmethod
    def of(
        cls, nu: Any, draws: Any, noise: Any, seed: Any, kinds: Any, components: Any, cells: Any, direction: Any,
        freeze: Any, max_rows: Any, noise_at: Any = "image_embeds", regions: Any = None, knock_out: Any = (),
        roles: Any = None,
    ) -> Settings:  # fmt: skip
        """Raises `NnblipError` for what cannot be used."""
        if kinds is None:
            kinds = ("block",) if cells is None else ()
        return cls(
            _ladder(nu),
            whole(draws, "draws", 1),
            get_noise(noise),
            whole(seed, "seed", 0),
            _names(kinds, KINDS, "kind") if kinds or cells is None else (),
            _names(components, COMPONENTS, "component"),
            cells,
            one_of(direction, DIRECTIONS, "direction"),
            tuple(sorted(_names(freeze, SUBLAYERS, "sublayer"))) if freeze else (),
            None if max_rows is None else whole(max_rows, "max_rows", 2),
            one_of(noise_at, PLACES, "noise_at"),
            regions,
            as_knock_outs(knock_out),
            Rules.of(roles),
        )

    def nodes(self, extent: Extent) -> dict[str, list[Cell]]:
        """The cells of each node of the result, for a question and answer of some length."""
        whole_kinds = [kind for kind in self.kinds if kind in WHOLE_KINDS]
        head_kinds = [kind for kind in self.kinds if kind in HEAD_KINDS]
        texts = [name for name in self.components if name != "image_encoder"]
        if self.regions is not None and (len(texts) == len(self.components) or not self.kinds):
            raise SiteError("regions: they part the map of image_encoder; name it in components")
        if texts != list(self.components) and self.kinds and "block" not in self.kinds:
            raise SiteError(f"kinds {', '.join(self.kinds)}: image_encoder has the kind block only; name it too")
        nodes = {name: heatmap(extent, name, whole_kinds, self.regions) for name in self.components if self.kinds}
        nodes |= {name + results.HEADS: heatmap(extent, name, head_kinds) for name in texts}
        nodes[results.CELLS] = [] if self.cells is None else gather(self.cells, extent)
        for site in (site for cells in nodes.values() for cell in cells for site in cell):
            if site.head is not None and site.kind.removesuffix("_head") in self.freeze:
                raise SiteError(f"{site}: its own sublayer is frozen, so restoring it would change nothing")
            if site.component == "image_encoder" and "crossattention" in self.freeze:
                raise SiteError(f"{site}: with crossattention frozen nothing of the image reaches the question")
        return {name: cells for name, cells in nodes.items() if cells}


@dataclass(frozen=True)
class Ready:
    """An example before its first pass: inputs, clean states, and the cells of each node of its result."""

    example: Example
    encoded: Encoded
    undamaged: Tensor
    answer_ids: list[int]
    predicted: list[int]
    rival: int
    clean: States
    clean_outcome: Outcome
    partner: Tensor | None
    extent: Extent
    nodes: Mapping[str, Sequence[Cell]]
    forward: Forward
    grid: tuple[int, int]
    roles: tuple[str, ...]

    @classmethod
    def of(cls, model: BlipVQA, example: Example, settings: Settings) -> Ready:
        """Runs the vision model and one clean pass. Raises `NnblipError` for what cannot be traced."""
        encoded = model.encode(example.image, example.question)
        embeds = model.image_embeds(encoded)
        if example.answer is None:
            answer_ids = predicted = model.own_answer(encoded, embeds)
        else:
            answer_ids, predicted = model.encode_answer(example.answer), model.own_answer(encoded, embeds, empty=True)
        extent = model.extent(len(encoded.tokens), len(answer_ids), settings.noise_at)
        undamaged, runs_vision = embeds, settings.noise_at != "image_embeds"
        if runs_vision:
            undamaged = clean_at(model, encoded, settings.noise_at)
            embeds = patch_embeds(model, undamaged, settings.noise_at)
        forward = Forward(encoded, embeds, answer_ids, runs_vision, cuts(settings.knock_out, extent))
        clean, logits = engine.run_alone(model, forward)
        rival, partner = rival_of(logits, answer_ids), None
        if isinstance(settings.noise, Swap):
            partner, rival = model.partner(example.partner, example.question, answer_ids, settings.noise_at)
        return cls(
            example, encoded, undamaged, answer_ids, predicted, rival, clean, outcome_of(logits, answer_ids, rival),
            partner, extent, settings.nodes(extent), forward, grid_of(settings.regions or extent.side),
            settings.roles(encoded.tokens),
        )  # fmt: skip

    @property
    def cells(self) -> list[Cell]:
        """Of all nodes, in their order."""
        return [cell for cells in self.nodes.values() for cell in cells]

    def noisy(self, model: BlipVQA, settings: Settings, nu: float, draw: int) -> Forward:
        """The pass on the damaged image of one draw."""
        unit = self.partner
        if unit is None:
            unit = unit_noise(settings.noise, tuple(self.undamaged.shape), settings.seed, self.encoded.key, draw)
        damaged = corrupt(settings.noise, self.undamaged, unit, nu)
        if self.forward.runs_vision:
            damaged = patch_embeds(model, damaged, settings.noise_at)
        return replace(self.forward, image=damaged)

    def traced(self, model: BlipVQA, corrupted: np.ndarray, restored: np.ndarray) -> results.Traced:
        """The numbers (3, nu, draw) and (3, nu, draw, cell) with all that a result says of the example."""
        tokens = {
            "question_encoder": self.encoded.tokens,
            "answer_decoder": answer_tokens(model.processor, self.answer_ids),
        }
        kinds = {"question_encoder": self.roles, "answer_decoder": answer_roles(tokens["answer_decoder"])}
        if "image_encoder" in self.nodes:
            tokens["image_encoder"], kinds["image_encoder"] = _image_tokens(
                self.nodes["image_encoder"], self.extent.side
            )
        return results.Traced(
            id=self.example.id or self.encoded.key[:12],
            coords={
                "question": self.example.question,
                "answer": model.text(self.answer_ids),
                "predicted": model.text(self.predicted),
                "rival": model.text([self.rival]),
                **example_coords(self.example),
            },
            tokens=tokens,
            roles=kinds,
            clean=stack(self.clean_outcome)[:, 0],
            corrupted=corrupted,
            restored=_by_node(restored, self.nodes, self.extent),
            cells=[describe(cell) for cell in self.nodes.get(results.CELLS, [])],
            grid=self.grid,
            depths={name: self.extent.depths(name.removesuffix(results.HEADS)) for name in self.nodes},
        )


def each(
    examples: Iterable[Any],
    settings: Settings,
    trace: Callable[[Example, Callable[[], object]], results.Traced],
    progress: bool | None,
) -> list[results.Traced]:
    """Trace every example behind a progress bar; an error names the example."""
    given = [Example.of(example) for example in several(examples)]
    total = len(given) * settings.draws * len(settings.nu)
    traced: list[results.Traced] = []
    with tqdm(total=total, unit="pass", disable=None if progress is None else not progress) as bar:
        for number, example in enumerate(given):
            try:
                traced.append(trace(example, bar.update))
            except NnblipError as error:
                raise type(error)(f"example {number}: {error}") from error
    return _distinct(traced)


def _by_node(restored: np.ndarray, nodes: Mapping[str, Sequence[Cell]], extent: Extent) -> dict[str, np.ndarray]:
    """The numbers (3, nu, draw, cell) parted into nodes, each with the dimensions of its map."""
    ends = np.cumsum([len(cells) for cells in nodes.values()])
    parts = dict(zip(nodes, np.split(restored, ends[:-1], axis=-1), strict=True))
    for name in parts.keys() - {results.CELLS}:
        heads = (extent.heads,) if name.endswith(results.HEADS) else ()
        component = name.removesuffix(results.HEADS)
        layers = len(extent.depths(component))
        # of the image encoder there are as many tokens as regions
        last = len(nodes[name]) // layers if component == "image_encoder" else extent.tokens(component)
        parts[name] = parts[name].reshape(*restored.shape[:3], -1, layers, *heads, last)
    return parts


def example_coords(example: Example) -> dict[str, str]:
    """The coordinates of an example that are known before it is traced."""
    return {
        "question": str(example.question),
        "question_type": example.question_type or "",
        "image": _image_name(example.image),
        **_extras(example),
    }


def _extras(example: Example) -> dict[str, str]:
    """Texts and numbers that the data set says of an example besides, as coordinates; the schema's names are taken."""
    taken = {
        *results.EXAMPLE_COORDS,
        "example",
        "nu",
        "draw",
        "kind",
        "layer",
        "head",
        "token",
        "cell",
        "status",
        "error",
    }
    return {
        name: str(value)
        for name, value in example.extra.items()
        if isinstance(value, str | int | float) and name not in taken
    }


def _image_tokens(cells: Sequence[Cell], side: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and roles of the tokens of the image encoder's map: which patches they are, by row and column."""
    texts = []
    for cell in cells:
        if cell[0].layer == cells[0][0].layer:
            rows, columns = zip(*(divmod(site.token - 1, side) for site in cell), strict=True)
            spans = (f"{min(x)}-{max(x)}" if min(x) < max(x) else f"{min(x)}" for x in (rows, columns))
            texts.append("[CLS]" if cell[0].token == 0 else "row {} column {}".format(*spans))
    return tuple(texts), tuple("[CLS]" if text == "[CLS]" else "image" for text in texts)


def _image_name(image: Any) -> str:
    """The path, where there is one."""
    return str(image) if isinstance(image, str | Path) else str(getattr(image, "filename", "") or "")


def stack(outcome: Outcome) -> np.ndarray:
    """(3, rows), in the order of `results.VARIABLES`."""
    return np.stack([getattr(outcome, name).numpy() for name in results.VARIABLES])


def several(examples: Iterable[Any]) -> list[Any]:
    """The examples as a list. Raises `NnblipError` if there is none."""
    if isinstance(examples, tuple) and len(examples) in (2, 3) and isinstance(examples[1], str):
        raise NnblipError("examples is a single (image, question): put it in a list, [(image, question)]")
    try:
        given = list(examples)
    except TypeError:
        given = []
    if not given or isinstance(examples, str | dict):
        raise NnblipError(f"examples {examples!r:.100}: expected at least one (image, question)")
    return given


def _ladder(nu: float | Sequence[float]) -> tuple[float, ...]:
    several = nu if isinstance(nu, list | tuple | np.ndarray | range) else [nu]
    ladder = tuple(check_nu(value) for value in several)
    if not ladder or len(set(ladder)) < len(ladder):
        raise NnblipError(f"nu {nu!r}: expected one noise factor or several different ones")
    return ladder


def _names(given: Iterable[str], allowed: Iterable[str], what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        one_of(name, allowed, what, SiteError)
    if not names or len(set(names)) < len(names):
        raise SiteError(f"{what}s {given!r}: expected one or more different ones of {', '.join(allowed)}")
    return names


def _distinct(traced: list[results.Traced]) -> list[results.Traced]:
    """The same, if no two examples have one id."""
    seen: set[str] = set()
    for one in traced:
        if one.id in seen:
            raise NnblipError(
                f"two examples have the id {one.id!r}: the same image and question twice, or ids that repeat"
            )
        seen.add(one.id)
    return traced
