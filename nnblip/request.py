"""The examples that a trace is asked about: one after the other, or on a server a few in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm.auto import tqdm

from nnblip.errors import NnblipError
from nnblip.flight import Request, flights, one_by_one
from nnblip.inputs import Example
from nnblip.settings import Settings

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
