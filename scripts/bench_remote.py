"""What a remote trace costs over the same local one: `scripts/bench.py --remote`, or this file.

Starts a server of its own, so it runs in an environment with nnblip[serve].
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from nnsight.schema.config import CONFIG

import nnblip
from nnblip.remote import client
from nnblip.remote.server.command import model_key
from nnblip.remote.server.stack import Stack, free_port

#: Examples of the sweeps that are timed.
SWEPT = 12


def main(model: str | None = None, rounds: int = 7) -> None:
    stack = Stack([model_key(model)], free_port())
    began = time.perf_counter()
    stack.start()
    try:
        ready = time.perf_counter() - began
        CONFIG.API.HOST = stack.url
        _report(stack, ready, model, rounds)
    finally:
        stack.stop()


def _report(stack: Stack, ready: float, name: str | None, rounds: int) -> None:
    # an answer is given, since random weights never end theirs
    examples = [replace(nnblip.demo.examples()[0], answer="red")]
    far, here = nnblip.BlipVQA(name, remote=True), nnblip.BlipVQA(name)
    made: list[client.Backend] = []
    stock = client.Backend.__init__

    def noted(self: client.Backend, *args: Any, **options: Any) -> None:
        made.append(self)
        stock(self, *args, **options)

    client.Backend.__init__ = noted  # type: ignore[method-assign]
    print(f"from serve to ready   {ready:8.1f} s")
    print(f"memory of the stack   {stack.memory() / 2**20:8.0f} MiB (shared pages once), {len(stack.left())} processes")
    for draws in (1, 10):
        there, local = (
            _median(partial(nnblip.causal_trace, model, examples, draws=draws, progress=False), rounds)
            for model in (far, here)
        )
        over = f"{1e3 * (there - local):+6.0f} ms"
        print(f"draws {draws:2}: remote {there * 1e3:6.0f} ms, local {local * 1e3:6.0f} ms, over {over}")
        made.clear()
        nnblip.causal_trace(far, examples, draws=draws, progress=False)
        print(f"          up {made[0].sent:,} bytes, down {made[0].received:,} bytes, {len(made)} request")
    answer = _median(lambda: far.answer(examples[0].image, examples[0].question), rounds)
    print(f"an answer: remote {answer * 1e3:.0f} ms")
    for model, where in ((here, "here"), (far, "remote")):
        seconds = _median(partial(_contexts, model, examples[0]), rounds)
        print(f"clean and corrupt, {where}: {seconds * 1e3:.0f} ms")
    swept = {number: _sweep(far, number) for number in (1, 4)}
    print(f"a sweep, 4 requests in flight / one at a time: {swept[4] / swept[1]:.2f} of the seconds")


def _contexts(model: nnblip.BlipVQA, example: nnblip.Example) -> None:
    with model.clean(example.image, example.question, example.answer) as clean:
        pass
    with model.corrupt(clean, nu=5):
        pass


def _sweep(model: nnblip.BlipVQA, in_flight: int) -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        nnblip.sweep(
            model,
            [replace(one, answer="red") for one in nnblip.demo.examples()[:SWEPT]],
            f"{folder}/x.zarr",
            draws=1,
            in_flight=in_flight,
            progress=False,
        )
        return time.perf_counter() - began


def _median(run: Callable[[], object], rounds: int) -> float:
    """Seconds; the first two rounds do not count."""
    seconds = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
