"""Sphinx: pages in Markdown, the reference from the docstrings. Built by scripts/docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyObject, PyXRefRole
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.inspect import TypeAliasForwardRef

import nnblip

sys.path.insert(0, str(Path(__file__).parent))
import execution

project = "nnblip"
author = copyright = "The nnblip developers"
version = release = nnblip.__version__

extensions = [
    "cyclopts.ext.sphinx",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
smartquotes = False

# --- notebooks -----------------------------------------------------------------------

globals().update({f"nb_{name}": value for name, value in execution.settings().items()})
nb_output_stderr = "remove"  # progress bars; the tests of the notebooks fail on anything else

html_theme = "furo"
html_title = f"nnblip {version}"
html_static_path = ["_static"]
html_css_files = ["nnblip.css"]
html_theme_options = {
    "source_repository": "https://github.com/nnblip/nnblip/",
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#3b528b", "color-brand-content": "#31688e"},
    "dark_css_variables": {"color-brand-primary": "#5ec962", "color-brand-content": "#35b779"},
}

# --- the reference -------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
#: Types that have a name of their own, which signatures show instead of what it stands for.
autodoc_type_aliases = {
    "CellsLike": "nnblip.sites.CellsLike",
    "ExampleLike": "nnblip.examples.ExampleLike",
    "Family": "nnblip.sites.Family",
    "ImageLike": "nnblip.examples.ImageLike",
    "KnockOutLike": "nnblip.edges.KnockOutLike",
    "NoiseLike": "nnblip.noise.NoiseLike",
    "RoleFunction": "nnblip.roles.RoleFunction",
}
TypeAliasForwardRef.__repr__ = lambda self: self.name  # type: ignore[method-assign]
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False
#: `This` in a docstring is code, and a link where it names something in the reference.
default_role = "py:obj"
#: Every other name has to be there, except those of other packages and what a signature names that is not public.
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"(collections|jaxtyping|matplotlib|numpy|pathlib|torch|xarray)\..*|Tensor|Float|Path|.*\[str|'1 .*'"),
    ("py:class", r"nnblip\.accessors\.Data"),  # whatever array it is of
    ("py:class", r"nnblip\.experiments\.(choose|claims|options)\..*|xr\..*"),  # what a run is given and hands out
]


def _returns(self: Any, *_: Any) -> list[tuple[str, str, list[str]]]:
    """What our docstrings return is prose: what stands before a colon is no type."""
    return [("", "", self._dedent(self._consume_to_next_section()))]


def _of_data(self: Any) -> tuple[str, list[str]]:
    """So is what is said of a constant."""
    return "", self._dedent(self._consume_to_end())


GoogleDocstring._consume_returns_section = _returns  # type: ignore[method-assign]
GoogleDocstring._consume_inline_attribute = _of_data  # type: ignore[method-assign]
for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"


def _as_rst(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Code with an ending, such as `Example`s, is no markup of reStructuredText, which wants a space there."""
    lines[:] = [re.sub(r"(`[^`]+`)(?=\w)", r"\1\ ", line) for line in lines]


def _dashes(_app: Any, doctree: Any) -> None:
    """Between a name and what it is; `smartquotes` would make dashes of options such as --nu, too."""
    for text in list(doctree.findall(nodes.Text)):
        if " -- " in text:
            text.parent.replace(text, nodes.Text(text.replace(" -- ", " – ")))


class Code(PyXRefRole):
    """`This`, as it is written: Sphinx would take the dot away from `.output`, and look for it anywhere."""

    def process_link(self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str) -> Any:
        _, target = super().process_link(env, refnode, has_explicit_title, title, target)
        refnode.attributes.pop("refspecific", None)
        return title, target


def setup(app: Any) -> None:
    app.add_role_to_domain("py", "obj", Code(), override=True)
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon
    app.connect("doctree-read", _dashes)
