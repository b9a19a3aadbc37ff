"""The charts of the page, as Altair writes them: their marks and axes. The page hands them the rows that are chosen.

Colours are not scales of the charts: the page colours the map, the picture and the legend by one rule, that of
`nnblip.plot`, and hands every cell its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

#: The maps of colours of `nnblip.plot`: of what can be negative, and of what cannot.
PALETTES = {"diverging": "RdBu_r", "sequential": "viridis"}
#: Okabe and Ito's colours, which people with any colour vision tell apart, and a shape each.
LINES = {"image_encoder": "#009E73", "question_encoder": "#0072B2", "answer_decoder": "#D55E00"}
_MORE = ("#CC79A7", "#E69F00")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
#: As in page.css: Vega measures texts by it.
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_HATCH = "M-1,0L0,-1M-1,1L1,-1M0,1L1,0"


def colours(name: str, count: int = 65) -> list[str]:
    return [to_hex(colour) for colour in colormaps[PALETTES[name]](np.linspace(0, 1, count))]


@cache
def script() -> str:
    """Vega with Vega-Embed, with nothing left to be fetched."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text


@cache
def specifications(nodes: tuple[str, ...], logarithmic: bool) -> dict[str, Any]:
    """Of each chart its Vega-Lite specification, without rows.

    Args:
        nodes: names of the maps, each of which has a line of Γ.
        logarithmic: whether ν has a logarithmic axis.
    """
    charts = {
        "map": _map(),
        "curve": _curve(logarithmic),
        "spread": _spread(),
        "gamma": _gamma(nodes, logarithmic),
    }
    return {name: _finished(chart) for name, chart in charts.items()}


def _finished(chart: Any) -> dict[str, Any]:
    plain = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8}
    chart = chart.configure(font=FONT, background="transparent", padding=2, aria=False).configure_view(stroke=None)
    chart = chart.configure_axis(**plain, grid=False, labelPadding=5).configure_legend(**plain, orient="top")
    found: dict[str, Any] = chart.to_dict()
    return found


def _map() -> Any:
    """Tokens by layers: what a cell is, is in its row (see `rowsOfMap` in page.js)."""
    rows = alt.NamedData("rows")
    x = alt.X("layer:O", title="layer", sort=None, axis=alt.Axis(labelAngle=0, ticks=False, domain=False))
    y = alt.Y(
        "row:O", title=None, sort=None, axis=alt.Axis(labelLimit=130, labelOverlap=True, ticks=False, domain=False)
    )
    cells = alt.Chart(rows).encode(x, y)
    filled = cells.mark_rect(cursor="pointer", stroke="#8888", strokeWidth=0.5).encode(
        fill=alt.Fill("colour:N", scale=None), tooltip="key:Q"
    )
    marked = cells.mark_point(shape=_HATCH, size=260, strokeWidth=1, cursor="pointer").encode(
        stroke=alt.Stroke("ink:N", scale=None), tooltip="key:Q"
    )
    dotted = cells.mark_point(shape="circle", size=8, filled=True, cursor="pointer").encode(
        fill=alt.Fill("ink:N", scale=None), tooltip="key:Q"
    )
    around = cells.mark_rect(fill=None, stroke="#fff", strokeWidth=3)
    framed = cells.mark_rect(fill=None, stroke="#111", strokeWidth=3, strokeDash=[5, 4])
    outline = cells.mark_rect(fill=None, stroke="#fff", strokeWidth=5)
    picked = cells.mark_rect(fill=None, stroke="#111", strokeWidth=2.5)
    return alt.layer(
        filled,
        marked.transform_filter("datum.mark === 'hatched'"),
        dotted.transform_filter("datum.mark === 'dotted'"),
        around.transform_filter("datum.structural"),
        framed.transform_filter("datum.structural"),
        outline.transform_filter("datum.picked"),
        picked.transform_filter("datum.picked"),
    ).properties(width="container", height=alt.Step(28), autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))


