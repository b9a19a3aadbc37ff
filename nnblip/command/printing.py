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
from nnblip.effects.reading import most_said, restored_names, spoken
from nnblip.errors import visible
from nnblip.sites import HEADS_NODE, KNOCK_OUTS_NODE, LISTS

if TYPE_CHECKING:
    from nnblip.sweeps.sweep import Report


#: A diagnosis has all numbers of a result in memory, some of them several times.
READ_BYTES = 2**30
#: Where there is no terminal; the tables need no more.
COLUMNS = 80
#: Columns of texts.
TEXTS = ("component", "kind", "token", "says when damaged", "question type", "cell", "edge", "knock out")
#: Rows of a table of the strongest.
LONGEST = 10
COLOURS = {"severe": "bold red", "warning": "yellow", "note": "dim"}


def trace(tree: xr.DataTree, found: Findings, image: str, shown: float) -> None:
    """Three sentences on what the noise takes and what gives it back at ν = `shown`, and what its diagnosis `found`;
    all ν; the strongest states.
    """
    console = _console()
    clean = float(tree["clean"].probability[0])
    question, answer = (visible(tree[name].item()) for name in ("question", "answer"))
    totals = _intervals(tree, "total_effect")["corrupted"].to_dataset().isel(example=0)
    maps = [name for name in restored_names(tree) if name not in LISTS]
    sites = effects.strongest(tree, LONGEST, nu=shown) if maps else []
    cells = _intervals(tree.sel(nu=shown), "indirect_effect") if maps else tree
    at = totals.sel(nu=shown)
    console.print(Text.assemble((question, "bold"), f"  ({visible(image)})\n"), soft_wrap=True)
    console.print(Text.assemble("The answer is ", (answer, "bold"), f", with probability {clean:.4f}."))
    console.print(f"Noise of ν = {shown:g} takes {_bounds(at, '')} from it.", soft_wrap=True)
    if sites:
        noising = tree.attrs.get("direction") == "noising"
        did, does, to = ("Damaging", "takes", "from it") if noising else ("Restoring", "gives", "back")
        told = f"{did} {_spoken(sites[0])} alone {does} {_bounds(_at(cells, sites[0]), '')} {to}."
        console.print(told, soft_wrap=True)
    draws = _counted(tree.sizes["draw"], "draw")
    console.print()
    _list(console, found)
    console.print(f"\nMeans of {draws} of the noise{_in_brackets(totals, 'draws')}.\n", soft_wrap=True)

    said = tree["corrupted"].coords.get("said")
    ladder = _table("ν", "clean", "corrupted", "total effect", *["says when damaged"] * (said is not None))
    for nu in tree.nu.values:
        corrupted = float(tree["corrupted"].probability.sel(nu=nu).mean())
        numbers = [f"{nu:g}", f"{clean:.4f}", f"{corrupted:.4f}", _bounds(totals.sel(nu=nu))]
        ladder.add_row(*numbers, *[] if said is None else [most_said(said.sel(nu=nu))])
    console.print(ladder)
    if sites:
        _strongest(console, tree, cells, sites, shown)
    for node, dim in LISTS.items():
        if node in tree.children:
            _listed(console, tree, node, dim, shown)


def _strongest(
    console: Console, tree: xr.DataTree, cells: xr.DataTree, sites: list[effects.SiteEffect], shown: float
) -> None:
    """The sites of maps, in 80 columns: kinds and heads have a column where there are several."""
    kinds = sorted({site.kind for site in sites})
    heads = any(site.head is not None for site in sites)
    table = _table(
        "component", *["kind"] * (len(kinds) > 1), "layer", *["head"] * heads, "token", "indirect effect", "relevance"
    )
    for site in sites:
        where = [site.component, *[site.kind] * (len(kinds) > 1), str(site.layer)]
        where += [*["" if site.head is None else str(site.head)] * heads, f"{site.token} {site.token_text}"]
        table.add_row(*where, _bounds(_at(cells, site), digits=3), f"{site.relevance:.3f}")
    given = sum(int(node["structural"].sum()) for node in effects.structural(tree).children.values())
    left_out = f" (not counting {_counted(given, 'cell')} that would restore by construction)" * (given > 0)
    console.print(f"\nStrongest states, {' and '.join(kinds)}, at ν = {shown:g}{left_out}", soft_wrap=True)
    console.print(table)


def _listed(console: Console, tree: xr.DataTree, node: str, dim: str, shown: float) -> None:
    """The ten strongest of the cells, edges or knock-outs that were asked for by name."""
    if node == KNOCK_OUTS_NODE:
        effect, found = effects.knock_out_effect(tree).probability.isel(example=0), None
    else:
        found = _intervals(tree.sel(nu=shown), "indirect_effect")[node].to_dataset().isel(example=0)
        given = effects.structural(tree)[node]["structural"].isel(example=0)
        effect = found["value"].where(~given)
    known = effect.dropna(dim)
    order = known.argsort().values[::-1][:LONGEST]
    what = spoken(dim)
    table = _table(what, f"effect of a {what}" if found is None else "indirect effect")
    for name in known[dim].values[order]:
        at = f"{float(effect.sel({dim: name})):+.3f}" if found is None else _bounds(found.sel({dim: name}), digits=3)
        table.add_row(str(name), at)
    console.print(f"\nStrongest of {known.size} {what}s{'' if found is None else f', ν = {shown:g}'}", soft_wrap=True)
    console.print(table)


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
    table = _table("question type", "examples", "ν", "total effect")
    for kind in found.question_type.values:
        here = found.sel(question_type=kind)
        for place, nu in enumerate(here.nu.values):
            of = ["", ""] if place else [str(kind) or "-", str(int(here.units.max()))]
            table.add_row(*of, f"{nu:g}", _bounds(here.sel(nu=nu)))
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


def _table(*columns: str) -> Table:
    """Where 80 columns are too few, texts go on in the next line; numbers do not, and nothing is cut off."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in TEXTS)
    return table


def _bounds(at: xr.Dataset, sign: str = "+", digits: int = 4) -> str:
    """A mean and its interval, of one of the numbers of `effects.interval`."""
    value, low, high = (float(at[name]) for name in ("value", "low", "high"))
    return f"{value:{sign}.{digits}f}" + (
        "" if np.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    )


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
    return _Plain(width=None if sys.stdout.isatty() else COLUMNS)
