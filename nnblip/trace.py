"""causal_trace: the loops over examples, draws and ν."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from nnblip import engine, provenance, results
from nnblip.errors import NnblipError, SiteError, one_of, whole
from nnblip.inputs import Example, answer_tokens
from nnblip.noise import Noise, check_nu, corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.plan import make_plans
from nnblip.roles import roles
from nnblip.sites import KINDS, TEXT_COMPONENTS, heatmap

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


def causal_trace(
    model: BlipVQA,
    examples: Iterable[Any],
    nu: float | Sequence[float] = 5.0,
    draws: int = 10,
    noise: str | Noise = "multiplicative",
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("block",),
    components: Sequence[str] = TEXT_COMPONENTS,
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
        kinds: which states of a layer, see `nnblip.sites.KINDS`.
        components: which components get a map.
        max_rows: at most so many rows in a pass; smaller is slower and needs less memory.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        The tree of the design (README, "Results"): nodes `/clean`, `/corrupted` and one for
        each component with dims (example, nu, draw, kind, layer, token); variables
        `probability`, `log_probability`, `logit_difference`, float32.

    Raises:
        NnblipError: for a bad setting or example, with its number.
    """
    ladder = _ladder(nu)
    draws = whole(draws, "draws", 1)
    seed = whole(seed, "seed", 0)
    kind_of_noise = get_noise(noise)
    kinds = _names(kinds, KINDS, "kind")
    components = _names(components, TEXT_COMPONENTS, "component")
    given = [Example.of(example) for example in _several(examples)]
    passes = tqdm(
        total=len(given) * draws * len(ladder), unit="pass", disable=None if progress is None else not progress
    )
    traced: list[results.Traced] = []
    with passes:
        for number, example in enumerate(given):
            try:
                one = trace_example(
                    model, example, ladder, draws, kind_of_noise, seed, kinds, components, max_rows, passes.update
                )
            except NnblipError as error:
                raise type(error)(f"example {number}: {error}") from error
            traced.append(one)
    attrs = provenance.attributes(model, noise=repr(kind_of_noise), seed=seed, draws=draws)
    return results.build(_distinct(traced), ladder, draws, kinds, attrs)


def trace_example(
    model: BlipVQA,
    example: Example,
    ladder: Sequence[float],
    draws: int,
    noise: Noise,
    seed: int,
    kinds: Sequence[str],
    components: Sequence[str],
    max_rows: int | None,
    tick: Any = lambda: None,
) -> results.Traced:
    """All numbers of one example; arguments as for `causal_trace`, already checked."""
    encoded = model.encode(example.image, example.question)
    embeds = model.image_embeds(encoded)
    if example.answer is None:
        answer_ids = predicted = model.own_answer(encoded, embeds)
    else:
        answer_ids, predicted = model.encode_answer(example.answer), model.own_answer(encoded, embeds, empty=True)
    clean, logits = engine.clean_run(model, encoded, embeds, answer_ids)
    rival = rival_of(logits, answer_ids)

    extent = model.extent(len(encoded.tokens), len(answer_ids))
    cells = [cell for component in components for cell in heatmap(extent, component, kinds)]
    plans = make_plans(cells, extent.layers, max_rows, engine.least_rows(extent))
    corrupted = np.empty((3, len(ladder), draws), np.float32)
    restored = np.empty((3, len(ladder), draws, len(cells)), np.float32)
    for draw in range(draws):
        unit = unit_noise(noise, tuple(embeds.shape), seed, encoded.key, draw)
        for level, nu in enumerate(ladder):
            noisy = corrupt(noise, embeds, unit, nu)
            for plan in plans:
                rows = _stack(engine.run_plan(model, encoded, noisy, answer_ids, rival, clean, plan))
                corrupted[:, level, draw] = rows[:, 0]
                for row, cell in enumerate(plan.cells):
                    if cell is not None:
                        restored[:, level, draw, cell] = rows[:, row]
            tick()

    tokens = {"question_encoder": encoded.tokens, "answer_decoder": answer_tokens(model.processor, answer_ids)}
    named = {"question_encoder": roles(encoded.tokens), "answer_decoder": tokens["answer_decoder"]}
    shapes = {c: (len(kinds), extent.layers, extent.tokens(c)) for c in components}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = np.split(restored, ends[:-1], axis=-1)
    return results.Traced(
        id=example.id or encoded.key[:12],
        coords={
            "question": example.question,
            "answer": model.text(answer_ids),
            "predicted": model.text(predicted),
            "question_type": example.question_type or "",
            "image": example.image
            if isinstance(example.image, str)
            else str(getattr(example.image, "filename", "") or ""),
        },
        tokens=tokens,
        roles=named,
        clean=_stack(outcome_of(logits, answer_ids, rival))[:, 0],
        corrupted=corrupted,
        restored={
            c: part.reshape(3, len(ladder), draws, *shapes[c]) for c, part in zip(components, parts, strict=True)
        },
    )


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


def _ladder(nu: float | Sequence[float]) -> list[float]:
    ladder = [check_nu(value) for value in (nu if isinstance(nu, list | tuple | np.ndarray | range) else [nu])]
    if not ladder or len(set(ladder)) < len(ladder):
        raise NnblipError(f"nu {nu!r}: expected one noise factor or several different ones")
    return ladder


def _names(given: Sequence[str], allowed: Sequence[str], what: str) -> tuple[str, ...]:
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
