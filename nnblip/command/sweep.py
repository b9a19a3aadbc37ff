"""`nnblip sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nnblip.command.options import ASKED, MODEL, Asked, Flag, Many, Model, Whole, say
from nnblip.passes.settings import IN_FLIGHT, Settings


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
        clevr:FILE or table:FILE.
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
