"""Figures for tests: rendered, and what is written on them."""

import io
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

WIDE = Image.linear_gradient("L").resize((90, 40))
ONE: dict[str, Any] = {"nu": 5, "example": "example-0"}


def render(figure):
    assert isinstance(figure, Figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=50)
    assert out.getvalue().startswith(b"\x89PNG")
    return figure


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def x_labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def y_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def all_inside(figure):
    """Nothing that is drawn, and so no text, reaches out of the figure."""
    FigureCanvasAgg(figure).draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    little = 0.01  # inches: what a line is wide
    assert min(box.x0, box.y0) >= -little and box.x1 <= width + little and box.y1 <= height + little, (
        f"{box.extents.round(2).tolist()} in a figure of {width:.2f} x {height:.2f} inches"
    )


def all_legible(figure):
    """No text reaches out of the figure or into another, and none is smaller than 6.5 points."""
    all_inside(figure)
    renderer = figure.canvas.get_renderer()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    small = [text.get_text() for text in shown if text.get_fontsize() < 6.5]
    assert not small, f"too small: {small}"
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    inch = figure.dpi * 0.012  # of what glyphs may touch
    for (a, one), (b, other) in combinations(boxes, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert wide <= inch or high <= inch, f"{a!r} and {b!r} overlap by {wide:.1f} x {high:.1f} pixels"


def bar_of(axes):
    """The colour bar that hangs below a map."""
    (bar,) = (one for one in axes.child_axes if one.get_label() == "colours")
    return bar


def mesh_of(axes):
    """The numbers of a map's cells, (row, column), and their scale of colours."""
    mesh = axes.collections[0]
    return mesh.get_array().filled(np.nan), mesh.norm


def marked(axes, sign):
    """The cells (row, column) that are hatched, framed or have a dot; of a frame, those that a line of it touches."""
    rows, columns = mesh_of(axes)[0].shape
    found = np.zeros((rows, columns), bool)
    for collection in axes.collections:
        if collection.get_gid() == sign == "hatched":
            for (x0, y0), (x1, y1) in collection.get_segments():
                found[int((y0 + y1) / 2), int((x0 + x1) / 2)] = True
        if collection.get_gid() == sign == "framed":
            inside = np.zeros((rows + 2, columns + 2), int)
            for (x0, y0), (x1, y1) in collection.get_segments():  # columns of the frame change inside to outside
                if x0 == x1:
                    inside[int(min(y0, y1)) + 1, int(x0) + 1] += 1
            found = inside.cumsum(1)[1:-1, 1:-1] % 2 == 1
    for line in axes.lines:
        if line.get_gid() == sign == "dots":
            found[line.get_ydata().astype(int), line.get_xdata().astype(int)] = True
    return found


def legend_of(figure):
    return " ".join(texts(figure).split())
