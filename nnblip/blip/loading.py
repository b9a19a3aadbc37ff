"""A model's files, on the hub or in a folder, become a torch module and a processor; nothing else in them is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nnblip.blip import upstream
from nnblip.blip.task import Task
from nnblip.errors import ModelError, told

#: In which a model can be: torch stores numbers in others too, such as float8, and computes in none of them.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load(task: Task, repo: str, revision: str | None, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
    """The module with its weights, and what makes tensors of images and questions.

    Args:
        task: what the model must be for.
        repo: a hub id or a folder.
        revision: branch, tag or commit on the hub.
        options: further arguments of `from_pretrained`.

    Raises:
        ModelError: if it is not such a BLIP or not complete.
    """
    from safetensors import SafetensorError

    config, where = _config(task, repo, revision, options)
    try:
        with _quiet_unless_terminal():
            found: Any = _architecture(task).from_pretrained(
                repo, config=config, use_safetensors=True, output_loading_info=True, **{**options, **where}
            )
        module, info = found
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {repo!r}: its weights cannot be loaded ({first_line(error)})") from error
    if lacking := sorted([*map(str, info["missing_keys"]), *map(str, info["mismatched_keys"])]):
        raise ModelError(
            f"model {repo!r}: {len(lacking)} weights are missing or of the wrong shape, such as {lacking[0]};"
            " transformers would have filled them with random numbers"
        )
    return module.eval(), _processor(repo, config, where)


def structure(
    task: Task, repo: str, revision: str | None, options: Mapping[str, Any], dtype: torch.dtype
) -> tuple[torch.nn.Module, Any]:
    """As `load`, on torch's meta device: from the configuration alone, without weights."""
    with upstream.real_device():  # the processor is needed here
        config, where = _config(task, repo, revision, options)
        processor = _processor(repo, config, where)
    module: torch.nn.Module = _architecture(task)(config)
    return module.to(dtype).eval(), processor


def served_name(repo: str, revision: str | None) -> str:
    """How a request names a model of the hub or a folder to a stock NDIF server, after the class that serves it."""
    # transformers 5 has no pipeline for visual question answering. With this task its pipeline
    # falls back to the architecture that the configuration names; `image-text-to-text`, or no task
    # at all, would silently serve another architecture. The hub is not asked: it may be a folder.
    where = str(Path(repo).resolve()) if Path(repo).is_dir() else repo
    return json.dumps({"repo_id": where, "revision": revision, "task": "document-question-answering"})


def check_device(device_map: Any) -> None:
    """Raise `ModelError` for a device that this machine does not have, by its name."""
    kind, _, number = str(device_map).partition(":")
    if not isinstance(device_map, str | torch.device) or kind not in ("cuda", "mps"):
        return
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if not (number or "0").isdigit() or int(number or 0) >= count:
        have = f"has {count} of that kind" if count else "has none of that kind"
        raise ModelError(f"device {str(device_map)!r}: this machine {have}; expected 'auto' or 'cpu'")


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of `DTYPES`, by its name too. Raises `ModelError` for another."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES:
        names = ", ".join(repr(str(one).removeprefix("torch.")) for one in DTYPES)
        raise ModelError(f"dtype {told(dtype)}: expected one of {names}")
    return found


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _architecture(task: Task) -> Any:
    import transformers

    return getattr(transformers, task.architecture)


def _config(task: Task, repo: str, revision: str | None, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration, and the arguments that say where the model's other files are."""
    from transformers import AutoConfig

    where: dict[str, Any] = {
        "revision": revision,
        **{name: options[name] for name in ("token", "cache_dir", "subfolder") if name in options},
    }
    try:
        config = AutoConfig.from_pretrained(repo, trust_remote_code=False, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {repo!r}: no configuration could be read ({first_line(error)}); expected a hub id such as"
            f" {task.for_example!r} or a folder in transformers' format"
        ) from error
    architectures = list(config.architectures or [])
    if config.model_type != "blip" or task.architecture not in architectures:
        raise ModelError(
            f"model {repo!r} is {config.model_type} {', '.join(architectures) or '(no architecture named)'};"
            f" nnblip needs {task.architecture}, for example {task.for_example!r}"
        )
    return config, where


def _processor(repo: str, config: Any, where: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    try:
        images = BlipImageProcessorPil.from_pretrained(repo, **where)
        tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=False, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {repo!r}: no processor could be read ({first_line(error)})") from error
    side, needed = images.size.get("height"), config.vision_config.image_size
    if side != needed:
        raise ModelError(f"model {repo!r}: its processor makes {side} px images, the model reads {needed} px")
    return BlipProcessor(images, tokenizer)


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """transformers draws its progress bars into logs too."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown and not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
