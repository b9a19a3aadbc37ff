"""What `nnblip trace` writes: results and a picture of everything that was asked for, all of it or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnblip.errors import ResultError, reason
from nnblip.passes.settings import Settings
from nnblip.sites import HEAD_KINDS, TEXT_COMPONENTS
from nnblip.storage.folders import made

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


SUMMARY, PAGE = "summary.png", "report.html"
RESULT, WHERE, ATTENTION = "result.zarr", "where.zarr", "attention.zarr"
#: Dots per inch: sharp in print.
DPI = 300


@dataclass(frozen=True)
class Traced:
    """The results of one example.

    Attributes:
        tree: the trace.
        image: the path of the picture.
        where: what points in the picture, if that was looked for.
        attention: where the question looks, likewise.
    """

    tree: xr.DataTree
    image: str
    where: xr.DataTree | None = None
    attention: xr.DataTree | None = None

    @property
    def results(self) -> dict[str, xr.DataTree]:
        """Every result by the name of its folder."""
        every = {RESULT: self.tree, WHERE: self.where, ATTENTION: self.attention}
        return {name: tree for name, tree in every.items() if tree is not None}

    @property
    def has_maps(self) -> bool:
        """Whether there are maps of the text components, which a summary and a page are made of."""
        return any(name in self.tree.children for name in TEXT_COMPONENTS)

    def figures(self, nu: float) -> dict[str, Figure]:
        """Every picture by the name of its file, the summary first; maps at one ν."""
        from nnblip import plot
        from nnblip.command.figures import OF_A_TRACE, figures

        drawn = dict[str, "Figure"]()
        if self.has_maps:
            drawn[SUMMARY] = plot.summary(self.tree, self.where, self.attention, self.image, nu=nu)
        if self.where is not None:
            drawn["where.png"] = plot.picture(self.where, self.image)
        if self.attention is not None:
            drawn["grad_cam.png"] = plot.attention(self.attention, self.image)
        every = figures(self.tree, OF_A_TRACE, {"image": self.image, "nu": nu})
        return drawn | {f"{name}.png": draw() for name, draw in every.items()}


def names(settings: Settings, where: bool) -> list[str]:
    """The files that a trace will write, as far as that is known before."""
    texts = [name for name in settings.components if name in TEXT_COMPONENTS] if settings.kinds else []
    first = next((kind for kind in settings.kinds if kind not in HEAD_KINDS), (*settings.kinds, "")[0])
    maps = [name if kind == first else f"{name}_{kind}" for kind in settings.kinds for name in texts]
    if settings.kinds and "image_encoder" in settings.components:
        maps.append("image_encoder")
    page = [PAGE] * bool(maps)
    maps += ["gamma"] * bool(settings.kinds) + ["pairs", "knock_outs", "circuit"] * (settings.cells is not None)
    maps += ["where", "grad_cam"] * where
    found = [*[SUMMARY] * bool(page), *page, RESULT, *[WHERE, ATTENTION] * where, *(f"{name}.png" for name in maps)]
    return list(dict.fromkeys(found))


def check(out: Path, files: Iterable[str], overwrite: bool) -> None:
    """Say that a folder cannot be written before the work, not after it. Nothing is made.

    Raises:
        ResultError: if something of these names is there and may not be replaced, or the folder cannot be written.
    """
    try:
        there = [out / name for name in files if (out / name).exists()]
        if there and not overwrite:
            raise ResultError(f"{str(there[0])!r} exists already: choose another folder with --out, or say --overwrite")
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ResultError(f"folder {str(out)!r} cannot be written: {reason(error, with_file=False)}") from error


def write(
    out: Path,
    trees: Mapping[str, xr.DataTree],
    drawn: Mapping[str, Figure],
    overwrite: bool,
    pages: Mapping[str, Callable[[Path], object]] | None = None,
) -> list[Path]:
    """Write results, figures, and pages by what writes them, all of it beside its place first. Raises as `check`."""
    from nnblip import results

    pages = pages or {}
    check(out, [*drawn, *pages, *trees], overwrite)
    try:
        with made(out), tempfile.TemporaryDirectory(dir=out, prefix=".nnblip-") as fresh:
            for name, figure in drawn.items():
                figure.savefig(Path(fresh, name), dpi=DPI)
            for name, tree in trees.items():
                results.save(tree, Path(fresh, name))
            for name, page in pages.items():
                page(Path(fresh, name))
            for name in (*trees, *pages, *drawn):
                if (out / name).is_dir():
                    (out / name).rename(Path(fresh, f"old-{name}"))
                Path(fresh, name).replace(out / name)
    except OSError as error:
        raise ResultError(f"folder {str(out)!r} cannot be written: {reason(error, with_file=False)}") from error
    return [out / name for name in (*drawn, *pages, *trees)]
