"""One HTML page in which a result can be explored: `write`.

numbers.py   what is shown of a result, as plain arrays; intervals are those of `nnblip.effects`
packing.py   numbers as text, rounded to what is shown
content.py   a result as the page holds it
charts.py    the charts, as Altair writes them
pictures.py  the pictures, small
page.py      one file of all that: page.html, page.css, page.js
"""

from nnblip.report.page import write

__all__ = ["write"]
