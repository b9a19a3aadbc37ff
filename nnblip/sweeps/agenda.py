"""What a sweep is about to do: its examples and their ids, the room they need, and its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nnblip import results
from nnblip.blip.weights import digest
from nnblip.errors import STUMBLES, InputError, NnblipError, RemoteError
from nnblip.examples import Example
from nnblip.model import BlipVQA
from nnblip.passes.measure import check_room
from nnblip.passes.settings import Settings
from nnblip.sites import HEADS_NODE, LISTS, TEXT_COMPONENTS
from nnblip.sweeps.fingerprint import fingerprint
from nnblip.sweeps.store import LAYOUT
from nnblip.sweeps.verify import require_numbers
from nnblip.tracing.labels import example_coords, result_of
from nnblip.tracing.requests import Request
from nnblip.tracing.trace import request, trace_example


@dataclass(frozen=True)
class Agenda:
    """A sweep's examples with what is known of them before the first pass.

    Attributes:
        model: the model.
        settings: what is asked of each trace.
        examples: in their order.
        ids: what they are called in the store, all different.
        lists: of the nodes whose cells are a list, every cell that they may have, see `nnblip.results.listed`.
        widths: for each text component, the most tokens that an example may have.
        fingerprint: settings, model, code and data set, as JSON has them: what the store is made with.
    """

    model: BlipVQA
    settings: Settings
    examples: list[Example]
    ids: list[str]
    lists: dict[str, list[dict[str, Any]]]
    widths: dict[str, int]
    fingerprint: dict[str, Any]

    @classmethod
    def of(cls, model: BlipVQA, settings: Settings, examples: list[Example], name: str) -> Agenda:
        """Tokenizes every question. Raises `NnblipError` if two ids are the same, or no example has the cells."""
        ids = [_id(model, number, example) for number, example in enumerate(examples)]
        seen: dict[str, int] = {}
        for number, one in enumerate(ids):
            if (first := seen.setdefault(one, number)) != number:
                raise InputError(
                    f"examples {first} and {number} have the same id {one!r}"
                    f" ({examples[first].question!r}, {examples[number].question!r}): expected ids that differ"
                )
        lengths = [_lengths(model, settings, example) for example in examples]
        lists = _every_cell(model, settings, lengths) if settings.cells is not None else {}
        longest = (max(one.question for one in lengths), max(max(one.answers) for one in lengths))
        widths = dict(zip(TEXT_COMPONENTS, longest, strict=True))
        # the reliability is wished for by traces whose number of draws is not fixed
        said = {f.name: _plain(getattr(settings, f.name)) for f in fields(settings) if f.name != "reliability"}
        said["cells"] = (
            digest(str(cell[LISTS[name]]) for name, cells in lists.items() for cell in cells) if lists else ""
        )
        asked = (
            json.dumps([_said_id(one, e), e.answer, {**example_coords(e), "image": ""}])  # folders may move
            for one, e in zip(ids, examples, strict=True)
        )
        return cls(
            model, settings, examples, ids, lists, widths,
            {
                **{f"setting {key}": value for key, value in said.items()},
                **{f"model and code: {key}": value for key, value in fingerprint(model).items()},
                "data set: name": name,
                "data set: examples": len(examples),
                "data set: hash": digest(asked),
                "layout": LAYOUT,
            },
        )  # fmt: skip

    def trace(self, number: int, settings: Settings | None = None, tick: Callable[[], object] = int) -> xr.DataTree:
        """The tree of one example. Raises whatever goes wrong."""
        settings = settings or self.settings
        return self._tree(number, settings, trace_example(self.model, settings, self.examples[number], tick))

    def request(self, number: int) -> Request[xr.DataTree]:
        """What gives the tree of one example from the server."""
        one = request(self.model, self.settings, self.examples[number])
        return Request(one.ask, lambda answer: self._tree(number, self.settings, one.read(answer)))

    def _tree(self, number: int, settings: Settings, traced: results.Traced) -> xr.DataTree:
        tree = result_of(self.model, settings, [replace(traced, id=self.ids[number])])
        require_numbers(tree)
        return tree

    def template(self) -> tuple[xr.DataTree, dict[str, np.ndarray]]:
        """What a store needs to know: the tree of the first example that can be traced, and how long things get."""
        probe, errors = replace(self.settings, nu=self.settings.nu[:1], draws=1), list[str]()
        for number in range(len(self.examples)):
            try:
                tree = self.trace(number, probe)
                break
            except RemoteError:  # the server is no fault of the example's
                raise
            except (NnblipError, *STUMBLES) as error:  # it is traced again in its turn, and recorded then
                errors.append(f"example {number}: {error}")
        else:
            raise NnblipError(f"none of the {len(errors)} examples can be traced; {errors[0]}")
        restored = [node["probability"].size for name, node in tree.children.items() if name not in results.DIMS]
        check_room(self.settings, sum(restored))
        told = dict.fromkeys(name for example in self.examples for name in example_coords(example))
        for name in told:
            if name not in tree.coords:
                tree.coords[name] = ("example", [""])
        fixed = {
            "example": np.array(self.ids, object),
            "nu": np.asarray(self.settings.nu, float),
            "draw": np.arange(self.settings.most_draws),
        }
        for name, node in tree.children.items():
            component = name.removesuffix(HEADS_NODE)
            if "token" in node.dims and component in self.widths:
                fixed[f"{name}/token"] = np.arange(self.widths[component])
            if name in LISTS:
                coords = results.list_coords(name, self.lists[name])
                fixed |= {f"{name}/{key}": values for key, (_, values) in coords.items()}
        return tree, fixed


def _id(model: BlipVQA, number: int, example: Example) -> str:
    if example.id:
        return str(example.id)
    try:
        return model.encode(example.image, example.question).key[:12]
    except (NnblipError, *STUMBLES):  # it fails in its turn
        return f"unreadable-{number}"


def _said_id(found: str, example: Example) -> str:
    """For the fingerprint: what a file is called after may change with the file, when an unreadable one is replaced."""
    return str(example.id or "") or ("" if isinstance(example.image, str | Path) else found)


class Lengths(NamedTuple):
    """How many tokens a question has, how many its answer may have, and the roles of the question's."""

    question: int
    answers: tuple[int, ...]
    roles: tuple[str, ...]


