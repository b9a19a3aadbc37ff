#!/usr/bin/env python
"""Draw the figures of gallery.md into build/gallery: the python blocks of the page are one program, run there."""

import os
import re
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

if __name__ == "__main__":
    folder = PAGE.parents[1] / "build" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    exec(compile("\n".join(BLOCKS.findall(PAGE.read_text())), str(PAGE), "exec"), {"__name__": "gallery"})
