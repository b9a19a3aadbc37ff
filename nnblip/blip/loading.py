"""A model's files, on the hub or in a folder, become a torch module and a processor; nothing else in them is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)

from nnblip.blip import upstream
from nnblip.blip.task import Task
from nnblip.errors import STUMBLES, ModelError, one_line, told

#: How accelerate spreads a model over devices, by the names that it has for it.
PLACINGS = ("auto", "balanced", "balanced_low_0", "sequential")
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

    with _quiet():
        config, where = _config(task, repo, revision, options)
        processor = _processor(repo, config, where)
        try:
            found: Any = _architecture(task).from_pretrained(
                repo, config=config, use_safetensors=True, output_loading_info=True,
                **{**options, **where, "ignore_mismatched_sizes": True},  # they are told of below
            )  # fmt: skip
        except (*STUMBLES, SafetensorError) as error:
            raise _refusal(task, repo, revision, error, "its weights cannot be loaded") from error
    module, info = found
    shapes = [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]]
    if lacking := sorted({*info["missing_keys"], *shapes}):
        raise ModelError(
            f"model {repo!r}: {len(lacking)} weights are missing or of the wrong shape, such as {lacking[0]};"
            " transformers would have filled them with random numbers"
        )
    buffers = dict(module.named_buffers())  # numbers of positions, which older versions stored
    if spare := sorted(name for name in info["unexpected_keys"] if name not in buffers):
        raise ModelError(
            f"model {repo!r}: its configuration has no place for {len(spare)} of its weights, such as {spare[0]};"
            " without them it would be another model"
        )
    _require_finite(repo, module)
    return module.eval(), processor


def adopt(task: Task, name: str, module: Any, processor: Any) -> torch.nn.Module:
    """A module that is in memory, proved to be what the task needs and set to evaluation.

    Raises:
        ModelError: if it is not such a BLIP, or the processor is missing or of another model.
    """
    if not isinstance(module, _architecture(task)):
        raise ModelError(f"the module is a {type(module).__name__}; nnblip needs {task.architecture}")
    if not callable(getattr(processor, "tokenizer", None)) or not callable(getattr(processor, "image_processor", None)):
        raise ModelError(
            f"processor {told(processor)}: a model that is in memory needs its own,"
            " such as transformers.BlipProcessor.from_pretrained(...)"
        )
    _require_sizes(name, module.config)
    _require_own(name, processor, module.config)
    _require_finite(name, module)
    found: torch.nn.Module = module.eval()
    return found


def structure(
    task: Task, repo: str, revision: str | None, options: Mapping[str, Any], dtype: torch.dtype
) -> tuple[torch.nn.Module, Any]:
    """As `load`, on torch's meta device: from the configuration alone, without weights."""
    with upstream.real_device(), _quiet():  # the processor is needed here
        config, where = _config(task, repo, revision, options)
        processor = _processor(repo, config, where)
    try:
        module: torch.nn.Module = _architecture(task)(config)
    except STUMBLES as error:
        raise _refusal(task, repo, revision, error, "its configuration makes no model") from error
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
    if not isinstance(device_map, str | torch.device):  # a mapping from modules to devices, say
        return
    kind, _, number = str(device_map).partition(":")
    if kind in PLACINGS:
        return
    try:
        computes = torch.device(str(device_map)).type != "meta"
    except RuntimeError:
        computes = kind in ("cuda", "mps")  # told of below
    if not computes:
        raise ModelError(
            f"device {told(str(device_map))}: expected {', '.join(map(repr, PLACINGS))}, 'cpu', 'cuda:0', ..."
        )
    if kind not in ("cuda", "mps"):
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
    from transformers import AutoConfig, PreTrainedConfig

    where: dict[str, Any] = {
        "revision": revision,
        **{name: options[name] for name in ("token", "cache_dir", "subfolder") if name in options},
    }
    try:
        config = AutoConfig.from_pretrained(repo, trust_remote_code=False, **where)
    except (*STUMBLES, StrictDataclassError) as error:
        if isinstance(error, StrictDataclassError):  # some versions are strict with what names the architecture too
            written, _ = PreTrainedConfig.get_config_dict(repo, **where)
            _require_architecture(task, repo, written.get("model_type"), written.get("architectures"))
        raise _refusal(task, repo, revision, error, "no configuration could be read") from error
    _require_architecture(task, repo, config.model_type, config.architectures)
    _require_sizes(repo, config)
    return config, where


