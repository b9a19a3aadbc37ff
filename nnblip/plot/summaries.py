"""One example on one page: the picture and what in it acts, the maps, Γ, and what the damage does to the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, visible
from nnblip.examples import ImageLike
from nnblip.plot import words
from nnblip.plot.canvas import DOUBLE, LINE, SMALL, TEXT, Figure, inches, put_caption, shortened, width_of
from nnblip.plot.cells import layout_of
from nnblip.plot.curves import LEFT, gamma
from nnblip.plot.fading import photograph, show
from nnblip.plot.grid import LEAST_ROW, ROW
from nnblip.plot.looking import attention as look
from nnblip.plot.maps import heatmap
from nnblip.plot.page import GAP, Page, sides
from nnblip.plot.pictures import picture
from nnblip.sites import TEXT_COMPONENTS

_MAPS = 3.2  # the most inches that all rows of a map take


def summary(
    tree: xr.DataTree,
    where: xr.DataTree | None = None,
    attention: xr.DataTree | None = None,
    image: ImageLike | None = None,
    *,
    nu: float | None = None,
    kind: str | None = None,
    example: str | None = None,
    value: str = words.VALUES[0],
    threshold: float = effects.THRESHOLD,
    width: float | None = None,
) -> Figure:
    """All of one traced example: the picture, where in it the answer comes from and where the model looks; the map of
    each component; Γ(ν); and a table of what the damage does to the answer.

    Args:
        tree: a result of `causal_trace`.
        where: of the same example, what `nnblip.pointing` gives; without it, the map of `image_encoder` of `tree`, if
            it has one.
        attention: of the same example, what `nnblip.attention` gives, for Grad-CAM.
        image: the picture; may be left out if the result's own coordinate `image` is the path of a file.
        nu: noise factor of the maps; by default the strongest of the result.
        kind: which state of the layers; the result's first if None.
        example: name of the example; may be left out if the result has one.
        value: of the maps, as for `heatmap`.
        threshold: smallest total effect for which relevance and Γ are defined.
        width: inches.

    Returns:
        The figure; `nnblip.plot.caption` says what its panels, which are lettered, show.

    Raises:
        NnblipError: as `heatmap`, `gamma` and `picture`, or if `where` or `attention` is of another question.
    """
    tree = reading.choose(tree, "example", example)
    wide = width_of(width, DOUBLE, None)
    nus = np.ravel(tree.coords["nu"].values).tolist()
    chosen = reading.choose(tree, "nu", max(nus) if nu is None else nu)
    clean = reading.node_of(tree, "clean")
    maps = [name for name in TEXT_COMPONENTS if name in tree.children]
    if not maps:
        raise ResultError(f"the result has no map of {' or '.join(TEXT_COMPONENTS)}: expected one for a summary.")
    kinds = [str(one) for one in np.ravel(tree[maps[0]].to_dataset()["kind"].values)]
    kind = one_of(kind or kinds[0], kinds, f"kind of {maps[0]}")
    about = {name: words.label_of(tree, clean, name) for name in ("question", "answer", "image")}
    where, attention = (_same(one, name, example, about) for one, name in ((where, "where"), (attention, "attention")))
    if where is None and "image_encoder" in tree.children:
        where = chosen
    found = photograph(about["image"] if image is None else image, given=image is not None)

    page = Page(wide)
    page.heading(visible(f"{about['question']} → {about['answer']}"), TEXT + 2, "bold")
    page.heading(_sentence(chosen, clean))
    _pictures(page, found, where, attention)
    for name, part in zip(maps, _shares(maps, page.room), strict=True):
        _map(page, chosen, name, kind, value, threshold, part)
    page.next_row()
    half = (page.room - GAP) / 2
    if len(nus) > 1:
        axes = page.axes(half - 0.1, 1.25, LEFT)
        gamma(tree, kind=kind, threshold=threshold, title=page.letter("Γ(ν), mean relevance of a component"), ax=axes)
    _table(page, tree, clean, about["answer"], half if len(nus) > 1 else page.room)
    return page.finish()


def _same(other: xr.DataTree | None, name: str, example: str | None, about: dict[str, str]) -> xr.DataTree | None:
    """A result beside the trace, at its example. Raises `ResultError` if it is of another question or answer."""
    if other is None:
        return None
    other = reading.choose(other, "example", example)
    theirs = [words.label_of(other, xr.Dataset(), label) for label in ("question", "answer")]
    if theirs != [about["question"], about["answer"]]:
        raise ResultError(
            f"{name} is of {theirs[0]!r} → {theirs[1]!r}: expected that of {about['question']!r} → {about['answer']!r}"
        )
    return other


def _sentence(tree: xr.DataTree, clean: xr.Dataset) -> str:
    total = _interval(tree, "total_effect")
    noise = visible(str(tree.attrs.get("noise", "noise")).partition("(")[0].lower())
    place = reading.spoken(str(tree.attrs.get("noise_at", "image_embeds")))
    done = f"{noise.capitalize()} noise of {words.nu_of(tree)} on {place}"
    draws = words.average_of(tree["corrupted"].to_dataset())
    return f"P(answer) {float(clean.probability):.3f} clean. {done} takes {_said(total)} of it ({draws})."


def _pictures(page: Page, found: Any, where: xr.DataTree | None, attention: xr.DataTree | None) -> None:
    """The picture, and beside it what acts in it and where the model looks."""
    side = (page.room - 2 * GAP) / 3
    wide, high = sides(found, side)
    axes = page.axes(wide, high, panel=side)
    show(axes, found)
    axes.set_title("the picture", fontsize=TEXT, loc="left", pad=5)
    if where is not None:
        axes = page.axes(wide, high, panel=side)
        layer = int(np.ravel(where["image_encoder"].to_dataset()["layer"].values)[-1])
        picture(where, found, layer=layer, ax=axes)
        title = "what the answer needs" if words.done_to(where) == "damaged" else "what brings the answer back"
        axes.set_title(page.letter(title), fontsize=TEXT, loc="left", pad=5)
    if attention is not None:
        axes = page.axes(wide, high, panel=side)
        look(attention, found, ax=axes)
        axes.set_title(page.letter("where the model looks"), fontsize=TEXT, loc="left", pad=5)
    page.next_row()


def _shares(maps: list[str], side: float) -> list[float]:
    """How wide the panel of each map is."""
    return [side] if len(maps) == 1 else [(side - GAP) * 0.58, (side - GAP) * 0.42]


def _map(page: Page, tree: xr.DataTree, component: str, kind: str, value: str, threshold: float, width: float) -> None:
    shown, labels = layout_of(reading.node_of(tree, component), component)
    left = min(max(inches(label, SMALL) for label in labels), 0.3 * width) + 0.1 + LINE
    high = min(max(ROW * len(shown), 0.3), max(_MAPS, LEAST_ROW * len(shown)))
    title = page.letter(f"{reading.spoken(component)}, {kind} {words.done_to(tree)}")
    axes = page.axes(width, high, left)
    heatmap(tree, component, kind=kind, value=value, threshold=threshold, title=title, ax=axes)


def _interval(tree: xr.DataTree, value: str) -> xr.Dataset:
    found = effects.interval(tree, value)
    assert isinstance(found, xr.DataTree)
    return found["corrupted"].to_dataset().squeeze(drop=True)


def _said(at: xr.Dataset) -> str:
    value, low, high = (float(at[name]) for name in ("value", "low", "high"))
    said = f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")
    return said.replace("-", "−")


def _rows(tree: xr.DataTree, clean: xr.Dataset, totals: xr.Dataset) -> list[list[str]]:
    """What each ν takes from the answer, and what the model says then."""
    said = tree["corrupted"].coords.get("said")
    asked = said is not None
    predicted = visible(words.label_of(tree, clean, "predicted"))
    rows = [["ν", "P(answer)", "total effect", *["says most often"] * asked]]
    rows.append(["0", f"{float(clean.probability):.3f}", "", *[predicted] * asked])
    corrupted = reading.over_draws(tree["corrupted"].to_dataset().probability)
    for nu in np.ravel(tree.coords["nu"].values):
        at_nu: list[Any] = [
            one if one is None or "nu" not in one.dims else one.sel(nu=nu) for one in (totals, corrupted, said)
        ]
        here, probability, texts = at_nu
        answers = [] if texts is None else [reading.most_said(texts)]
        rows.append([f"{nu:g}", f"{float(probability):.3f}", _said(here), *answers])
    return rows


def _columns(rows: list[list[str]]) -> list[float]:
    """Where each column begins, in inches, and where the last one ends."""
    bold = 1.12
    widths = [max(bold * inches(text, SMALL) for text in column) for column in zip(*rows, strict=True)]
    return np.cumsum([0.0, *(width + 0.12 for width in widths)]).tolist()


def _table(page: Page, tree: xr.DataTree, clean: xr.Dataset, answer: str, room: float) -> None:
    """The table, beside what stands in the row already if there is room for it."""
    totals = _interval(tree, "total_effect")
    rows = _rows(tree, clean, totals)
    starts = _columns(rows)
    if starts[-1] > room:
        page.next_row()
        room = page.room
    axes = page.axes(room, 1.7 * SMALL / 72 * len(rows))
    axes.set_axis_off()
    axes.set_title(page.letter("the answer, clean and damaged"), fontsize=TEXT, loc="left", pad=5)
    for number, row in enumerate(rows):
        y = 1 - (number + 0.6) / len(rows)
        for x, text in zip(starts, row, strict=False):
            text = shortened(text, room - x)
            axes.text(x / room, y, text, fontsize=SMALL, va="center", transform=axes.transAxes,
                      weight="bold" if number == 0 else "normal")  # fmt: skip
    axes.plot([0, min(1, starts[-1] / room)], [1 - 1.05 / len(rows)] * 2, color="0.6", linewidth=0.6,
              transform=axes.transAxes)  # fmt: skip
    reasons = sorted({str(one) for one in np.ravel(totals["reason"].values)} - {""})
    unsaid = f" No interval: {'; '.join(reasons)}." if reasons else ""
    put_caption(
        axes,
        [f"P(answer = “{visible(answer)}”) and total effect, in brackets 95 % intervals over draws.{unsaid}",
         "What the model says most often, of the draws in which it was asked." * (len(rows[0]) > 3),
         *(one for one in words.run_sentences(tree, clean, None) if not one.startswith("Each state"))],
        words.provenance(tree),
    )  # fmt: skip
