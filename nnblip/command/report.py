"""`nnblip report`: a result as a page to explore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nnblip.errors import ResultError, visible


def report(
    result: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"),
    # as cyclopts reads numbers, 1.5 is 2
    n: Annotated[int | None, Parameter(converter=lambda _, tokens: int(tokens[0].value))] = None,
    images: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a stored result as one HTML page to explore, which opens from disk without network or server.

    Parameters
    ----------
    result
        What `trace` or `sweep` wrote, such as nnblip-out/result.zarr.
    out
        The page, a name that ends in .html.
    n
        Only the first so many examples; all by default, of which a page takes 1,000.
    images
        A folder with the pictures, by their names, where they are not where the result says.
    overwrite
        Replace what is there.
    """
    from nnblip import report as pages
    from nnblip.errors import whole
    from nnblip.report.page import checked
    from nnblip.results import open_result

    checked(out, overwrite)  # refused before the work
    tree = open_result(result)
    if n is not None:
        tree = tree.isel(example=slice(whole(n, "n", 1)))
    found = None
    if images is not None:
        if not images.is_dir():
            raise ResultError(f"images {str(images)!r}: expected a folder of pictures")
        named = zip(tree.coords["example"].values.tolist(), tree.coords["image"].values.tolist(), strict=True)
        found = {example: file for example, name in named if (file := images / Path(str(name)).name).is_file()}
    pages.write(tree, out, images=found, overwrite=overwrite)
    count = tree.sizes["example"]
    print(visible(f"Wrote {out}, a page of {count} {'example' if count == 1 else 'examples'}: open it in a browser"))
