"""What a result says beside the numbers: of each example, and of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nnblip import results
from nnblip.blip.inputs import Encoded, answer_tokens
from nnblip.errors import SettingError
from nnblip.examples import Example, ImageLike
from nnblip.model import BlipVQA
from nnblip.noise import described
from nnblip.passes.measure import Measured
from nnblip.passes.reliability import Reliability, maps_of, reliability
from nnblip.passes.room import Room
from nnblip.passes.settings import Settings
from nnblip.roles import answer_roles
from nnblip.sites import HEADS_NODE, KNOCK_OUTS_NODE, LISTS, Extent, grid_of
from nnblip.tracing import provenance


def result_of(
    model: BlipVQA, settings: Settings, traced: Sequence[results.Traced], attrs: Mapping[str, Any] | None = None
) -> xr.DataTree:
    """The result of these examples, with the attributes of a trace or others.

    Raises:
        SettingError: if two examples have one id.
    """
    require_different(one.id for one in traced)
    attrs = attributes(model, settings) if attrs is None else attrs
    return results.build(traced, settings.nu, settings.kinds, attrs)


def require_different(ids: Iterable[str]) -> None:
    """Raise `SettingError` if two examples have one id."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise SettingError(
                f"two examples have the id {one!r}: the same image and question twice, or ids that repeat"
            )
        seen.add(one)


def attributes(model: BlipVQA, settings: Settings) -> dict[str, Any]:
    """What the root of a result says: model, code, settings."""
    return provenance.attributes(
        model, noise=described(settings.noise), seed=settings.seed, draws=settings.draws, direction=settings.direction,
        freeze=", ".join(settings.freeze), noise_at=settings.noise_at,
        knock_out="; ".join(map(str, settings.knock_out)),
        roles=repr(settings.roles), rival="" if settings.rival is None else settings.rival,
        max_rows=_rows(model, settings),
    )  # fmt: skip


def _rows(model: BlipVQA, settings: Settings) -> int | str:
    """What bounds a pass: the rows that are given, or what is chosen where the model is."""
    if settings.max_rows is not None:
        return settings.max_rows
    return "chosen by the server" if model.remote else str(Room.of(model))


def labelled(model: BlipVQA, example: Example, settings: Settings, encoded: Encoded, found: Measured) -> results.Traced:
    """The numbers of an example with all that a result says of it."""
    extent = replace(
        model.extent(len(encoded.tokens), len(found.answer_ids), settings.noise_at),
        roles=settings.roles(encoded.tokens),
        texts=encoded.tokens,
    )
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
            "question_tokens": " ".join(tokens["question_encoder"]),  # in none of them is a space
            "answer_tokens": " ".join(tokens["answer_decoder"]),
            **example_coords(example),
        },
        tokens=tokens,
        roles=kinds,
        clean=found.clean,
        corrupted=found.corrupted,
        damage=found.damage,
        restored=_by_node(found, nodes, extent),
        lists={name: [results.listed(cell, extent.layers) for cell in nodes[name]] for name in LISTS if name in nodes},
        reliability=_reliabilities(found.restored[0], nodes),
        grid=grid_of(settings.regions or extent.side),
        depths={name: extent.depths(name.removesuffix(HEADS_NODE)) for name in nodes if name not in LISTS},
    )


def _reliabilities(restored: np.ndarray, nodes: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Of each map, from (nu, draw, cell): (3, nu, kind), reliability and its bounds."""
    found: dict[str, list[list[Reliability]]] = {}
    for name, _, cells in maps_of(nodes):
        found.setdefault(name, []).append([reliability(one[:, cells]) for one in restored])
    return {name: np.array(kinds).transpose(2, 1, 0) for name, kinds in found.items() if name not in LISTS}


def _by_node(found: Measured, nodes: Mapping[str, Sequence[Any]], extent: Extent) -> dict[str, np.ndarray]:
    """The numbers (3, nu, draw, cell) parted into nodes, each with the dimensions of its map; then the knock-outs."""
    restored, drawn = found.restored, [name for name in nodes if name != KNOCK_OUTS_NODE]
    ends = np.cumsum([len(nodes[name]) for name in drawn])
    parts = dict(zip(drawn, np.split(restored, ends[:-1], axis=-1), strict=True)) if drawn else {}
    if KNOCK_OUTS_NODE in nodes:
        parts[KNOCK_OUTS_NODE] = found.cut
    for name in parts.keys() - LISTS.keys():
        heads = (extent.heads,) if name.endswith(HEADS_NODE) else ()
        component = name.removesuffix(HEADS_NODE)
        layers = len(extent.depths(component))
        # of the image encoder there are as many tokens as regions
        last = len(nodes[name]) // layers if component == "image_encoder" else extent.tokens(component)
        parts[name] = parts[name].reshape(*restored.shape[:3], -1, layers, *heads, last)
    return parts


def example_coords(example: Example) -> dict[str, str]:
    """The coordinates of an example that are known before it is traced."""
    known = {
        "question": example.question,
        "question_type": example.question_type or "",
        "image": _image_name(example.image),
        **extras(example),
    }
    # half of a surrogate pair, as in a file's name that is no UTF-8, can be stored nowhere
    return {name: str(value).encode("utf8", "backslashreplace").decode() for name, value in known.items()}


def extras(example: Example) -> dict[str, Any]:
    """Texts and numbers that the data set says of an example besides: what becomes coordinates."""
    return {name: value for name, value in example.extra.items() if isinstance(value, str | int | float)}


def _image_tokens(cells: Sequence[Any], side: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and roles of the tokens of the image encoder's map: which patches they are, by row and column."""
    texts = []
    for cell in cells:
        if cell[0].layer == cells[0][0].layer:
            rows, columns = zip(*(divmod(site.token - 1, side) for site in cell), strict=True)
            spans = (f"{min(x)}-{max(x)}" if min(x) < max(x) else f"{min(x)}" for x in (rows, columns))
            texts.append("[CLS]" if cell[0].token == 0 else "row {} column {}".format(*spans))
    return tuple(texts), tuple("[CLS]" if text == "[CLS]" else "image" for text in texts)


def _image_name(image: ImageLike) -> str:
    """The path, where there is one."""
    return str(image) if isinstance(image, str | Path) else str(getattr(image, "filename", "") or "")
