"""`nnblip jobs`: what a server was left alone with."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from nnblip.command.options import Flag, say
from nnblip.errors import InputError, NnblipError

#: Seconds for which a job is waited for at most: a year.
LONGEST_WAIT = 365 * 24 * 3600.0

jobs = App(name="jobs", help="Traces that a server works on or has done: list them, fetch one.")


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
