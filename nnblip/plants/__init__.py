"""Planted BLIPs: models with weights set by hand, of which is known where their answer comes from.

Shown to users as `nnblip.planted`. How each is built, and why its truth is exact, is told in `docs/planted.md`.
"""

from __future__ import annotations

from nnblip.plants.plant import Plant, planted

__all__ = ["Plant", "planted"]
