"""What figures are made of: sizes, text that is measured, and captions that travel with the file."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation

from nnblip.errors import SettingError, told
from nnblip.version import __version__

#: Widths in inches: of one column of a paper, and of both.
COLUMN, DOUBLE = 3.3, 6.9
#: Points: of titles and labels, and of what stands at ticks and in legends.
TEXT, SMALL = 8.0, 7.0
#: Inches from one line of text to the next.
LINE = 1.25 * TEXT / 72
DPI = 300
#: Drawn glyphs are a little wider than what is measured.
SLACK = 1.04

# ---- captions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """What a figure or one of its panels shows, in sentences, and by what it was made.

    Attributes:
        sentences: the first says what is shown; those that several panels share are said once.
        made: attributes of the result that was drawn, with `example` and `nu`.
    """

    sentences: tuple[str, ...]
    made: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(self.sentences)


def caption(drawn: Artist) -> str:
    """The caption of a figure of nnblip's, or of Axes that it drew into, as it can stand in a paper.

    What is shown, of how many examples and draws, at which ν and noise, what intervals, hatching and frames mean.
    Panels of one figure are lettered in the order in which they were drawn.

    Raises:
        SettingError: if nnblip drew nothing there.
    """
    return _said(_captions(drawn))


def _said(captions: Sequence[Caption]) -> str:
    if len(captions) == 1:
        return str(captions[0])
    shared = [one for one in captions[0].sentences[1:] if all(one in other.sentences for other in captions)]
    parts = []
    for letter, one in enumerate(captions):
        own = " ".join(sentence for sentence in one.sentences if sentence not in shared)
        parts.append(f"({chr(ord('a') + letter)}) {own}" if letter < 26 else own)
    return " ".join([*parts, *shared])


def _captions(drawn: Artist) -> list[Caption]:
    """The caption of this, or those of all within it that has one."""
    if not isinstance(drawn, (Axes, matplotlib.figure.FigureBase)):
        raise SettingError(f"caption of {told(drawn)}: expected a matplotlib Figure or Axes that nnblip drew into")
    own = getattr(drawn, "_nnblip_caption", None)
    if own is not None:
        return [own]
    within = drawn.findobj(lambda one: one is not drawn and hasattr(one, "_nnblip_caption"))
    if not within:
        raise SettingError("nnblip drew nothing here: expected a Figure that a function of nnblip.plot returned, or its"
                           " Axes")  # fmt: skip
    return [vars(one)["_nnblip_caption"] for one in within]


def put_caption(drawn: Artist, sentences: Iterable[str], made: Mapping[str, Any]) -> None:
    """Leave a caption with a figure or its Axes, where `caption` and `metadata` find it; it is copied with them."""
    vars(drawn)["_nnblip_caption"] = Caption(tuple(one for one in sentences if one), dict(made))


def metadata(figure: matplotlib.figure.FigureBase, format: str = "png") -> dict[str, Any]:
    """Caption and provenance for a file, as `savefig(..., metadata=)` of matplotlib takes them.

    Figures that nnblip made are saved with it; this is for figures of your own that it drew into.

    Args:
        figure: with at least one panel that nnblip drew.
        format: "png", "pdf" or "svg". Others (JPEG, EPS, ...) have no place for it: {}.

    Returns:
        PNG: Title, Description (the caption), Software and Source (the model), and `nnblip`, JSON with the caption and
        the attributes of the result. PDF has the JSON as Keywords, SVG as Source.
    """
    captions = _captions(figure)
    made = [dict(one.made) for one in captions]
    made = [one for place, one in enumerate(made) if one not in made[:place]]
    said, title = _said(captions), captions[0].sentences[0]
    packed = json.dumps({"caption": said, "nnblip": __version__, "results": made}, default=_plain)
    software = f"nnblip {__version__}, matplotlib {version('matplotlib')}"
    models = ", ".join(dict.fromkeys(str(one.get("model", "")) for one in made))
    found = {
        "png": {"Title": title, "Description": said, "Software": software, "Source": models, "nnblip": packed},
        "pdf": {"Title": title, "Subject": said, "Creator": software, "Keywords": packed},
        "svg": {"Title": title, "Description": said, "Creator": software, "Source": packed},
    }
    return found.get(format.lower(), {})


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure whose PNG, PDF and SVG files say what they show and by what it was made (see `metadata`)."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """As in matplotlib; `metadata` of the caller's stands beside, or in the place of, nnblip's."""
        format = settings.get("format") or (Path(fname).suffix[1:] if isinstance(fname, (str, Path)) else "") or "png"
        own = metadata(self, format) if self.findobj(lambda one: hasattr(one, "_nnblip_caption")) else {}
        if own or settings.get("metadata"):
            settings["metadata"] = {**own, **(settings.get("metadata") or {})}
        super().savefig(fname, **settings)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """In a notebook: sharp, and half as large again as on paper."""
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=288)
        return out.getvalue(), {"width": round(self.get_figwidth() * 144)}


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=DPI)


def width_of(width: float | None, default: float, ax: Axes | None) -> float:
    """Inches: the width that is asked for, or of the Axes that are given.

    Raises:
        SettingError: for a width that nothing fits into, or given beside Axes, which have their own.
    """
    if ax is not None:
        if not isinstance(ax, Axes):
            raise SettingError(f"ax {told(ax)}: expected Axes of matplotlib")
        if width is not None:
            raise SettingError("width is given and ax too: expected one of them; Axes are as wide as their figure makes"
                               " them")  # fmt: skip
        return size_of(ax)[0]
    if width is None:
        return default
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 2.5 <= width <= 40:
        raise SettingError(f"width {told(width)}: expected inches, 2.5 to 40 (a column is {COLUMN}, a page {DOUBLE})")
    return float(width)


def size_of(axes: Axes) -> tuple[float, float]:
    """Width and height of Axes in inches, as they are laid out now."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_position()
    if axes.get_figure() is not figure:  # of a SubFigure
        box = box.transformed(axes.get_figure().transSubfigure).transformed(figure.transFigure.inverted())  # type: ignore[union-attr]
    return float(box.width * figure.get_figwidth()), float(box.height * figure.get_figheight())


