"""The examples that a trace is asked about, here or on a server, and what a result says of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from nnblip import results
from nnblip.errors import NnblipError
from nnblip.flight import Request, flights, one_by_one
from nnblip.inputs import Encoded, Example, answer_tokens
from nnblip.measure import Measured
from nnblip.roles import answer_roles
from nnblip.settings import Settings
from nnblip.sites import Cell, Extent, describe, grid_of

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

Result = TypeVar("Result")


def sending(model: BlipVQA, errand: str, *args: Any, timeout: float | None = None) -> Callable[[], Any]:
    """A call that has a server do an errand, see `nnblip.remote.ask`."""
    from nnblip.remote import ask

    return partial(ask, model, errand, *args, timeout=timeout)


def each(
    examples: Iterable[Any],
    settings: Settings,
    begin: Callable[[Example, Callable[[], object]], Request[Result]],
    progress: bool | None,
    far: bool,
) -> list[Result]:
    """The result of every example, behind a progress bar; an error names the example.

    Here they are traced one after the other; on a server (`far`) a few requests are in flight.
    """
    given, passes = [Example.of(example) for example in several(examples)], settings.draws * len(settings.nu)
    found: dict[int, Result] = {}
    with tqdm(total=len(given) * passes, unit="pass", disable=None if progress is None else not progress) as bar:
        for number, result in (flights if far else one_by_one)(
            range(len(given)), lambda number: begin(given[number], bar.update)
        ):
            try:
                found[number] = result()
            except NnblipError as error:
                raise type(error)(f"example {number}: {error}") from error
            bar.update(passes * far)
    return [found[number] for number in range(len(given))]


def labelled(model: BlipVQA, example: Example, settings: Settings, encoded: Encoded, found: Measured) -> results.Traced:
    """The numbers of an example with all that a result says of it."""
    extent = model.extent(len(encoded.tokens), len(found.answer_ids), settings.noise_at)
    nodes = settings.nodes(extent)
    tokens = {
        "question_encoder": encoded.tokens,
        "answer_decoder": answer_tokens(model.processor, found.answer_ids),
    }
    kinds = {
        "question_encoder": settings.roles(encoded.tokens),
        "answer_decoder": answer_roles(tokens["answer_decoder"]),
    }
    if "image_encoder" in nodes:
        tokens["image_encoder"], kinds["image_encoder"] = _image_tokens(nodes["image_encoder"], extent.side)
    return results.Traced(
        id=example.id or encoded.key[:12],
        coords={
            "question": example.question,
            "answer": model.text(found.answer_ids),
            "predicted": model.text(found.predicted),
            "rival": model.text([found.rival]),
            **example_coords(example),
        },
        tokens=tokens,
        roles=kinds,
        clean=found.clean,
        corrupted=found.corrupted,
        restored=_by_node(found.restored, nodes, extent),
        cells=[describe(cell) for cell in nodes.get(results.CELLS, [])],
        grid=grid_of(settings.regions or extent.side),
        depths={name: extent.depths(name.removesuffix(results.HEADS)) for name in nodes},
    )


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


def distinct(traced: Sequence[results.Traced]) -> Sequence[results.Traced]:
    """The same, if no two examples have one id. Raises `NnblipError`."""
    seen: set[str] = set()
    for one in traced:
        if one.id in seen:
            raise NnblipError(
                f"two examples have the id {one.id!r}: the same image and question twice, or ids that repeat"
            )
        seen.add(one.id)
    return traced
