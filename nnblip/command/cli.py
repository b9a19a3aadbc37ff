"""The command: `nnblip trace`, `answer`, `sweep`, `check`, `doctor`, `jobs`, `serve`. Only what a user could call."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from nnblip.command.experiment import experiment
from nnblip.errors import InputError, NnblipError, NnblipWarning, one_line, told, visible, whole
from nnblip.passes.settings import AUTO, IN_FLIGHT, Settings

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: Seconds for which a job is waited for at most: a year.
LONGEST_WAIT = 365 * 24 * 3600.0

Many = Parameter(consume_multiple=True, negative_iterable="")
Whole = Annotated[int, Parameter(converter=lambda _, tokens: _whole(tokens[0].value))]
Draws = Annotated[
    int | str, Parameter(converter=lambda _, tokens: AUTO if tokens[0].value == AUTO else _whole(tokens[0].value))
]
Flag = Annotated[bool, Parameter(negative="")]

app = App(
    name="nnblip",
    help="Finds out where inside BLIP the answer to a visual question comes from.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says what it stopped at
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model, and where it runs."""

    model: str | None = None
    "A hub id or folder; by default the small model that ships with nnblip."
    device: str = "auto"
    "auto, cpu, cuda, cuda:1, ...; with several processes, auto gives each its own."
    dtype: str = "float32"
    "float32, bfloat16 or float16."
    remote: Flag = False
    "On the NDIF server that NDIF_HOST names."

    def load(self) -> BlipVQA:
        from nnblip.model import BlipVQA
        from nnblip.sweeps import processes

        device = processes.device(self.device)
        return BlipVQA(self.model, remote=self.remote, device_map=device, dtype=self.dtype)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is restored, under which noise."""

    draws: Draws = Settings.draws
    "How many samples of the noise; auto for as many as reliable maps take (not in a sweep)."
    noise: str = Settings.noise.name
    "multiplicative, additive, uniform, scale, mean or shuffle."
    noise_at: str = Settings.noise_at
    "What the noise falls on: image_embeds, patch_embeds, pixels or question."
    kinds: Annotated[tuple[str, ...], Many] = Settings.kinds
    "Which states of a layer."
    max_rows: Whole | None = Settings.max_rows
    "At most so many rows in one pass; by default chosen."

    def settings(self, nu: tuple[float, ...], seed: int) -> Settings:
        return Settings.of(
            nu=nu, draws=self.draws, noise=self.noise, noise_at=self.noise_at, seed=seed, kinds=self.kinds,
            max_rows=self.max_rows,
        )  # fmt: skip


MODEL, ASKED = Model(), Asked()


@app.command
def trace(
    image: Path | None = None,
    question: str | None = None,
    /,
    *,
    answer: str | None = None,
    nu: Annotated[tuple[float, ...], Many] = (1.0, 3.0, 5.0, 10.0),
    regions: Whole = 4,
    seed: Whole = Settings.seed,
    out: Path = Path("nnblip-out"),
    overwrite: Flag = False,
    asked: Asked = ASKED,
    model: Model = MODEL,
) -> None:
    """Trace where the answer comes from; write the result and its pictures.

    Parameters
    ----------
    image
        A picture. Without it, a scene that ships with nnblip.
    question
        A question about it.
    answer
        The answer to trace; by default the model's own.
    nu
        Noise factors, such as --nu 1 3 5 10.
    regions
        A grid of so many by so many regions of the picture is restored too; 0 for none.
    seed
        Seed of the noise.
    out
        Folder for result.zarr and the pictures.
    overwrite
        Replace what an earlier run wrote there.
    """
    from nnblip import demo
    from nnblip.command import folder, printing
    from nnblip.diagnosis import diagnose
    from nnblip.examples import Example
    from nnblip.sites import TEXT_COMPONENTS
    from nnblip.tracing.trace import causal_trace

    if (image is None) != (question is None):
        raise InputError("give both an image and a question, or neither for a bundled scene")
    if answer is not None and question is None:
        raise InputError(f"answer {told(answer)}: give the image and the question that it answers, too")
    asked.settings(nu, seed)  # refused before a model is loaded and a folder looked at
    whole(regions, "regions", 0)
    # the image encoder has block states only: asked for other kinds alone, it has no map
    with_regions = regions > 0 and "block" in asked.kinds
    folder.check(out, folder.names(asked.kinds, with_regions), overwrite)
    example = demo.examples()[0] if question is None else Example(str(image), question, answer)
    tree = causal_trace(
        model.load(), [example], nu, asked.draws, asked.noise, seed=seed, kinds=asked.kinds,
        components=(*["image_encoder"] * with_regions, *TEXT_COMPONENTS), regions=regions if with_regions else None,
        noise_at=asked.noise_at, max_rows=asked.max_rows,
    )  # fmt: skip
    shown = 5.0 if 5.0 in tree.nu else float(tree.nu.max())
    drawn = folder.pictures(tree, example.image, asked.kinds, shown)
    found = diagnose(tree)
    printing.trace(tree, found, str(example.image), shown)
    say("Wrote " + ", ".join(map(str, folder.write(out, tree, found, drawn, overwrite))))


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


@app.command
def sweep(
    dataset: str,
    /,
    *,
    images: str | None = None,
    n: Whole | None = None,
    seed: Whole = Settings.seed,
    nu: Annotated[tuple[float, ...], Many] = Settings.nu,
    out: Path = Path("results.zarr"),
    strict: Flag = False,
    allow_outside: Flag = False,
    type: str | None = None,
    correct_only: Flag = False,
    retry_failed: Flag = False,
    in_flight: Whole = IN_FLIGHT,
    adopt: Flag = False,
    asked: Asked = ASKED,
    model: Model = MODEL,
) -> int:
    """Trace a whole data set into one store; stopped at any moment, the same command goes on.

    Several processes share the examples, on CPUs too: accelerate launch --multi_gpu --num_processes 2
    -m -- nnblip sweep ..., or torchrun --standalone --nproc-per-node 2 -m -- nnblip sweep ...

    Parameters
    ----------
    dataset
        easy-vqa, scenes, cocoqa:FOLDER, palit:FILE.csv, vqa2:QUESTIONS.json,ANNOTATIONS.json, gqa:FILE.json,
        clevr:FILE.csv or table:FILE.
    images
        Folder of its pictures, or "download" to fetch them from the data set's public addresses.
    n
        Take so many of its examples, drawn with the seed; all by default.
    seed
        Seed of the noise, and of the choice of --n.
    nu
        Noise factors, such as --nu 1 3 5 10.
    out
        The store, a name that ends in .zarr. One that is there must be of this same sweep.
    strict
        Stop at rows of the data set that cannot be used, instead of leaving them out.
    allow_outside
        Take images that a table names outside its folder and --images.
    type
        Only questions of this type.
    correct_only
        Leave out what the model answers wrongly.
    retry_failed
        Trace again what failed before.
    in_flight
        With --remote, how many requests are sent before the first is answered.
    adopt
        Go on in a store that another version of nnblip has begun, if two of its examples give the same numbers again.
    """
    from nnblip import datasets
    from nnblip.command import printing
    from nnblip.sweeps import processes
    from nnblip.sweeps.sweep import run_sweep

    settings = asked.settings(nu, seed)
    examples = datasets.open_dataset(dataset, images=images, strict=strict, allow_outside=allow_outside)
    if type is not None:
        examples = examples.where(question_type=type)
    if n is not None:
        examples = examples.sample(n, seed)
    blip = model.load()
    if correct_only:
        examples = datasets.correct(blip, examples)
        if processes.rank() == 0:
            say(examples.summary)
    report = run_sweep(blip, examples, out, settings, retry_failed=retry_failed, in_flight=in_flight, adopt=adopt)
    if processes.rank() == 0:
        printing.sweep(report)
    return 0


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

    printing.findings(None, open_result(path))
    return 0


@app.command
def doctor() -> int:
    """Check this installation: versions, device, the small model, and its numbers against plain hooks."""
    from nnblip.command.doctor import examine

    return 0 if examine(say) else 1


app.command(experiment)

jobs = App(name="jobs", help="Traces that a server works on or has done: list them, fetch one.")
app.command(jobs)


@jobs.default
def list_jobs() -> None:
    """List the jobs that were submitted on this machine, newest first."""
    from nnblip.tracing.jobs import known

    for job in known():
        try:
            status = job.status
        except NnblipError as error:
            status = str(error).partition(";")[0]
        say(f"{job.id}  {job.submitted}  {status}  {job.questions[0]!r} ({len(job.questions)} questions)")


@jobs.command
def fetch(
    id: str,
    /,
    *,
    out: Path = Path("result.zarr"),
    timeout: float = 1800.0,
    overwrite: Flag = False,
) -> None:
    """Wait for a job and write its result.

    Parameters
    ----------
    id
        As `nnblip jobs` lists it.
    out
        The result, a name that ends in .zarr.
    timeout
        Seconds to wait at most.
    overwrite
        Replace what is there.
    """
    from nnblip import results
    from nnblip.tracing.jobs import Job

    if not 0 <= timeout <= LONGEST_WAIT:
        raise InputError(f"timeout {timeout:g}: expected a number of seconds from 0 to {LONGEST_WAIT:g}")
    results.save(Job.load(id).result(timeout), out, overwrite=overwrite)
    say(f"Wrote {out}")


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


def say(text: object) -> None:
    """Print a line in which nothing can do more than be read."""
    print(visible(text))


def _whole(text: str) -> int:
    """As cyclopts reads numbers, which takes "1.5" for 2."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{told(text)}, expected a whole number") from None


def _one_line_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, NnblipWarning):
        print(f"nnblip: warning: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
