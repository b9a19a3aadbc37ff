"""The command: `nnblip trace`, `answer`, `sweep`, `plot`, `report`, `check`, `doctor`, `jobs`, `serve`.


A file for each command that is more than a few lines; what they share is in options.py. Nothing here loads what takes
its time before a command runs, so that help and refusals are quick.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from nnblip.command.experiment import experiment
from nnblip.command.jobs import jobs
from nnblip.command.options import MODEL, Asked, Model, Whole, say
from nnblip.command.plot import plot
from nnblip.command.report import report
from nnblip.command.sweep import sweep
from nnblip.command.trace import trace
from nnblip.errors import NnblipError, NnblipWarning, one_line

__all__ = ["MODEL", "Asked", "Model", "app", "main", "sweep", "trace"]

app = App(
    name="nnblip",
    help="Finds out where inside BLIP the answer to a visual question comes from.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says what it stopped at
)
app.command(trace)


@app.command
def answer(
    image: Path,
    question: str,
    /,
    *,
    model: Model = MODEL,
) -> None:
    """Print what the model answers, and how probable it finds that.

    Parameters
    ----------
    image
        A picture.
    question
        A question about it.
    """
    found = model.load().answer(image, question)
    say(f"{found.text}  {found.probability:.4f}")


app.command(sweep)
app.command(plot)
app.command(report)


@app.command
def check(path: Path, /) -> int:
    """Read all of a stored result and say what is damaged; exit code 1 if anything is. Changes nothing.

    Of a result that is whole, say what speaks against its numbers (`nnblip.diagnose`).

    Parameters
    ----------
    path
        A result that `trace` or `sweep` wrote, such as results.zarr. What is damaged in a sweep's
        store, the same `nnblip sweep` does again.
    """
    from nnblip.sweeps.verify import check_stored

    if not check_stored(path, say):
        return 1
    from nnblip.command import printing
    from nnblip.results import open_result

    tree = open_result(path)
    if "reading" not in tree.attrs:  # in which nothing was damaged
        printing.findings(None, tree)
    return 0


@app.command
def doctor() -> int:
    """Check this installation: versions, device, the small model, and its numbers against plain hooks."""
    from nnblip.command.doctor import examine

    return 0 if examine(say) else 1


app.command(experiment)
app.command(jobs)


@app.command
def serve(model: str | None = None, /, *, port: Whole = 8001, dtype: str = "float32") -> int:
    """Serve a model on this machine with a real NDIF (pip install 'nnblip[serve]', Python 3.12 or newer).

    Parameters
    ----------
    model
        A hub id or folder; by default the small model that ships with nnblip.
    port
        Of 127.0.0.1, the only address at which it listens.
    dtype
        float32, bfloat16 or float16.
    """
    from nnblip.remote.server.command import serve as run

    return run(model, port, dtype)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one line on stderr and exit code 2."""
    warnings.showwarning = _one_line_warning  # type: ignore[assignment]
    try:
        code = app(arguments, exit_on_error=False, print_error=False) or 0
        sys.stdout.flush()
        return code
    except (NnblipError, CycloptsError) as error:
        print(f"nnblip: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"nnblip: {one_line(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what reads the output, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be said at exit
        return 0


def _one_line_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, NnblipWarning):
        print(f"nnblip: warning: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
