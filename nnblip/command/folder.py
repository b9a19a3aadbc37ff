"""What `nnblip trace` writes: a result and a picture of everything that was asked for, all of it or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nnblip.errors import ResultError, reason
from nnblip.sites import HEAD_KINDS, TEXT_COMPONENTS
from nnblip.storage.folders import made

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from nnblip.diagnosis import Findings
    from nnblip.examples import ImageLike

RESULT = "result.zarr"


def names(kinds: Iterable[str], regions: bool) -> list[str]:
    """The files of a trace of these kinds; the first kind's have the names of their components alone."""
    first, *_ = kinds = list(kinds)
    maps = [name if kind == first else f"{name}_{kind}" for kind in kinds for name in TEXT_COMPONENTS]
    return [RESULT, *(f"{name}.png" for name in [*maps, "gamma", *["image_encoder"] * regions])]


def pictures(tree: xr.DataTree, image: ImageLike, kinds: Iterable[str], nu: float) -> dict[str, Figure]:
    """Every picture of a result by the name of its file, heatmaps at one ν."""
    from nnblip import effects, plot

    first, *_ = kinds = list(kinds)
    drawn: dict[str, Figure] = {}
    for kind in kinds:
        for name in TEXT_COMPONENTS:
            draw = plot.heads if kind in HEAD_KINDS else plot.heatmap
            drawn[f"{name if kind == first else f'{name}_{kind}'}.png"] = draw(tree, name, nu=nu, kind=kind)
    drawn["gamma.png"] = plot.gamma(tree, kind=first)
    if "image_encoder" in tree.children:  # single regions are little against much noise: at the ν at which they do most
        effect = effects.indirect_effect(tree)["image_encoder"].probability.mean("draw")
        nu_of_most = float(effect.max([dim for dim in effect.dims if dim != "nu"]).idxmax("nu"))
        drawn["image_encoder.png"] = plot.picture(tree, image, nu=nu_of_most)
    return drawn


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


def write(out: Path, tree: xr.DataTree, found: Findings, drawn: Mapping[str, Figure], overwrite: bool) -> list[Path]:
    """Write all of it beside its place first, and what a diagnosis `found` as an attribute. Raises as `check` does."""
    from nnblip import results
    from nnblip.diagnosis import ATTRIBUTE

    check(out, [RESULT, *drawn], overwrite)
    noted = tree.copy()
    noted.attrs = {**tree.attrs, ATTRIBUTE: found.to_json()}
    try:
        with made(out), tempfile.TemporaryDirectory(dir=out, prefix=".nnblip-") as fresh:
            for name, figure in drawn.items():
                figure.savefig(Path(fresh, name), dpi=200)
            results.save(noted, out / RESULT, overwrite=overwrite)
            for name in drawn:
                Path(fresh, name).replace(out / name)
    except OSError as error:
        raise ResultError(f"folder {str(out)!r} cannot be written: {reason(error, with_file=False)}") from error
    return [out / name for name in (RESULT, *drawn)]
