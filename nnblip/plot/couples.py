"""Pairs of states: do two bring back more, or less, than each alone?"""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnblip import effects
from nnblip.effects import reading
from nnblip.effects.ranking import ROUNDING, WHOLE
from nnblip.errors import one_of
from nnblip.plot import words
from nnblip.plot.around import UNDEFINED
from nnblip.plot.canvas import SMALL, inches, size_of
from nnblip.plot.cells import part_of
from nnblip.plot.drawing import Told, draw_map, marks_of
from nnblip.plot.grid import Grid
from nnblip.results import VARIABLES
from nnblip.sites import CELLS_NODE, COMPONENTS

_Site = tuple[str, str, int, int, int]


def pairs(
    tree: xr.DataTree,
    *,
    nu: float | None = None,
    example: str | None = None,
    variable: str = VARIABLES[0],
    level: float = 0.95,
    limit: float | None = None,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Interactions of pairs of states: the effect of both together minus the sum of each alone.

    Red pairs need each other; of blue ones either does what the other would. The diagonal has the effect of each state
    alone, as a number. Pairs whose interval includes 0 are hatched. Framed are two states of the answer decoder of
    which the later replaces the earlier, so that the interaction is minus the earlier one's effect by construction.

    Args:
        tree: a result of `causal_trace` with `cells=nnblip.sites.pairs(...)`.
        nu, example, variable, level, limit, title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: as `heatmap`, or if the result has no pairs whose states were traced alone too.
    """
    one_of(variable, VARIABLES, "variable")
    tree = words.chosen(tree, nu, example)
    both = effects.interaction(tree)
    texts = {name: words.texts_of(tree, name) for name in COMPONENTS}
    alone = effects.indirect_effect(part_of(tree, CELLS_NODE))[CELLS_NODE].to_dataset()
    single = {sites[0]: place for place, sites in enumerate(reading.sites_of(alone)) if len(sites) == 1}
    couples = reading.sites_of(both)
    states = [site for site in single if any(site in couple for couple in couples)]
    states.sort(key=lambda site: (COMPONENTS.index(site[0]), site[2], site[3], site[1], site[4]))
    found = _interval(both[variable], level, variable)
    own = _interval(alone[variable], level, variable)
    count = len(states)
    numbers = np.full((count, count), np.nan)
    hatched, framed = np.zeros(numbers.shape, bool), np.zeros(numbers.shape, bool)
    for place, couple in enumerate(couples):
        first, second = sorted(states.index(site) for site in couple)
        numbers[second, first] = found["value"].values[place]
        hatched[second, first] = found["low"].values[place] <= 0 <= found["high"].values[place]
        framed[second, first] = _replaced(couple, both[variable].isel(cell=place), alone, single, variable)
    one = len({site[0] for site in states}) == 1
    labels = [_named(site, texts[site[0]], one) for site in states]
    grid = Grid(numbers, labels, labels, "", "", hatched=hatched, framed=framed)
    examples = tree.sizes.get("example")
    over, units = str(found.attrs["over"]), found["units"].values
    notes = sorted({f"no interval: {why}" for why in found["reason"].values.tolist() if str(why).startswith("too few")})
    if over == "examples" and examples and units.min() < examples:
        notes.append(f"some pairs of fewer examples, at least {units.min()}")
    target = words.target_of(tree, alone, variable)
    which = "" if one else ", Q: question encoder, A: answer decoder"
    notes.append(f"diagonal: effect of one state alone; layer.token{which}")
    caption = [
        f"Interaction of pairs of states on {target}: the effect of both together minus the sum of each alone.",
        "On the diagonal the indirect effect of each state alone, as a number.",
        *words.run_sentences(tree, alone, examples, "Each state alone, and each pair together,"),
        f"Hatched: the {100 * level:g} % interval over the {over} includes 0." if hatched.any() else "",
        "Framed: the later state replaces the earlier, so that the interaction is minus the effect of the earlier by"
        " construction." if framed.any() else "",
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
    ]  # fmt: skip
    told = Told(f"interaction on {target}", caption, words.provenance(tree), words.severe(tree, [CELLS_NODE]),
                notes=notes, legend=_signs(grid, over, level))  # fmt: skip
    of = "" if examples else words.average_of(alone)
    done = ", ".join(one for one in (f"pairs {words.done_to(tree)}", words.setting_of(tree), of) if one)
    lines = [title] if title is not None else [words.headline_of(tree, alone, examples), done]
    figure = draw_map(grid, told, lines, limit=limit, width=width, ax=ax)
    axes = ax or figure.axes[0]
    _alone(axes, [float(own["value"].values[single[site]]) for site in states])
    return figure


def _signs(grid: Grid, over: str, level: float) -> list[tuple[str, str]]:
    """What marks mean here: no pair is grey, and what is framed restores nothing."""
    signs = dict(marks_of(grid, over, level))
    return [(sign, "by construction" if sign == "framed" else said) for sign, said in signs.items() if sign != "grey"]


def has_pairs(tree: xr.DataTree) -> bool:
    """Whether some pair of `/cells` has both of its states traced alone."""
    sites = reading.sites_of(tree[CELLS_NODE].to_dataset())
    alone = {cell[0] for cell in sites if len(cell) == 1}
    return any(len(cell) == 2 and alone >= set(cell) for cell in sites)


def _interval(values: xr.DataArray, level: float, variable: str) -> xr.Dataset:
    """Mean and interval of each cell, of an array that may lie in [−1, 1] without being of probabilities."""
    wide = (-2.0, 2.0) if variable == VARIABLES[0] else (-np.inf, np.inf)
    found = cast(xr.Dataset, effects.interval(values, level=level, support=wide))
    return found.squeeze("example", drop=True) if "example" in found.dims else found


def _replaced(
    couple: list[_Site], interaction: xr.DataArray, alone: xr.Dataset, single: dict[_Site, int], variable: str
) -> bool:
    """Whether the later of two states of the answer decoder makes the earlier one nothing, in every run."""
    earlier, later = sorted(couple, key=lambda site: site[2])
    if {earlier[0], later[0]} != {"answer_decoder"} or later[1] not in WHOLE or earlier[3] != later[3]:
        return False
    left = interaction + alone[variable].isel(cell=single[earlier]).drop_vars(["cell"], errors="ignore")
    return bool((abs(left) < ROUNDING).where(left.notnull(), True).all())


def _named(site: _Site, texts: dict[int, str], one: bool) -> str:
    component, _, layer, token, head = site
    letter = "" if one else f"{component[0].upper()} "
    return f"{letter}{layer}.{token}{f' h{head}' if head >= 0 else ''} {texts.get(token, '')}".strip()


def _alone(axes: Axes, effects_of: list[float]) -> None:
    """Numbers on a grey diagonal; the other half is empty."""
    axes.set_facecolor("white")
    wide = size_of(axes)[0] / len(effects_of)
    zero = inches("−0.55", SMALL) < wide  # else ".55", where that fits
    for place, effect in enumerate(effects_of):
        axes.add_patch(Rectangle((place, place), 1, 1, facecolor=UNDEFINED, edgecolor="white", linewidth=0.4))
        said = f"{effect:z.2f}".replace("-", "−")
        said = said if zero else said.replace("0.", ".", 1) if abs(effect) < 0.995 else f"{effect:.1f}"
        if np.isfinite(effect) and inches(said, SMALL) < wide + 0.03:
            axes.text(place + 0.5, place + 0.5, said, ha="center", va="center", fontsize=SMALL, parse_math=False)
