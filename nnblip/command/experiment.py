"""`nnblip experiment`: questions that run, one by name, all of them, or the list."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nnblip.command.options import Flag, Many, Whole, say
from nnblip.errors import InputError, told

if TYPE_CHECKING:
    from nnblip.experiments import Run

#: Where they are written if nothing else is said, each in a folder of its own.
OUT = Path("nnblip-experiments")


def experiment(
    name: str | None = None,
    /,
    *,
    all: Flag = False,
    model: str | None = None,
    dataset: Annotated[tuple[str, ...], Many] = (),
    images: Annotated[tuple[str, ...], Many] = (),
    n: Whole | None = None,
    nu: Annotated[tuple[float, ...], Many] = (),
    draws: Whole | None = None,
    noise: Annotated[tuple[str, ...], Many] = (),
    seed: Whole = 0,
    device: str = "auto",
    dtype: str = "float32",
    remote: Flag = False,
    types: Annotated[tuple[str, ...], Many] = (),
    by: str | None = None,
    out: Path | None = None,
) -> None:
    """Run an experiment: datasets, figures and a summary with what is established. Without a name, list them.

    Stopped at any moment, the same command goes on.

    Parameters
    ----------
    name
        Of an experiment, or the path of its file, which ends in .py.
    all
        Run all of them on the bundled model, and write a page about them.
    model
        A hub id or folder; by default the small model that ships with nnblip.
    dataset
        One or several, as `nnblip sweep` takes them: scenes easy-vqa cocoqa:FOLDER ...
    images
        Where their pictures are: a folder or "download", or NAME=PLACE for each data set.
    n
        How many questions of each group (type or data set), each about an image of its own.
    nu
        Noise factors; most experiments take one.
    draws
        How many samples of the noise.
    noise
        multiplicative, additive, uniform, scale, mean or shuffle; most experiments take one.
    seed
        Seed of the noise, and of the choice of questions.
    device
        auto, cpu, cuda, cuda:1, ...
    dtype
        float32, bfloat16 or float16.
    remote
        On the NDIF server that NDIF_HOST names.
    types
        The types of questions that are taken; GROUP=TYPE,TYPE puts some together, "*" stands for any text.
    by
        The field by which the questions of data sets that have it are parted, such as answer_type of VQA v2; by
        default question_type.
    out
        Its folder: a new one, or that of the same command, which then goes on.
    """
    from nnblip.experiments import index, perform

    asked = dict(model=model, dataset=dataset, images=images, n=n, nu=nu, draws=draws, noise=noise, types=types, by=by)
    given = [key for key, value in asked.items() if value not in (None, ())]
    given += [key for key, value, usual in (("seed", seed, 0), ("dtype", dtype, "float32")) if value != usual]
    given += ["remote"] if remote else []
    if all:
        if name is not None or given:
            raise InputError(
                f"--all with {told(name or '--' + given[0])}: it takes every experiment as it is, on the bundled model;"
                " leave that out, or --all"
            )
        return _all(out or OUT, device)
    if name is None:
        if given:
            raise InputError(f"--{given[0]} without the name of an experiment: `nnblip experiment` lists them")
        return _list()
    found = index.load(name)
    options = found.options(
        out or OUT / found.name, seed=seed, device=device, dtype=dtype, remote=remote, **asked
    )  # refused before anything is read
    _done(perform(found, options))
    return None


def _list() -> None:
    from nnblip.experiments import index

    names = index.names()
    width = max(map(len, names), default=0)
    for one in names:
        lines = textwrap.wrap(index.load(one).question, max(20, 78 - width))
        print("\n".join(f"{one if not at else '':{width}}  {line}" for at, line in enumerate(lines)))


def _all(out: Path, device: str) -> None:
    """All of them, and the page: beside the files of a checkout, in `out` of what is installed."""
    from nnblip.experiments import index, perform
    from nnblip.experiments.page import write_page

    found = [index.load(name) for name in index.names()]
    asked = [(one, one.options(out / one.name, device=device)) for one in found]
    runs = {}
    for number, (one, options) in enumerate(asked, start=1):
        print(f"{number} of {len(asked)}: {one.name}", flush=True)
        runs[one.name] = perform(one, options)
    print(f"Wrote {write_page(runs, index.folder() if index.in_checkout() else out)}")


def _done(run: Run) -> None:
    from nnblip.experiments.run import files

    say(run.summary())
    say(f"Wrote {run.out}: {', '.join(path.name for path in files(run.out))}")
