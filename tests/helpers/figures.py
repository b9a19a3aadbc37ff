"""Figures for tests: rendered, and what is written on them."""

import io
from typing import Any

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
