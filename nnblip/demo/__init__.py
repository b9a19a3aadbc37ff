"""The small model that ships with nnblip, and a dozen scenes to try it on.

`model/` is a folder in transformers' format (see its README for data, accuracy and
limits); `scenes/` has the pictures and `scenes.json` their questions.
"""

from __future__ import annotations

import json
from pathlib import Path

from nnblip.examples import Example

HERE = Path(__file__).parent
MODEL = HERE / "model"
#: What results call it.
NAME = "nnblip-demo"


def examples() -> list[Example]:
    """The bundled scenes with their questions; `answer` is None, so the model's own is traced."""
    asked = json.loads((HERE / "scenes" / "scenes.json").read_text())
    return [
        Example(
            str(HERE / "scenes" / row["image"]), row["question"], None, row["type"], f"{row['image']} {row['type']}"
        )
        for row in asked
    ]
