"""The examples that a trace is asked about: one after the other, or on a server a few requests in flight.

Threads wait for the server, and do nothing else. A request is made, and its answer read, in
the thread that asks: what reads questions (tokenizers), counts passes and writes stores need
not be safe in several threads.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from nnblip.errors import STUMBLES, NnblipError, NnblipWarning, RemoteError, SettingError, told
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA
from nnblip.passes.settings import IN_FLIGHT, Settings
from nnblip.remote.turns import TURN
from nnblip.results import coordinate_names
from nnblip.tracing.labels import extras

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Request(Generic[Result]):
    """What is asked of a model, here or on a server.

    Attributes:
        ask: gets the answer; of a server it may run in any thread, and gives its turn away (`TURN`) while it waits.
        read: makes the result of it, in the thread that asked.
    """

    ask: Callable[[], Any]
    read: Callable[[Any], Result]

    def __call__(self) -> Result:
        return self.read(self.ask())


def one_by_one(
    keys: Iterable[Key], begin: Callable[[Key], Callable[[], Result]], go_on: Callable[[], bool] = lambda: True
) -> Iterator[tuple[Key, Callable[[], Result]]]:
    """What `concurrently` is where the model is here: in order, each begun when its result is asked for."""
    for key in keys:
        if not go_on():
            return
        yield key, partial(_now, begin, key)


def concurrently(
    keys: Iterable[Key],
    begin: Callable[[Key], Request[Result]],
    most: int = IN_FLIGHT,
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Key, Callable[[], Result]]]:
    """Each key with a function that gives its result or raises what went wrong, in the order of the answers.

    Of answers that are there together, faults of the server come last. Who stops asking
    leaves the requests in flight to themselves: their threads do not keep a process alive.

    Args:
        keys: whose requests to send, in this order.
        begin: makes a key's request.
        most: how many may be in flight.
        go_on: no request is sent any more once it is false; those in flight are waited for.
    """
    waiting, flying = deque(keys), dict[Future[Any], tuple[Key, Request[Result]]]()
    while flying or (waiting and go_on()):
        while waiting and len(flying) < most and go_on():
            key = waiting.popleft()
            try:
                request = begin(key)
            except (NnblipError, *STUMBLES) as error:  # an unreadable image, ...: told of in its turn
                yield key, partial(_raise, error)
            else:
                flying[_in_thread(request.ask)] = key, request
        done = wait(flying, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda one: isinstance(one.exception(), RemoteError)):
            key, request = flying.pop(future)
            yield key, partial(_result, request, future)


def _in_thread(call: Callable[[], Any]) -> Future[Any]:
    """As an executor, whose threads would be waited for at the end of the process, however long the server takes."""
    future: Future[Any] = Future()
    threading.Thread(target=_in_turn, args=([(call, future)],), daemon=True).start()
    return future


def _in_turn(asked: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
    """Answer, and in the same turn let go of what nobody else may hold any more: tensors are freed then."""
    with TURN.taken():
        _answer(*asked.pop())


def _answer(call: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the answer is read
        future.set_exception(error)


def _now(begin: Callable[[Key], Callable[[], Result]], key: Key) -> Result:
    return begin(key)()


def _result(request: Request[Result], future: Future[Any]) -> Result:
    return request.read(future.result())


def _raise(error: Exception) -> Any:
    raise error


# --- examples --------------------------------------------------------------------------


def sending(model: BlipVQA, errand: str, *args: Any, timeout: float | None = None) -> Callable[[], Any]:
    """A call that has a server do an errand, see `nnblip.remote.client.ask`."""
    from nnblip.remote.client import ask

    return partial(ask, model, errand, *args, timeout=timeout)


def each(
    examples: Iterable[ExampleLike] | Example,
    settings: Settings,
    begin: Callable[[Example, Callable[[], object]], Request[Result]],
    progress: bool | None,
    far: bool,
) -> list[Result]:
    """The result of every example, behind a progress bar; an error names the example.

    Here they are traced one after the other; on a server (`far`) a few requests are in flight.
    """
    given, passes = several(examples), settings.most_draws * len(settings.nu)
    found: dict[int, Result] = {}
    with tqdm(total=len(given) * passes, unit="pass", disable=None if progress is None else not progress) as bar:
        for number, result in (concurrently if far else one_by_one)(
            range(len(given)), lambda number: begin(given[number], bar.update)
        ):
            try:
                found[number] = result()
            except NnblipError as error:
                raise type(error)(f"example {number}: {error}") from error
            bar.update(passes * far)
    return [found[number] for number in range(len(given))]


def several(examples: Iterable[ExampleLike] | Example) -> list[Example]:
    """The examples as a list, their extra fields called as the coordinates that they become.

    Raises:
        NnblipError: if there is none, or for one that is none, with its number.
    """
    if isinstance(examples, Example):
        examples = [examples]
    if isinstance(examples, tuple) and len(examples) in (2, 3) and isinstance(examples[1], str):
        raise SettingError("examples is a single (image, question): put it in a list, [(image, question)]")
    try:
        given = list(examples)
    except TypeError:
        given = []
    if not given and isinstance(name := getattr(examples, "name", None), str):
        raise SettingError(f"data set {told(name, 200)}: it has no examples that can be used")
    if not given or isinstance(examples, str | dict):
        raise SettingError(f"examples {told(examples)}: expected at least one (image, question)")
    found = []
    for number, one in enumerate(given):
        try:
            found.append(Example.of(one))
        except NnblipError as error:
            raise type(error)(f"example {number}: {error}") from error
    return _named(found)


def _named(examples: list[Example]) -> list[Example]:
    names = coordinate_names(name for example in examples for name in extras(example))
    other = {given: name for given, name in names.items() if given != name}
    if not other:
        return examples
    said = ", ".join(f"{told(given, 60)} -> {name!r}" for given, name in list(other.items())[:10])
    warnings.warn(
        f"fields of the data set that have other names in the result, where theirs cannot be: {said}"
        + (f" and {len(other) - 10} more" if len(other) > 10 else ""),
        NnblipWarning,
        stacklevel=4,
    )
    return [replace(one, extra={names.get(name, name): value for name, value in one.extra.items()}) for one in examples]
