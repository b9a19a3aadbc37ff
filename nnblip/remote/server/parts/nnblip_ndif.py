"""What a stock NDIF 0.1.2 needs on a machine without a GPU, as classes that its settings name.

This file and its neighbour are on the PYTHONPATH of the server's processes, nnblip is not
imported there: what a request needs of nnblip travels with it, in the client's version.
"""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import ray
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


class OnCpu(BaseModelDeployment):
    """NDIF's model actor without its CUDA calls. Weights that are on the CPU cannot be parked there."""

    CACHEABLE = False

    def load_from_disk(self) -> Any:
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model

    def cleanup(self) -> None:
        self.kill_switch.clear()
        self.kill_reason = None
        self.execution_ident = None
        self.model.interleaver.cancel()
        gc.collect()


# no CPU is reserved: Ray would let a second model wait for ever on a small machine
@ray.remote(num_cpus=0, max_restarts=-1)
class ModelActor(OnCpu):
    """The Ray actor of a model on the CPU."""


class MendedController(_ControllerActor):
    """NDIF's controller, which passes `trust_remote_code` to two functions of nnsight 0.8.1 that do not take it.

    Without this every deployment fails and the server's status says Down. Nothing of
    ours asks for remote code, so the argument is dropped.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _drop_trust("describe_checkpoint")
        _drop_trust("max_tp_size")
        _count_files()
        super().__init__(*args, **kwargs)


def _drop_trust(name: str) -> None:
    stock = getattr(Remotable, name)

    def mended(cls: type, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        return stock.__func__(cls, *args, **kwargs)

    setattr(Remotable, name, classmethod(mended))


def _count_files() -> None:
    """Size a model on this disk by its own files.

    nnsight asks the hub, and failing that builds the architecture of the key's task,
    which for BLIP's is not the one that is served.
    """
    stock = HuggingFaceModel._hub_parameter_count

    def counted(repo_id: str, revision: str | None) -> int | None:
        files = sorted(folder.glob("*.safetensors")) if (folder := _on_disk(repo_id, revision)) else []
        return sum(map(_parameters, files)) if files else stock(repo_id, revision)

    HuggingFaceModel._hub_parameter_count = staticmethod(counted)


def _on_disk(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a model that is one, or is in the hub's cache."""
    if Path(repo_id).is_dir():
        return Path(repo_id)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _parameters(file: Path) -> int:
    """How many numbers a safetensors file holds, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


# a named base class, since Ray ships the class that it decorates by value
@ray.remote(num_cpus=0, num_gpus=0, max_restarts=-1, resources={"head": 1})
class Controller(MendedController):
    """The Ray actor of the controller."""
