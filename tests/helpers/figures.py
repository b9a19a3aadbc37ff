"""Figures for tests: rendered, and what is written on them."""

import io
from typing import Any

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
