"""One file with all of it: page.html, filled with page.css, page.js, Vega, the numbers and the pictures."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr

from nnblip.diagnosis import ATTRIBUTE, Finding, diagnose
from nnblip.effects import reading
from nnblip.errors import ResultError, one_line, reason, visible
from nnblip.plot.grid import LEAST_RANGE
from nnblip.report import charts, numbers, pictures
from nnblip.report.content import DIGITS, SHARES, UNITS, Held, Marks, effects_of, held
from nnblip.results import VARIABLES
from nnblip.storage.folders import made

HERE = Path(__file__).parent
#: Characters. What draws (and examples of a mean) leave of a page beyond it is left out, and the page says so.
MOST = 14_850_000
#: Examples of one page: what can be looked at.
MOST_EXAMPLES = 1000
#: Places of one finding.
MOST_PLACES = 40
_COORDS = ("question", "answer", "predicted", "rival", "question_type", "image")


def write(tree: xr.DataTree, path: str | Path, *, images: Any = None, overwrite: bool = False) -> Path:
    """Write one HTML file in which a result can be explored, without network or server.

    It has the picture, question, answers and their probabilities of each example, maps with the interval of every
    cell, curves over ν, the draws of each cell, what `nnblip.diagnose` finds, and by what the numbers were made. All
    numbers and intervals are those of `nnblip.effects`, rounded to what is shown. Of several examples there is also
    their mean, by the role of a word. Where the draws of many examples would make the page larger than 15 MB, those of
    the log-probability and logit difference are left out, and then all, and the page says so.

    Args:
        tree: a result of `causal_trace` or `sweep` with at least one map; `/cells`, `/edges` and `/knock_outs` are not
            on the page, which says so.
        path: a name that ends in .html.
        images: pictures by the names of examples, or in their order (of one example the picture itself); if None, or
            where a name is not among them, those that the result's coordinate `image` names, where they are found.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        NnblipError: if the result has no map; if there is something at `path` already, or it cannot be written; for a
            picture that is given and cannot be read. Nothing is written then.
    """
    path = checked(path, overwrite)
    text = page(tree, images)
    try:
        with made(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=".nnblip-") as fresh:
            Path(fresh, "page.html").write_text(text, encoding="utf8")
            Path(fresh, "page.html").replace(path)
    except OSError as error:
        raise ResultError(f"{str(path)!r} cannot be written: {reason(error)}") from error
    return path


def checked(path: str | Path, overwrite: bool) -> Path:
    """The path, if a page can be written there. Raises `ResultError` if not."""
    if not isinstance(path, str | Path) or "\0" in str(path) or Path(path).suffix not in (".html", ".htm"):
        raise ResultError(f"page {path!r:.200}: expected a name that ends in .html")
    path = Path(path)
    try:
        if path.is_dir():
            raise ResultError(f"{str(path)!r} is a folder: choose another name")
        if path.exists() and not overwrite:
            raise ResultError(f"{str(path)!r} exists already: choose another name, or say overwrite")
    except OSError as error:
        raise ResultError(f"{str(path)!r} cannot be written: {reason(error)}") from error
    return path


def page(tree: xr.DataTree, images: Any = None) -> str:
    """The text of the page. Arguments and errors are those of `write`."""
    shown, lists, left_out = numbers.prepared(tree)
    count = shown.sizes["example"]
    if count > MOST_EXAMPLES:
        raise ResultError(
            f"the result has {count} examples, a page shows at most {MOST_EXAMPLES}: select some,"
            f" result.isel(example=slice({MOST_EXAMPLES}))."
        )
    texts, names = _texts(shown), _names(shown)
    every = dict(zip(_names(tree), pictures.given(images, _names(tree), _texts(tree)["image"]), strict=True))
    wanted = [every[name] for name in names]
    webp, missing = pictures.embedded(wanted, lambda number: wanted[number] != (texts["image"][number] or None))
    noising = shown.attrs.get("direction") == "noising"
    marks = Marks()
    sheets = list(numbers.sheets(shown))
    blocks = [held(sheet, noising, marks) for sheet in sheets]
    nodes = tuple(dict.fromkeys(name for sheet in sheets for name in sheet.maps))
    nus = [float(nu) for nu in shown.coords["nu"].values]
    specifications = charts.specifications(nodes, _logarithmic(nus))
    together = [block for sheet, block in zip(sheets, blocks, strict=True) if sheet.example is None]
    # of these the units are few, one number for each example, and always there
    fixed = [*webp, charts.script(), *(text for block in together for text in (block.means, *block.units.values()))]
    kept = _kept(blocks[len(together) :], sum(map(len, fixed)))
    index = {
        "nus": nus,
        "variables": {v: {"name": v.replace("_", "-"), "unit": UNITS[v], "digits": DIGITS[v]} for v in VARIABLES},
        "shares": SHARES,
        "noising": noising,
        "marks": marks.texts,
        "least": LEAST_RANGE,
        "colours": {name: charts.colours(name) for name in charts.PALETTES},
        "charts": specifications,
        "sheets": [
            {
                "example": sheet.example,
                "total": total,
                **({"name": "", "missing": ""} if sheet.example is None else _of(texts, names, missing, sheet.example)),
            }
            for sheet, total in zip(sheets, effects_of(sheets), strict=True)
        ],
    }
    found = diagnose(tree)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        index=_in_script(index),
        blocks=blocks,
        kept=[list(VARIABLES) if sheet.example is None else kept for sheet in sheets],
        examples_left_out=[visible(name) for name in left_out],
        together=bool(together),
        left_out=[name.replace("_", "-") for name in VARIABLES if name not in kept],
        pictures=webp,
        vega=_script(charts.script()),
        script=_script((HERE / "page.js").read_text(encoding="utf8")),
        style=(HERE / "page.css").read_text(encoding="utf8"),
        findings=[_shown(one) for one in found],
        provenance={visible(name): visible(value) for name, value in shown.attrs.items() if name != ATTRIBUTE},
        title=texts["question"][0] if count == 1 else f"{count} examples",
        count=count,
        draws=shown.sizes["draw"],
        variables=VARIABLES,
        lists=lists,
        nodes=nodes,
        noising=noising,
        types=sorted({one for one in texts["question_type"] if one}),
        model=visible(shown.attrs.get("model", "")),
    )


def _logarithmic(nus: list[float]) -> bool:
    """Whether factors between ν say more than differences."""
    return min(nus) > 0 and max(nus) / min(nus) >= 4


def _kept(blocks: list[Held], others: int) -> list[str]:
    """The variables whose draws there is room for: all, or the probability, or none."""
    means = sum(len(block.means) for block in blocks)
    for kept in (list(VARIABLES), [VARIABLES[0]]):
        if others + means + sum(len(block.units[name]) for block in blocks for name in kept) <= MOST:
            return kept
    return []


def _names(tree: xr.DataTree) -> list[str]:
    return [str(name) for name in tree.coords["example"].values.tolist()]


def _texts(tree: xr.DataTree) -> dict[str, list[str]]:
    """What the result says of its examples, "" where it says nothing."""
    count, found = tree.sizes["example"], {}
    root = reading.root_of(tree)
    for name in _COORDS:
        values = root.coords[name].values if name in root.coords else np.full(count, "")
        found[name] = [visible(value) if isinstance(value, str) else "" for value in np.ravel(values).tolist()]
    return found


def _of(texts: dict[str, list[str]], names: list[str], missing: list[str], example: int) -> dict[str, str]:
    said = {name: values[example] for name, values in texts.items()}
    return said | {"name": visible(names[example]), "missing": visible(missing[example])}


def _shown(one: Finding) -> dict[str, str]:
    places = list(one.where[:MOST_PLACES])
    more = len(one.where) - len(places)
    where = ", ".join(places) + (f" and {more} more" if more else "")
    said = {name: getattr(one, name) for name in ("name", "level", "measured", "limit", "why", "reference", "remedy")}
    return {name: one_line(text) for name, text in {**said, "where": where}.items()}


def _in_script(value: Any) -> str:
    """JSON in which nothing can end the element that holds it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _script(text: str) -> str:
    """A program in which nothing ends its element: the same program, as `\\/` is `/` in texts and patterns."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
