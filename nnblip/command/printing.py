"""What the command prints of a result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnblip import effects
from nnblip.diagnosis import Findings, diagnose
from nnblip.effects.reading import spoken
from nnblip.errors import visible
from nnblip.sites import HEADS_NODE

if TYPE_CHECKING:
    from nnblip.sweeps.sweep import Report


#: A diagnosis has all numbers of a result in memory, some of them several times.
READ_BYTES = 2**30
COLOURS = {"severe": "bold red", "warning": "yellow", "note": "dim"}


def trace(tree: xr.DataTree, found: Findings, image: str, shown: float) -> None:
    """Three sentences on what the noise takes and what gives it back at ν = `shown`, and what its diagnosis `found`;
    all ν; the strongest states.
    """
    console = _console()
    clean = float(tree["clean"].probability[0])
    question, answer = (visible(tree[name].item()) for name in ("question", "answer"))
    totals = _intervals(tree, "total_effect")["corrupted"].to_dataset().isel(example=0)
    sites, cells = effects.strongest(tree, 10, nu=shown), _intervals(tree.sel(nu=shown), "indirect_effect")
    restored = [_bounds(_at(cells, site)) for site in sites]
    at = totals.sel(nu=shown)
    console.print(Text.assemble((question, "bold"), f"  ({visible(image)})\n"), soft_wrap=True)
    console.print(Text.assemble("The answer is ", (answer, "bold"), f", with probability {clean:.4f}."))
    console.print(f"Noise of ν = {shown:g} takes {_bounds(at, '')} from it.", soft_wrap=True)
    if sites:
        console.print(
            f"Restoring {_spoken(sites[0])} alone gives {_bounds(_at(cells, sites[0]), '')} back.", soft_wrap=True
        )
    draws = _counted(tree.sizes["draw"], "draw")
    console.print()
    _list(console, found)
    console.print(f"\nMeans of {draws} of the noise{_in_brackets(totals, 'draws')}.\n", soft_wrap=True)

    ladder = Table("ν", "clean", "corrupted", "total effect", box=None)
    for nu in tree.nu.values:
        corrupted = float(tree["corrupted"].probability.sel(nu=nu).mean())
        ladder.add_row(f"{nu:g}", f"{clean:.4f}", f"{corrupted:.4f}", _bounds(totals.sel(nu=nu)))
    console.print(ladder)

    where = ["layer", *["head"] * any(site.head is not None for site in sites), "token"]
    strongest = Table("component", "kind", *where, "restored", "indirect effect", "relevance", box=None)
    for site, bounds in zip(sites, restored, strict=True):
        token = f"{site.token} {site.token_text}"
        numbers = [f"{site.probability:.4f}", bounds, f"{site.relevance:.3f}"]
        head = ["" if site.head is None else str(site.head)] * (len(where) > 2)
        strongest.add_row(site.component, site.kind, str(site.layer), *head, token, *numbers)
    given = sum(int(node["structural"].sum()) for node in effects.structural(tree).children.values())
    left_out = f" (not counting {_counted(given, 'cell')} that would restore by construction)" * (given > 0)
    console.print(f"\nStrongest states at ν = {shown:g}{left_out}")
    console.print(strongest)


def sweep(report: Report) -> None:
    """What was done and what was not, and the total effect by type of question."""
    console = _console()
    done, failed, skipped = report.status["done"], report.status["failed"], len(report.problems)
    console.print(f"{done} examples done, {failed} failed, {skipped} rows of the data set left out")
    for what, several in (("failed", [f"{i}: {e}" for i, e in report.errors.items()]), ("left out", report.problems)):
        for one in several[:5]:
            console.print(f"  {what}: {one}", soft_wrap=True)
        if len(several) > 5:
            console.print(f"  and {len(several) - 5} more")
    console.print(f"This run: {report.ran} examples, {report.passes} passes, {report.seconds[0]:.1f} s\n")
    found = _intervals(report.tree, "total_effect", by="question_type")["corrupted"].to_dataset()
    table = Table("question type", "examples", *(f"total effect, ν = {nu:g}" for nu in found.nu.values), box=None)
    for kind in found.question_type.values:
        here = found.sel(question_type=kind)
        means = [_bounds(here.sel(nu=nu)) for nu in found.nu.values]
        table.add_row(str(kind) or "-", str(int(here.units.max())), *means)
    console.print(f"Means over examples{_in_brackets(found, 'examples')}.")
    console.print(table)
    console.print()
    findings(console, report.tree)
    wrote = "Wrote" if report.ran else "Nothing was left to do in"
    console.print(f"\n{wrote} {report.out}", soft_wrap=True)


def findings(console: Console | None, tree: xr.DataTree) -> None:
    """What `nnblip.diagnose` finds in a result, a line for each; of one that is too large to be read at once, that."""
    console = console or _console()
    if tree.nbytes > READ_BYTES:
        said = f"Not diagnosed: {tree.nbytes / 2**30:.1f} GiB of numbers; nnblip.diagnose takes a selection of examples"
        console.print(Text(said), soft_wrap=True)
        return
    _list(console, diagnose(tree))


def _list(console: Console, found: Findings) -> None:
    for finding in found:
        level, _, rest = str(finding).partition(": ")
        console.print(Text.assemble((level, COLOURS[finding.level]), f": {visible(rest)}"), soft_wrap=True)


def _intervals(tree: xr.DataTree, value: str, **settings: Any) -> xr.DataTree:
    found = effects.interval(tree, value, **settings)
    assert not isinstance(found, xr.Dataset)  # which it is of an array
    return found


def _bounds(at: xr.Dataset, sign: str = "+") -> str:
    """A mean and its interval, of one of the numbers of `effects.interval`."""
    value, low, high = (float(at[name]) for name in ("value", "low", "high"))
    return f"{value:{sign}.4f}" + ("" if np.isnan(low) else f" [{low:{sign}.4f}, {high:{sign}.4f}]")


def _in_brackets(found: xr.Dataset, units: str) -> str:
    """What the brackets are, and why some numbers have none."""
    reasons = sorted({str(reason) for reason in found.reason.values.ravel()} - {""})
    why = f" (none: {', '.join(reasons)})" if reasons else ""
    return f", in brackets 95 % intervals over {units}{why}"


def _at(cells: xr.DataTree, site: effects.SiteEffect) -> xr.Dataset:
    node = site.component if site.head is None else site.component + HEADS_NODE
    label = {"kind": site.kind, "layer": site.layer, "token": site.token}
    return cells[node].to_dataset().isel(example=0).sel(label if site.head is None else label | {"head": site.head})


def _spoken(site: effects.SiteEffect) -> str:
    head = "" if site.head is None else f" head {site.head}"
    return f"{spoken(site.component)} layer {site.layer} {site.kind}{head} at token {site.token} {site.token_text}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class _Plain(Console):
    """Shows every text as it is, in tables too: nothing in it is markup, an emoji's name or a terminal's escape."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False, "highlight": False})


def _console() -> Console:
    return _Plain(width=None if sys.stdout.isatty() else 120)