# ---- text --------------------------------------------------------------------------------------


@lru_cache(4096)
def inches(text: str, size: float = TEXT) -> float:
    """How wide a text is, its widest line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that a font lacks: drawing them says so
        widths = [
            text_to_path.get_text_width_height_descent(line, FontProperties(size=size), False)[0]
            for line in text.split("\n")
        ]
    return SLACK * max(widths) / 72


def wrapped(parts: str | Iterable[str], width: float, size: float = TEXT) -> list[str]:
    """Lines of at most so many inches, each part beginning one; a word that is too long is broken."""
    lines = []
    for part in [parts] if isinstance(parts, str) else parts:
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if inches(longer, size) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while inches(line, size) > width and len(line) > 1:
                fits = next((n for n in range(len(line) - 1, 1, -1) if inches(line[:n], size) <= width), 1)
                lines.append(line[:fits])
                line = line[fits:]
        if line:
            lines.append(line)
    return lines


def shortened(text: str, width: float, size: float = SMALL) -> str:
    """A label that fits, its end replaced by "…" where it does not."""
    if inches(text, size) <= width:
        return text
    fits = next((n for n in range(len(text) - 1, 0, -1) if inches(text[:n] + "…", size) <= width), 0)
    return text[:fits] + "…"


def from_corner(axes: Axes) -> Any:
    """Coordinates in inches from the lower left corner of Axes, wherever a layout moves them."""
    figure: Any = axes.get_figure(root=True)
    there: Any = axes.transAxes
    return figure.dpi_scale_trans + ScaledTranslation(0, 0, there)


def literal(drawn: Artist) -> None:
    """Every text that is drawn here is drawn as it is: a `$` in a question begins no formula."""
    for text in drawn.findobj(Text):
        text.set_parse_math(False)
