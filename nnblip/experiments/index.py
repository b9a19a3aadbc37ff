"""Where the experiments' files are: beside a checkout's package, or in what is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from nnblip.errors import STUMBLES, InputError, one_of, told
from nnblip.experiments.experiment import Experiment

_HERE = Path(__file__).parent


def folder() -> Path:
    """Of the files. In a wheel they are in the package; a checkout has them beside it."""
    return next((one for one in (_HERE / "files", _HERE.parents[1] / "experiments") if one.is_dir()), _HERE / "files")


def in_checkout() -> bool:
    """Whether the files are those of a checkout, beside which the page about them is."""
    return folder() != _HERE / "files"


def names() -> list[str]:
    """The experiments by their names."""
    return sorted(path.stem for path in folder().glob("*.py"))


def load(name: str) -> Experiment:
    """An experiment by its name, or by the path of its file, which ends in .py.

    Raises:
        SettingError: for an unknown name.
        InputError: for a file that has none.
    """
    path = Path(name) if name.endswith(".py") else folder() / f"{one_of(name, names(), 'experiment')}.py"
    if not path.is_file():
        raise InputError(f"experiment {told(str(path))}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"nnblip_experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except STUMBLES as error:
        raise InputError(f"experiment {told(str(path))} cannot be loaded: {type(error).__name__}: {error}") from error
    found = getattr(module, "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        raise InputError(f"experiment {told(str(path))}: expected EXPERIMENT = Experiment(...) in it")
    return found
