"""What is held on a server until it may go on, so that there is a middle of a request; what brings much there or back.

Of this folder functions and classes travel by value, as those of a user's own modules do.
"""

from pathlib import Path

import numpy as np

from nnblip.noise import Multiplicative


def over(begun: Path) -> Path:
    """When this file is there, what has made the other one goes on."""
    return Path(f"{begun}.over")


class Slow(Multiplicative):
    """Noise that makes a file when it begins, and then waits for another one, see `over`."""

    def __init__(self, begun: Path) -> None:
        self.__dict__.update(begun=str(begun), over=str(over(begun)))

    def unit(self, shape, rng):
        import pathlib
        import time

        pathlib.Path(self.begun).touch()
        while not pathlib.Path(self.over).exists():
            time.sleep(0.05)
        return rng.standard_normal(shape, dtype="float32")


class Tabled(Multiplicative):
    """Unit noise out of a table that travels with the request."""

    def __init__(self, table):
        self.__dict__["table"] = table

    def unit(self, shape, rng):
        start = int(rng.integers(self.table.size - np.prod(shape)))
        return self.table[start : start + int(np.prod(shape))].reshape(shape)


def weights(model, begun=None):
    """An errand whose result is too large for Redis (8 MiB): 16 MB that hardly can be compressed."""
    import pathlib
    import time

    import torch

    if begun:
        pathlib.Path(begun).touch()
        while not pathlib.Path(f"{begun}.over").exists():
            time.sleep(0.05)
    return torch.cat([parameter.detach().flatten() for parameter in model._module.parameters()])
