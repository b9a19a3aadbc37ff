"""What can be asked of every experiment, checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnblip.errors import SettingError, told

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: Of these the numbers depend; where the pictures lie and on which device it runs, they do not.
DECIDE = ("model", "dataset", "n", "nu", "draws", "noise", "seed", "dtype", "remote", "types", "by")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of a run.

    Attributes:
        out: its folder.
        model: a hub id or folder; the small model if None.
        dataset: names of data sets, as `nnblip sweep` takes them.
        images: where their pictures are: one place for all that do not bring their own, or NAME=PLACE for each.
        n: how many questions of each group.
        nu, draws, noise, seed: as for `causal_trace`.
        device, dtype, remote: where the model runs.
        types: the types of questions that are taken; GROUP=TYPE,TYPE puts some together, "*" in a type is any text.
        by: the field by which questions are parted, "question_type" or another, such as "answer_type" of VQA v2.
    """

    out: Path
    model: str | None = None
    dataset: tuple[str, ...]
    images: tuple[str, ...] = ()
    n: int
    nu: tuple[float, ...]
    draws: int
    noise: tuple[str, ...]
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    remote: bool = False
    types: tuple[str, ...] = ()
    by: str | None = None

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides about the numbers, as JSON has it."""
        every = asdict(self)
        return {name: list(v) if isinstance(v := every[name], tuple) else v for name in DECIDE}

    @property
    def groups(self) -> dict[str, list[str]]:
        """Of `types`: the types of each group by its name. Raises `SettingError` for a form that is none."""
        found: dict[str, list[str]] = {}
        for given in self.types:
            name, equals, of = given.partition("=")
            types = [one.strip() for one in of.split(",")] if equals else [given]
            if not name.strip() or not all(types):
                raise SettingError(f"types {told(given)}: expected a type, or GROUP=TYPE,TYPE")
            if name in found:
                raise SettingError(f"types: {told(name)} is given twice")
            found[name] = types
        return found

    def load(self) -> BlipVQA:
        from nnblip.model import BlipVQA

        return BlipVQA(self.model, remote=self.remote, device_map=self.device, dtype=self.dtype)


Say = Callable[[str], object]
