"""A data set named in one text, as on the command line: "palit:color_coco_qa.csv"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnblip.datasets import fields
from nnblip.datasets.images import Images
from nnblip.datasets.readers.clevr import clevr
from nnblip.datasets.readers.cocoqa import cocoqa
from nnblip.datasets.readers.easy_vqa import easy_vqa
from nnblip.datasets.readers.gqa import gqa
from nnblip.datasets.readers.palit import palit
from nnblip.datasets.readers.scenes import generated_scenes
from nnblip.datasets.readers.table import table
from nnblip.datasets.readers.vqa2 import vqa2
from nnblip.datasets.records import Dataset
from nnblip.errors import InputError, one_of

#: Each name with what follows it.
SPECS = {
    "easy-vqa": "",
    "scenes": "",
    "cocoqa": "FOLDER",
    "palit": "FILE.csv",
    "vqa2": "QUESTIONS.json,ANNOTATIONS.json",
    "gqa": "FILE.json",
    "clevr": "FILE",
    "table": "FILE",
}


def open_dataset(spec: str, images: Images = None, strict: bool = False, allow_outside: bool = False) -> Dataset:
    """The data set that a text names: a name of `SPECS`, a colon and what the name asks for.

    Args:
        spec: such as "easy-vqa", "cocoqa:FOLDER" or "vqa2:QUESTIONS.json,ANNOTATIONS.json". "scenes:5000" are more
            questions about generated scenes than the 1,000 of "scenes".
        images: a folder, "download" to fetch each image when it is needed, or None (easy-vqa
            and scenes bring their own; a table names its images).
        strict: stop at the first broken row.
        allow_outside: of a table, take images that are not in its folder or `images`.

    Raises:
        InputError: for an unknown name, a missing part, or what the reader raises.
    """
    if not isinstance(spec, str):
        raise InputError(f"data set {spec!r:.100}: expected a text such as {_form('cocoqa')!r}")
    name, _, rest = spec.partition(":")
    one_of(name, SPECS, "data set", InputError)
    if bool(rest) != bool(SPECS[name]) and not (name == "scenes" and rest.isdigit()):
        raise InputError(f"data set {spec!r}: expected {_form(name)}")
    if name in ("easy-vqa", "scenes"):
        if images is not None:
            raise InputError(f"data set {spec!r} brings its own images: leave images= ({str(images)!r}) out")
        if name == "easy-vqa":
            return easy_vqa(strict=strict)
        found = generated_scenes(fields.number(rest, "questions about scenes")) if rest else generated_scenes()
        found.name = spec
        return found
    if name == "table":
        return table(rest, images=images, strict=strict, allow_outside=allow_outside)
    parts = rest.split(",") if name == "vqa2" else [rest]
    if name == "vqa2" and (len(parts) != 2 or not all(parts)):
        raise InputError(f"data set {spec!r}: expected {_form(name)}")
    readers: dict[str, Callable[..., Any]] = dict(cocoqa=cocoqa, palit=palit, vqa2=vqa2, gqa=gqa, clevr=clevr)
    return readers[name](*parts, images=images, strict=strict)


def _form(name: str) -> str:
    if name == "scenes":
        return "scenes, or scenes:N for N questions"
    return name + (f":{SPECS[name]}" if SPECS[name] else "")
