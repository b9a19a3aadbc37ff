"""causal_trace: the loops over examples, draws and ν."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from nnblip import engine, provenance, results
from nnblip.errors import NnblipError, SiteError, one_of, whole
from nnblip.inputs import Example, answer_tokens
from nnblip.noise import Noise, Swap, check_nu, corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.plan import make_plans
from nnblip.roles import roles
from nnblip.sites import (
    HEAD_KINDS,
    KINDS,
    SUBLAYERS,
    TEXT_COMPONENTS,
    WHOLE_KINDS,
    Cell,
    Extent,
    describe,
    gather,
    heatmap,
)

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: What a restored node shows: states put back in a corrupted run, or damaged in a clean one.
DIRECTIONS = ("denoising", "noising")


def causal_trace(
    model: BlipVQA,
    examples: Iterable[Any],
    nu: float | Sequence[float] = 5.0,
    draws: int = 10,
    noise: str | Noise = "multiplicative",
    *,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    components: Sequence[str] = TEXT_COMPONENTS,
    cells: Any = None,
    direction: str = "denoising",
    freeze: Iterable[str] = (),
    max_rows: int | None = 256,
    progress: bool | None = None,
) -> xr.DataTree:
    """Restore every state, one at a time, and measure how much of the answer returns.

    One pass of the model per (example, draw, ν) computes the whole map; the image
    embeddings of an example are computed once. Method: Palit et al. 2023; one-pass plan:
    `nnblip.plan`.

    Args:
        model: a `BlipVQA`.
        examples: (image, question) or (image, question, answer) tuples, dicts or
            `nnblip.Example`s. An answer that is given is traced instead of the model's own.
        nu: noise factor or factors, each at least 0.
        draws: how many samples of the noise, the same for every ν and every cell.
        noise: name or object, see `nnblip.noise`.
        seed: seed of the noise; the same seed and settings give the same numbers bit for bit.
        kinds: which states of a layer, see `nnblip.sites.KINDS`; by default `block`, or none if
            `cells` are given.
        components: which components get a map.
        cells: what else to restore together: a family of `nnblip.sites` (`windows`, `pairs`,
            `all_tokens`, `token_across_layers`) or a list of families, sites and sets of sites.
        direction: "denoising", a corrupted run in which states are put back (does the state
            suffice?), or "noising", a clean run in which they are replaced by their corrupted
            values (is it needed?).
        freeze: sublayers ("attention", "crossattention", "mlp_out") whose later outputs, in the
            component where a row's first state is restored, stay what they are in the run
            without restoring. BLIP's later question-encoder layers read the corrupted image
            again; with `freeze={"crossattention"}` a restored state cannot steer what they read.
        max_rows: at most so many rows in a pass; smaller is slower and needs less memory.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        The tree of the design (README, "Results"): nodes `/clean`, `/corrupted`, one for each
        component with dims (example, nu, draw, kind, layer, token), one for its heads if
        their kinds are asked for, `/cells` if cells are; variables `probability`,
        `log_probability`, `logit_difference`, float32. The attribute `direction` says what
        the numbers of restored nodes mean.

    Raises:
        NnblipError: for a bad setting or example, with its number.
    """
    settings = Settings.of(nu, draws, noise, seed, kinds, components, cells, direction, freeze, max_rows)
    given = [Example.of(example) for example in _several(examples)]
    total = len(given) * settings.draws * len(settings.nu)
    traced: list[results.Traced] = []
    with tqdm(total=total, unit="pass", disable=None if progress is None else not progress) as bar:
        for number, example in enumerate(given):
            try:
                traced.append(trace_example(model, example, settings, bar.update))
            except NnblipError as error:
                raise type(error)(f"example {number}: {error}") from error
    attrs = provenance.attributes(
        model, noise=repr(settings.noise), seed=settings.seed, draws=settings.draws, direction=direction,
        freeze=", ".join(settings.freeze),
    )  # fmt: skip
    return results.build(_distinct(traced), settings.nu, settings.draws, settings.kinds, attrs)


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

    @classmethod
    def of(
        cls, nu: Any, draws: Any, noise: Any, seed: Any, kinds: Any, components: Any, cells: Any, direction: Any,
        freeze: Any, max_rows: Any,
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
            _names(components, TEXT_COMPONENTS, "component"),
            cells,
            one_of(direction, DIRECTIONS, "direction"),
            tuple(sorted(_names(freeze, SUBLAYERS, "sublayer"))) if freeze else (),
            None if max_rows is None else whole(max_rows, "max_rows", 2),
        )

    def nodes(self, extent: Extent) -> dict[str, list[Cell]]:
        """The cells of each node of the result, for a question and answer of some length."""
        whole_kinds = [kind for kind in self.kinds if kind in WHOLE_KINDS]
        head_kinds = [kind for kind in self.kinds if kind in HEAD_KINDS]
        nodes = {name: heatmap(extent, name, whole_kinds) for name in self.components}
        nodes |= {name + results.HEADS: heatmap(extent, name, head_kinds) for name in self.components}
        nodes[results.CELLS] = [] if self.cells is None else gather(self.cells, extent)
        for site in (site for cells in nodes.values() for cell in cells for site in cell):
            if site.head is not None and site.kind.removesuffix("_head") in self.freeze:
                raise SiteError(f"{site}: its own sublayer is frozen, so restoring it would change nothing")
        return {name: cells for name, cells in nodes.items() if cells}


def trace_example(
    model: BlipVQA, example: Example, settings: Settings, tick: Callable[[], object] = lambda: None
) -> results.Traced:
    """All numbers of one example; `tick` is called after each pass."""
    encoded = model.encode(example.image, example.question)
    embeds = model.image_embeds(encoded)
    if example.answer is None:
        answer_ids = predicted = model.own_answer(encoded, embeds)
    else:
        answer_ids, predicted = model.encode_answer(example.answer), model.own_answer(encoded, embeds, empty=True)
    clean, logits = engine.run_alone(model, encoded, embeds, answer_ids)
    rival = rival_of(logits, answer_ids)
    partner = None
    if isinstance(settings.noise, Swap):
        partner, rival = model.partner(example.partner, example.question, answer_ids)

    extent = model.extent(len(encoded.tokens), len(answer_ids))
    nodes = settings.nodes(extent)
    cells = [cell for there in nodes.values() for cell in there]
    plans = make_plans(cells, extent.layers, settings.max_rows, engine.least_rows(extent))
    frozen = frozenset(SUBLAYERS[name] for name in settings.freeze)
    corrupted = np.empty((3, len(settings.nu), settings.draws), np.float32)
    restored = np.empty((3, len(settings.nu), settings.draws, len(cells)), np.float32)
    for draw in range(settings.draws):
        unit = partner
        if unit is None:
            unit = unit_noise(settings.noise, tuple(embeds.shape), settings.seed, encoded.key, draw)
        for level, nu in enumerate(settings.nu):
            noisy = corrupt(settings.noise, embeds, unit, nu)
            if settings.direction == "denoising":
                base, donor = noisy, clean
            else:
                donor, damaged = engine.run_alone(model, encoded, noisy, answer_ids)
                base = embeds
                corrupted[:, level, draw] = _stack(outcome_of(damaged, answer_ids, rival))[:, 0]
            for plan in plans:
                rows = _stack(engine.run_plan(model, encoded, base, answer_ids, rival, donor, plan, frozen))
                if settings.direction == "denoising":
                    corrupted[:, level, draw] = rows[:, 0]
                for row, cell in enumerate(plan.cells):
                    if cell is not None:
                        restored[:, level, draw, cell] = rows[:, row]
            tick()

    tokens = {"question_encoder": encoded.tokens, "answer_decoder": answer_tokens(model.processor, answer_ids)}
    return results.Traced(
        id=example.id or encoded.key[:12],
        coords={
            "question": example.question,
            "answer": model.text(answer_ids),
            "predicted": model.text(predicted),
            "rival": model.text([rival]),
            "question_type": example.question_type or "",
            "image": _image_name(example.image),
        },
        tokens=tokens,
        roles=tokens | {"question_encoder": roles(encoded.tokens)},
        clean=_stack(outcome_of(logits, answer_ids, rival))[:, 0],
        corrupted=corrupted,
        restored=_by_node(restored, nodes, extent),
        cells=[describe(cell) for cell in nodes.get(results.CELLS, [])],
    )


def _by_node(restored: np.ndarray, nodes: Mapping[str, Sequence[Cell]], extent: Extent) -> dict[str, np.ndarray]:
    """The numbers (3, nu, draw, cell) parted into nodes, each with the dimensions of its map."""
    ends = np.cumsum([len(cells) for cells in nodes.values()])
    parts = dict(zip(nodes, np.split(restored, ends[:-1], axis=-1), strict=True))
    for name in parts.keys() - {results.CELLS}:
        heads = (extent.heads,) if name.endswith(results.HEADS) else ()
        shape = (-1, extent.layers, *heads, extent.tokens(name.removesuffix(results.HEADS)))
        parts[name] = parts[name].reshape(*restored.shape[:3], *shape)
    return parts


def _image_name(image: Any) -> str:
    """The path, where there is one."""
    return str(image) if isinstance(image, str | Path) else str(getattr(image, "filename", "") or "")


def _stack(outcome: Outcome) -> np.ndarray:
    """(3, rows), in the order of `results.VARIABLES`."""
    return np.stack([getattr(outcome, name).numpy() for name in results.VARIABLES])


def _several(examples: Iterable[Any]) -> list[Any]:
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
