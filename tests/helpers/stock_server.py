"""Stands for NDIF's model actor: a Python without nnblip runs a request as nnsight deserializes it.

Usage: python stock_server.py REQUEST MODEL_KEY ANSWER
"""

import importlib.abc
import sys
from pathlib import Path

HIDDEN = ("nnblip", "jaxtyping", "xarray", "PIL", "beartype", "tqdm", "zarr", "matplotlib", "cyclopts")


class Hide(importlib.abc.MetaPathFinder):
    """What a server need not have."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run(request: str, key: str, answer: str) -> None:
    import torch
    from nnsight.modeling.huggingface import HuggingFaceModel
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import _saves, dec, inc

    model = HuggingFaceModel.from_model_key(key, dispatch=True, dtype="float32", device="cpu")
    model._module.requires_grad_(False)
    for module in [name for name in sys.modules if name.partition(".")[0] in HIDDEN]:
        del sys.modules[module]
    hidden.update(HIDDEN)
    blob = Path(request).read_bytes()
    for _ in range(2):  # the second time the modules are there
        tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress=True)
        inc()
        try:
            tracer.execute(tracer.info.code)
            saves = _saves()
            found = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in saves}
        finally:
            dec()
    assert not {"jaxtyping", "PIL"} & set(sys.modules)  # no stand-in of ours stays for others to find
    torch.save(found, answer)


if __name__ == "__main__":
    hidden: set[str] = set()
    sys.meta_path.insert(0, Hide())
    # the folder of this file and of the checkout
    sys.path[:] = [path for path in sys.path if "site-packages" in path or "lib/python" in path]
    run(*sys.argv[1:])