def _nu(logarithmic: bool) -> alt.X:
    scale = (
        alt.Scale(type="log", nice=False, padding=14) if logarithmic else alt.Scale(zero=False, nice=False, padding=14)
    )
    axis = alt.Axis(values=alt.ExprRef("nus"), labelAngle=0, labelExpr="'' + datum.value", labelOverlap=True)
    return alt.X("nu:Q", title="ν", scale=scale, axis=axis)


def _y() -> alt.Y:
    return alt.Y("value:Q", title=None, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(grid=True, tickCount=5))


def _curve(logarithmic: bool) -> Any:
    """A cell over ν, with the bounds of its interval."""
    base = alt.Chart(alt.NamedData("rows")).encode(_nu(logarithmic), _y(), tooltip="key:Q")
    known = base.transform_filter("isValid(datum.low)")
    bars = known.mark_rule(strokeWidth=2, color=LINES["question_encoder"]).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    line = base.mark_line(color=LINES["question_encoder"], strokeWidth=1.5)
    points = base.mark_point(filled=True, opacity=1, size=60, color=LINES["question_encoder"])
    here = base.transform_filter("datum.here").mark_point(size=220, strokeWidth=2, color="#D55E00")
    zero = alt.Chart(alt.NamedData("references")).mark_rule(strokeDash=[4, 3], color="#888").encode(alt.Y("value:Q"))
    names = (
        alt.Chart(alt.NamedData("references"))
        .mark_text(align="left", baseline="bottom", dx=2, dy=-2, fontSize=12)
        .encode(alt.Y("value:Q"), x=alt.value(0), text="name:N")
    )
    return (
        alt.layer(zero, names, bars, line, points, here)
        .add_params(alt.param("nus", value=[]))
        .properties(width="container", height=170)
    )


def _spread() -> Any:
    """The draws of a cell, or the examples, from first to last, beside their mean."""
    base = alt.Chart(alt.NamedData("rows"))
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(grid=True, tickCount=5))
    y = alt.Y("unit:Q", title=None, axis=None, scale=alt.Scale(zero=False, padding=8, reverse=True))
    points = base.mark_point(filled=True, opacity=0.75, size=50, color=LINES["question_encoder"], cursor="pointer")
    here = base.transform_filter("datum.here").mark_point(size=200, strokeWidth=2, color="#D55E00")
    mean = alt.Chart(alt.NamedData("references"))
    band = mean.transform_filter("isValid(datum.low)").mark_rect(opacity=0.16, color=LINES["question_encoder"])
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(strokeDash=[4, 3], color="#888").encode(x)
    return alt.layer(
        zero,
        band.encode(alt.X("low:Q"), alt.X2("high:Q")),
        mean.mark_rule(strokeWidth=2, color=LINES["question_encoder"]).encode(x),
        points.encode(x, y, tooltip="key:Q"),
        here.encode(x, y),
    ).properties(width="container", height=170)


def _gamma(nodes: tuple[str, ...], logarithmic: bool) -> Any:
    """Γ(ν) of each component with the bounds of its interval."""
    more = iter(_MORE * len(nodes))
    shown = [node.replace("_", " ") for node in nodes]
    range_ = [LINES.get(node) or next(more) for node in nodes]
    legend = alt.Legend(columns=alt.ExprRef("width < 330 ? 1 : 0"))
    colour = alt.Color("component:N", title=None, legend=legend, scale=alt.Scale(domain=shown, range=range_))
    shape = alt.Shape(
        "component:N",
        title=None,
        legend=legend,
        scale=alt.Scale(domain=shown, range=[_SHAPES[i % 5] for i in range(len(nodes))]),
    )
    base = alt.Chart(alt.NamedData("rows")).encode(_nu(logarithmic), _y(), tooltip="key:Q")
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(strokeDash=[4, 3], color="#888").encode(y="value:Q")
    return (
        alt.layer(
            zero,
            bars.encode(alt.Y("low:Q"), alt.Y2("high:Q"), colour),
            base.mark_line(strokeWidth=1.5).encode(colour),
            base.mark_point(filled=True, opacity=1, size=70).encode(colour, shape),
        )
        .add_params(alt.param("nus", value=[]))
        .properties(width="container", height=190)
    )
