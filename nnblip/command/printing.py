"""What the command prints of a result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnblip import effects
from nnblip.diagnosis import diagnose
from nnblip.effects.reading import spoken
from nnblip.errors import visible

if TYPE_CHECKING:
    import xarray as xr

    from nnblip.sweeps.sweep import Report


#: A diagnosis has all numbers of a result in memory, some of them several times.
READ_BYTES = 2**30
COLOURS = {"severe": "bold red", "warning": "yellow", "note": "dim"}


def trace(tree: xr.DataTree, image: str, shown: float) -> None:
    """The answer, what each ν does to it, and the strongest sites at ν = `shown`."""
    console = _console()
    clean = float(tree["clean"].probability[0])
    question, answer = (visible(tree[name].item()) for name in ("question", "answer"))
    console.print(Text.assemble((question, "bold"), f"  ({visible(image)})"), soft_wrap=True)
    console.print(Text.assemble("Answer: ", (answer, "bold"), f", probability {clean:.4f} clean\n"))

    gamma = effects.gamma(tree).mean("example").isel(kind=0)
    names = [str(name) for name in gamma if str(name) != "image_encoder" and gamma[name].notnull().any()]
    means = [f"Γ {spoken(name)}" for name in names]
    ladder = Table("ν", "corrupted", "total effect", "best restored", *means, box=None)
    for nu in tree.nu.values:
        corrupted = float(tree["corrupted"].probability.sel(nu=nu).mean())
        best = effects.strongest(tree, 1, nu=nu)[0]
        shares = [f"{float(gamma[name].sel(nu=nu)):.3f}" for name in names]
        ladder.add_row(f"{nu:g}", f"{corrupted:.4f}", f"{clean - corrupted:+.4f}", f"{best.probability:.4f}", *shares)
    console.print(ladder)

    sites = effects.strongest(tree, 10, nu=shown)
    where = ["layer", *["head"] * any(site.head is not None for site in sites), "token"]
    strongest = Table("component", "kind", *where, "restored", "indirect effect", "relevance", box=None)
    for site in sites:
        token = f"{site.token} {site.token_text}"
        numbers = [f"{site.probability:.4f}", f"{site.indirect_effect:+.4f}", f"{site.relevance:.3f}"]
        head = ["" if site.head is None else str(site.head)] * (len(where) > 2)
        strongest.add_row(site.component, site.kind, str(site.layer), *head, token, *numbers)
    console.print(f"\nStrongest sites at ν = {shown:g}, mean of {tree.sizes['draw']} draws")
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
    effect = effects.total_effect(report.tree)["corrupted"].probability.mean("draw")
    types = report.tree.coords["question_type"].astype(object)
    table = Table("question type", "examples", *(f"total effect, ν = {nu:g}" for nu in effect.nu.values), box=None)
    for kind in dict.fromkeys(types.values.tolist()):
        of_kind = effect.isel(example=(types == kind).values)
        means = [f"{float(of_kind.sel(nu=nu).mean()):+.4f}" for nu in effect.nu.values]
        table.add_row(kind or "-", str(of_kind.sizes["example"]), *means)
    console.print(table)
    wrote = "Wrote" if report.ran else "Nothing was left to do in"
    console.print(f"\n{wrote} {report.out}", soft_wrap=True)


def findings(console: Console | None, tree: xr.DataTree) -> None:
    """What `nnblip.diagnose` finds in a result, a line for each; of one that is too large to be read at once, that."""
    console = console or _console()
    if tree.nbytes > READ_BYTES:
        said = f"Not diagnosed: {tree.nbytes / 2**30:.1f} GiB of numbers; nnblip.diagnose takes a selection of examples"
        console.print(Text(said), soft_wrap=True)
        return
    for finding in diagnose(tree):
        level, _, rest = str(finding).partition(": ")
        console.print(Text.assemble((level, COLOURS[finding.level]), f": {visible(rest)}"), soft_wrap=True)


class _Plain(Console):
    """Shows every text as it is, in tables too: nothing in it is markup, an emoji's name or a terminal's escape."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False, "highlight": False})


def _console() -> Console:
    return _Plain(width=None if sys.stdout.isatty() else 120)
