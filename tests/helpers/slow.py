"""What takes its time on a server, so that there is a middle of a request, and what brings much back."""

from pathlib import Path

from nnblip.noise import Multiplicative


class Slow(Multiplicative):
    """Noise that writes a file when it begins, and then waits."""

    def __init__(self, begun: Path, seconds: float = 30) -> None:
        self.__dict__.update(begun=str(begun), seconds=seconds)

    def unit(self, shape, rng):
        import pathlib
        import time

        pathlib.Path(self.begun).touch()
        time.sleep(self.seconds)
        return rng.standard_normal(shape, dtype="float32")


def weights(model, begun=None, seconds=0):
    """An errand whose result is too large for Redis (8 MiB): 16 MB that hardly can be compressed."""
    import pathlib
    import time

    import torch

    if begun:
        pathlib.Path(begun).touch()
        time.sleep(seconds)
    return torch.cat([parameter.detach().flatten() for parameter in model._module.parameters()])
