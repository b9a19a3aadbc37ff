"""Data sets that are asked for: where their pictures are, how their questions are parted, and what they lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from nnblip.datasets.records import Dataset
from nnblip.datasets.specs import SPECS, open_dataset
from nnblip.errors import InputError, SettingError, one_of, told
from nnblip.examples import Example
from nnblip.experiments.options import Options

#: Types of one data set beyond which tables and figures say nothing any more, and what they are parted by instead.
MOST_TYPES, COARSER = 16, "answer_type"
#: What a scene's data set calls the box of what is asked for.
BOX = "box"


@dataclass
class Source:
    """One data set: its questions, each once of an image.

    Attributes:
        name: such as "cocoqa".
        dataset: what was opened; `problems` are rows that cannot be used.
        examples: its questions, in their order.
        by: the field by which they are parted.
    """

    name: str
    dataset: Dataset
    examples: list[Example]
    by: str = "question_type"

    @property
    def fields(self) -> set[str]:
        """What its questions could be parted by."""
        return {"question_type"}.union(*(e.extra for e in self.examples))

    def type_of(self, example: Example) -> str:
        """Its type; "" if it has none."""
        found = example.question_type if self.by == "question_type" else example.extra.get(self.by)
        return "" if found is None else str(found)


def image_of(example: Example) -> str:
    """What tells whether two questions are about the same image."""
    found = example.extra.get("image_id", example.image)
    return str(found) if isinstance(found, str | int) else str(getattr(found, "filename", None) or id(found))


def opened(options: Options, needs: Iterable[str]) -> list[Source]:
    """The data sets, each read once.

    Raises:
        InputError: if one lacks what is needed, or cannot be opened.
        SettingError: for places of pictures, or types, that are not there.
    """
    names = [spec.partition(":")[0] for spec in options.dataset]
    for name in names:
        one_of(name, SPECS, "data set", InputError)
    if len(set(names)) < len(names):
        raise SettingError(f"dataset {' '.join(options.dataset)}: expected one of each kind; run them one by one")
    places = _places(options.images, names, options.dataset)
    found = []
    for name, spec in zip(names, options.dataset, strict=True):
        dataset = open_dataset(spec, images=places.get(name)).distinct()
        found.append(Source(name, dataset, list(dataset)))
    if options.by:  # of some data sets; those without it are parted by type
        one_of(options.by, sorted(set().union(*(source.fields for source in found))), "the field by which to part")
    for source in found:
        _part(source, options)
        _has(source, set(needs) | ({"types"} if options.types or options.by else set()))
    known = {source.type_of(e) for source in found for e in source.examples} - {""}
    for group, types in options.groups.items():
        for pattern in types:
            if not any(fnmatchcase(one, pattern) for one in known):
                which = pattern if group == pattern else f"{pattern} of {group}"
                one_of(which, sorted(known), "type")
    return found


class Part(NamedTuple):
    """The questions of one group: a type of a data set, or all of one; in the data set's order.

    Types of different data sets are told apart: their questions are worded and answered differently.
    """

    name: str
    source: str
    examples: list[Example]


def parts_of(sources: list[Source], options: Options, by_type: bool) -> list[Part]:
    """The questions of each type of each data set, or of each data set; of the types that are asked for."""
    found: dict[str, Part] = {}
    wanted = options.groups
    for source in sources:
        for example in source.examples:
            kind = source.type_of(example)
            if wanted:
                names = [name for name, types in wanted.items() if any(fnmatchcase(kind, one) for one in types)]
                if not names:
                    continue
                kind = names[0]
            kind = kind or "no type"
            name = source.name if not by_type else f"{kind} ({source.name})" if len(sources) > 1 else kind
            found.setdefault(name, Part(name, source.name, [])).examples.append(example)
    return list(found.values())


def _places(images: tuple[str, ...], names: list[str], specs: tuple[str, ...]) -> dict[str, str]:
    """Where the pictures of each data set are; those that bring their own are not in it."""
    asking = [name for name in names if SPECS[name]]
    found: dict[str, str] = {}
    for given in images:
        name, equals, place = given.partition("=")
        if not equals:
            if len(images) > 1:
                raise SettingError(
                    f"images {told(given)}: of several, expected NAME=PLACE for each, such as {names[0]}=…"
                )
            if not asking:
                raise SettingError(f"images {told(given)}: {' and '.join(specs)} bring their own")
            return dict.fromkeys(asking, given)
        one_of(name, asking, "images of the data set")
        found[name] = place
    return found


def _part(source: Source, options: Options) -> None:
    """By what its questions are parted: what is asked for, else their type, or a coarser field where there are many."""
    if options.by:
        source.by = options.by if options.by in source.fields else source.by
        return
    if options.types:
        return
    many = len({source.type_of(e) for e in source.examples})
    if many > MOST_TYPES:
        if not all(COARSER in e.extra for e in source.examples):
            raise InputError(
                f"{source.name} has {many} types of questions, more than {MOST_TYPES}: name some with --types, put"
                " some together (GROUP=TYPE,TYPE), or part them --by another field"
            )
        source.by = COARSER


def _has(source: Source, needs: set[str]) -> None:
    """Raises `InputError` for what it lacks."""
    if not source.examples:
        raise InputError(f"{source.name} has no questions that can be read")
    if "types" in needs and not any(source.type_of(e) for e in source.examples):
        raise InputError(
            f"{source.name} has no types of questions, which are compared here: give the column of the type, or part"
            " its questions --by another field"
        )
    if "images" in needs and len(images := {image_of(e) for e in source.examples}) < 2:
        raise InputError(
            f"all {len(source.examples)} questions of {source.name} are about one image, {told(images.pop())}: expected"
            " many, since questions about one image are not independent"
        )
    if "boxes" in needs and not any(BOX in e.extra for e in source.examples):
        raise InputError(
            f"{source.name} does not say where the objects are ({BOX} in its extra fields), which is compared here:"
            " take scenes, or a data set with boxes"
        )