def _require_architecture(task: Task, repo: str, kind: Any, named: Any) -> None:
    """Raise `ModelError` for a configuration of another model, from its `model_type` and `architectures`."""
    architectures = named if isinstance(named, list) else [named] if named else []
    if kind != "blip" or task.architecture not in architectures:
        raise ModelError(
            f"model {repo!r} is {kind} {', '.join(map(str, architectures)) or '(no architecture named)'};"
            f" nnblip needs {task.architecture}, for example {task.for_example!r}"
        )


def _refusal(task: Task, repo: str, revision: str | None, error: BaseException, what: str) -> ModelError:
    """Why a model's files could not be read: it is nowhere, the hub is out of reach, or they are damaged."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes):
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else f"the hub ({constants.ENDPOINT}) cannot be reached"
        remedy = "unset it" if offline else "check the network"
        return ModelError(f"model {repo!r} is not in the cache, and {why}: {remedy}, or give a folder that has it")
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return ModelError(f"model {repo!r}: the hub has no revision {revision!r} of it")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return ModelError(
            f"model {repo!r}: the hub shows no such model; is the name right? One that is private or gated needs"
            " token=, or `hf auth login`"
        )
    if any(isinstance(cause, HFValidationError) for cause in causes):
        what = "there is no such folder"
    else:
        what += f" ({one_line(error)[:300]})"
    expected = f"; expected a hub id such as {task.for_example!r} or a folder in transformers' format"
    return ModelError(f"model {repo!r}: {what}{'' if 'weights' in what else expected}")


def _require_sizes(repo: str, config: Any) -> None:
    """Raise `ModelError` for a configuration that transformers takes and of which no BLIP that answers can be made."""
    text, vision = config.text_config, config.vision_config
    if text.hidden_size != vision.hidden_size:
        raise ModelError(
            f"model {repo!r}: its image encoder is {vision.hidden_size} wide and its text layers {text.hidden_size};"
            " expected one width, since the answer decoder reads the question as if it were an image"
        )
    for name in ("bos_token_id", "sep_token_id"):
        given = getattr(text, name)
        if not isinstance(given, int) or not 0 <= given < text.vocab_size:
            raise ModelError(
                f"model {repo!r}: {name} of its text_config is {told(given)}, expected a token of the {text.vocab_size}"
            )


def _require_own(repo: str, processor: Any, config: Any) -> None:
    """Raise `ModelError` for a tokenizer or image processor that is not this model's."""
    tokenizer, text = processor.tokenizer, config.text_config
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() - {*tokenizer.all_special_tokens}:
        raise ModelError(
            f"model {repo!r}: its tokenizer knows no words, every question would read [UNK]; is tokenizer.json there?"
        )
    if tokenizer.sep_token_id != text.sep_token_id or max(vocabulary.values()) >= text.vocab_size:
        raise ModelError(
            f"model {repo!r}: its tokenizer has {max(vocabulary.values()) + 1} tokens and [SEP] at"
            f" {tokenizer.sep_token_id}, the model {text.vocab_size} and {text.sep_token_id}: it is of another model"
        )
    side, needed = processor.image_processor.size.get("height"), config.vision_config.image_size
    if side != needed:
        raise ModelError(f"model {repo!r}: its processor makes {side} px images, the model reads {needed} px")


def _require_finite(repo: str, module: torch.nn.Module) -> None:
    """Raise `ModelError` for weights that are no numbers. One look at each: a sum is finite if all it adds are."""
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        if weight.device.type == "meta" or not weight.is_floating_point():  # accelerate has moved it to disk
            continue
        total = weight.detach().sum(dtype=torch.promote_types(weight.dtype, torch.float32))
        if not total.isfinite() and not weight.isfinite().all():
            raise ModelError(f"model {repo!r}: its weights {name} have numbers that are NaN or infinite")


def _processor(repo: str, config: Any, where: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    try:
        images = BlipImageProcessorPil.from_pretrained(repo, **where)
        tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=False, **where)
        processor = BlipProcessor(images, tokenizer)
    except STUMBLES as error:
        raise ModelError(f"model {repo!r}: no processor could be read ({one_line(error)[:300]})") from error
    _require_own(repo, processor, config)
    return processor


@contextmanager
def _quiet() -> Iterator[None]:
    """What is wrong is told by our errors: no table of weights, no retries; and no progress bar in a log."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    before = logging.get_verbosity(), hub.get_verbosity()
    if shown and not sys.stderr.isatty():
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        if shown:
            logging.enable_progress_bar()
