"""Going on in a store that other code of nnblip has begun, once two of its examples give the same numbers again."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from nnblip.errors import ResultError
from nnblip.sweeps.agenda import Agenda
from nnblip.sweeps.store import DONE, Store

#: What may differ: nnblip's own code. Another torch, model or setting is never gone on with.
OWN_CODE = ("model and code: source", "model and code: version_nnblip")
#: So many finished examples are traced again.
AGAIN = 2


def adopt(path: Path, agenda: Agenda, stored: dict[str, Any], damaged: Collection[int]) -> None:
    """Make a store this code's own; its attribute `adopted` keeps what it was begun with.

    Args:
        path: of the store.
        agenda: what is asked of it now.
        stored: its fingerprint.
        damaged: examples that are done again anyway.

    Raises:
        ResultError: if an example that is traced again has other numbers or labels, naming the first that differs.
    """
    store = Store(path)
    done = [i for i, state in enumerate(store.status()) if state == DONE and i not in damaged]
    for number in done[:: max(1, len(done) - 1)][:AGAIN]:  # the first and the last
        row = store.row(agenda.trace(number))
        row.pop("image", None)  # folders may move
        for key, value in row.items():
            kept = np.asarray(store.growing[key][number])[tuple(slice(size) for size in np.shape(value))]
            if difference := _difference(np.asarray(kept), np.asarray(value)):
                raise ResultError(
                    f"{str(path)!r} cannot be adopted: example {agenda.ids[number]!r} traced again differs in /{key}"
                    f" ({difference}); choose another --out, or go back to the code that it was made with"
                )
    kept_from = {key: stored.get(key) for key in OWN_CODE}
    store.update(sweep=json.dumps(agenda.fingerprint), adopted=json.dumps(kept_from))


def _difference(kept: np.ndarray, now: np.ndarray) -> str:
    """How two arrays differ, "" if they are the same bit for bit."""
    if now.dtype.kind != "f":
        return "" if kept.tolist() == now.tolist() else f"{kept.tolist()!r:.60} -> {now.tolist()!r:.60}"
    if np.array_equal(kept, now, equal_nan=True):
        return ""
    gap = np.abs(kept.astype(float) - now.astype(float))
    return f"by up to {np.nanmax(gap):.2g}" if np.isfinite(gap).any() else "where numbers are known"
