"""Stands for NDIF's model actor: a Python without nnblip runs requests as nnsight deserializes them.

Usage: python stock_server.py

A line on stdin asks: the files of a request, for its answer and for what is said, and the model's key, between tabs.
A fork of this process, which has loaded what takes its time, does it; a line on stdout is its exit code.
"""

import importlib.abc
import os
import sys
from pathlib import Path

HIDDEN = ("nnblip", "jaxtyping", "xarray", "PIL", "beartype", "tqdm", "zarr", "matplotlib", "cyclopts")


class Hide(importlib.abc.MetaPathFinder):
    """What a server need not have."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load(key: str):
    from nnsight.modeling.huggingface import HuggingFaceModel

    model = HuggingFaceModel.from_model_key(key, dispatch=True, dtype="float32", device="cpu")
    model._module.requires_grad_(False)
    return model


def run(model, request: str, answer: str) -> None:
    import torch
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import _saves, dec, inc

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


def in_a_fork(model, request: str, answer: str, said: str) -> int:
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        run(model, request, answer)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    hidden: set[str] = set()
    models: dict[str, object] = {}
    sys.meta_path.insert(0, Hide())
    # the folder of this file and of the checkout
    sys.path[:] = [path for path in sys.path if "site-packages" in path or "lib/python" in path]
    for line in sys.stdin:
        *files, key = line.rstrip("\n").split("\t")
        if key not in models:
            models[key] = load(key)
        print(in_a_fork(models[key], *files), flush=True)
