"""Readers of data sets, which all give the same record, and choosing among its questions.

    dataset = nnblip.datasets.open_dataset("palit:color_coco_qa.csv", images="train2014")
    chosen = nnblip.datasets.correct(model, dataset.where(words=7).distinct().sample(100, seed=0))
    print(chosen.summary)

What is read is an `nnblip.Example` with an `id`; images are opened when the model needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnblip.datasets.choose import correct, partners
    from nnblip.datasets.download import Download
    from nnblip.datasets.readers.clevr import clevr
    from nnblip.datasets.readers.cocoqa import cocoqa
    from nnblip.datasets.readers.easy_vqa import easy_vqa
    from nnblip.datasets.readers.gqa import gqa
    from nnblip.datasets.readers.palit import palit
    from nnblip.datasets.readers.scenes import generated_scenes
    from nnblip.datasets.readers.table import hub, table
    from nnblip.datasets.readers.vqa2 import vqa2
    from nnblip.datasets.records import Dataset, Problem, template_of
    from nnblip.datasets.specs import open_dataset
    from nnblip.datasets.vqa_accuracy import accuracy

#: `nnblip.datasets.scenes` is the module that draws scenes; their reader is `generated_scenes`.
_NAMES = {
    "Dataset": "records",
    "Download": "download",
    "Problem": "records",
    "accuracy": "vqa_accuracy",
    "clevr": "readers.clevr",
    "cocoqa": "readers.cocoqa",
    "correct": "choose",
    "easy_vqa": "readers.easy_vqa",
    "generated_scenes": "readers.scenes",
    "gqa": "readers.gqa",
    "hub": "readers.table",
    "open_dataset": "specs",
    "palit": "readers.palit",
    "partners": "choose",
    "table": "readers.table",
    "template_of": "records",
    "vqa2": "readers.vqa2",
}
__all__ = [
    "Dataset", "Download", "Problem", "accuracy", "clevr", "cocoqa", "correct", "easy_vqa", "generated_scenes", "gqa",
    "hub", "open_dataset", "palit", "partners", "table", "template_of", "vqa2",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"nnblip.datasets.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'nnblip.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
