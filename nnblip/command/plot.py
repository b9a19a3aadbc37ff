"""`nnblip plot`: figures of a stored result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnblip.command.options import Flag, Whole, say
from nnblip.errors import NnblipError, one_of

FORMATS = ("png", "pdf", "svg")


def plot(
    result: Path,
    what: str | None = None,
    /,
    *,
    out: Path = Path("nnblip-plots"),
    format: str = FORMATS[0],
    nu: float | None = None,
    kind: str | None = None,
    example: str | None = None,
    value: str | None = None,
    variable: str | None = None,
    layer: Whole | None = None,
    style: str | None = None,
    width: float | None = None,
    image: Path | None = None,
    overwrite: Flag = False,
) -> None:
    """Draw figures of a stored result: of a trace or a sweep, of attention or of a lens.

    Parameters
    ----------
    result
        Such as nnblip-out/result.zarr.
    what
        heatmap, gamma, picture, ..., or the name of a file; everything that can be drawn of the result by default.
    out
        Folder for the figures.
    format
        png, pdf or svg.
    nu
        Noise factor of maps; by default 5, or the strongest, where there are several.
    kind
        Which states of a layer; each by default.
    example
        By its name in the result; the only one, or the mean over all by default.
    value
        indirect_effect, relevance or probability.
    variable
        probability, log_probability or logit_difference.
    layer
        Of the image encoder, or of attention.
    style
        paper: as the figures of Palit et al. 2023.
    width
        Inches: 3.3 is one column of a paper.
    image
        The picture, where the result does not say where it is or it lies elsewhere now.
    overwrite
        Replace figures that are there.
    """
    from nnblip import results
    from nnblip.command import folder
    from nnblip.command.figures import figures
    from nnblip.command.trace import SHOWN

    one_of(format, FORMATS, "format")
    tree = results.open_result(result).load()
    defaults: dict[str, Any] = (
        {"nu": SHOWN if SHOWN in tree.nu else float(tree.nu.max())} if tree.sizes.get("nu", 1) > 1 else {}
    )
    for name, beside in (("where", folder.WHERE), ("attention", folder.ATTENTION)):
        if (result.parent / beside).exists() and "clean" in tree.children:  # as a trace writes them: for its summary
            defaults[name] = results.open_result(result.parent / beside).load()
    drawn, problems = {}, {}
    options = dict(kind=kind, example=example, value=value, variable=variable, layer=layer, style=style, width=width)
    draws = figures(tree, what, defaults, image=None if image is None else str(image), nu=nu, **options)
    folder.check(out, [f"{name}.{format}" for name in draws], overwrite)
    for name, draw in draws.items():
        try:
            drawn[f"{name}.{format}"] = draw()
        except NnblipError as error:
            problems[name] = error
    if problems and (what is not None or not drawn):
        raise next(iter(problems.values()))
    wrote = folder.write(out, {}, drawn, overwrite)
    for name, problem in problems.items():
        say(f"Not drawn: {name}: {problem}")
    say("Wrote " + ", ".join(map(str, wrote)))