def _lengths(model: BlipVQA, settings: Settings, example: Example) -> Lengths:
    tokenizer, text = model.processor.tokenizer, model.config.text_config
    try:
        ids = tokenizer(example.question, truncation=False, verbose=False).input_ids
        question = min(len(ids), text.max_position_embeddings)
        roles = settings.roles(tuple(tokenizer.convert_ids_to_tokens(ids)))
        answers = None if example.answer is None else (len(model.encode_answer(example.answer)),)
    except (NnblipError, *STUMBLES):  # it fails in its turn
        return Lengths(1, (1,), ())
    return Lengths(question, answers or tuple(range(1, model.longest_answer + 1)), roles)


def _every_cell(model: BlipVQA, settings: Settings, lengths: Iterable[Lengths]) -> dict[str, list[dict[str, Any]]]:
    """All cells that may occur. Short answers come first, so that what no answer is long enough for is at the end."""
    lengths = list(lengths)
    each = dict.fromkeys((one.question, answer, one.roles) for one in lengths for answer in one.answers)
    if any(len(one.answers) > 1 for one in lengths):
        each = dict.fromkeys(sorted(each, key=lambda one: one[1]))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    refusal: NnblipError | None = None
    for question, answer, roles in each:
        extent = replace(model.extent(question, answer, settings.noise_at), roles=roles)
        try:
            nodes = settings.nodes(extent)
        except NnblipError as error:  # an example of this length fails in its turn
            refusal = refusal or error
            continue
        for name in LISTS.keys() & nodes.keys():
            for cell in nodes[name]:
                said = results.listed(cell, extent.layers)
                found.setdefault(name, {}).setdefault(said[LISTS[name]], said)
    if not found and refusal is not None:
        raise refusal
    return {name: list(found[name].values()) for name in LISTS if name in found}


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if type(value).__repr__ is object.__repr__:
        return f"{type(value).__module__}.{type(value).__qualname__}({sorted(vars(value).items())!r})"
    return repr(value)
