"""`Blip`: transformers' BLIP as an nnsight model, with the names, states and inputs of the vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip import decoding, description, inputs, loading, upstream
from nnblip.blip.inputs import Encoded
from nnblip.blip.task import Task
from nnblip.errors import InputError, ModelError, SiteError, one_of, told
from nnblip.examples import Example, ImageLike
from nnblip.sites import IMAGE_KINDS, KINDS, PLACES, Extent

#: The name of a model that is nowhere else.
IN_MEMORY = "a model in memory"


class Blip(upstream.HuggingFaceModel):
    """A BLIP open to intervention: what every use of it needs, and nothing of any one use.

    Each component, such as `model.question_encoder`, has `.layer[i]`; in a text layer there are
    `.attention`, `.crossattention` and `.add_norm` (which BLIP calls `output`). The torch module
    is `model._module`.

    Attributes:
        task: what this use of BLIP has of its own, see `nnblip.blip.task`.
        processor: makes tensors of images and texts; None on a server that cannot read images.
        remote: whether it has no weights here.
        dtype: of the weights.
        name: the hub id or folder.
    """

    task: ClassVar[Task]

    def __init__(
        self,
        repo: str | Path | torch.nn.Module,
        *,
        device_map: Any = None,
        dtype: str | torch.dtype = "float32",
        revision: str | None = None,
        remote: bool = False,
        processor: Any = None,
        **load: Any,
    ) -> None:
        for name in ("trust_remote_code", "use_safetensors"):
            if name in load:
                raise ModelError(f"{name}={load[name]!r}: nnblip loads safetensors only and never runs remote code")
        if not isinstance(repo, str | Path | torch.nn.Module):
            raise ModelError(f"model {told(repo)}: expected a hub id, a folder or a torch module")
        source: Any = repo
        if isinstance(repo, torch.nn.Module):
            if given := {k: v for k, v in dict(device_map=device_map, revision=revision, **load).items() if v}:
                raise ModelError(f"a model that is in memory is used as it is: leave {', '.join(given)} out")
            name, dtype = IN_MEMORY, getattr(repo, "dtype", dtype)
        else:
            if processor is not None:
                raise ModelError("processor=: a model that is loaded brings its own; leave it out")
            name = source = str(repo)
        if not remote:
            loading.check_device(device_map)
        self.name, self.processor = name, processor
        self.remote, self.dtype = remote, loading.as_dtype(dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*which nnsight already serves.*")
            super().__init__(
                source,
                revision=revision,
                dispatch=not remote,
                rename=dict(self.task.names),
                device_map=device_map,
                dtype=self.dtype,
                **load,
            )
        if not remote:  # else the server proves the names: a tree that differs is refused there
            self._prove_names()

    def _wrap(self, module: torch.nn.Module, *args: Any, **options: Any) -> torch.nn.Module:
        if self.remote:
            raise ModelError("remote=True: a server loads its model itself; give a hub id or a folder")
        return loading.adopt(self.task, self.name, module, self.processor)

    def _load(self, repo_id: str, *args: Any, **options: Any) -> torch.nn.Module:
        module, self.processor = loading.load(self.task, repo_id, self.revision, options)
        return module

    def _load_meta(self, repo_id: str, *args: Any, **options: Any) -> torch.nn.Module:
        module, self.processor = loading.structure(self.task, repo_id, self.revision, options, self.dtype)
        return module

    # --- as a part of a request ------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # nnsight sends the tree of names; weights are on the server, the processor and the
        # arguments of loading (a token of the hub may be among them) stay here
        return {**super().__getstate__(), "processor": None, "remote": False, "args": (), "kwargs": {}}

    @classmethod
    def _remoteable_class(cls) -> type:
        return upstream.served_class()

    def _remoteable_model_key(self) -> str:
        if self.name == IN_MEMORY:
            raise ModelError("remote: a model that is in memory is on no server; load it by its hub id or folder")
        return loading.served_name(self.repo_id, self.revision)

    def _prove_names(self) -> None:
        """One forward pass on a single patch: every name that nnblip promises is served, with the right shape."""
        patch, text = self.config.vision_config.patch_size, self.config.text_config
        pixels = torch.zeros(1, 3, patch, patch)
        ids = torch.tensor([[text.sep_token_id]])
        seen: dict[str, tuple[int, ...]] = {}
        try:
            with torch.no_grad(), self.trace(pixel_values=pixels, input_ids=ids, decoder_input_ids=ids):
                for i in range(self.config.vision_config.num_hidden_layers):
                    seen[f"image_encoder block {i}"] = tuple(self.image_encoder.layer[i].output.shape)
                for component in self.task.text_components:
                    for i in range(text.num_hidden_layers):
                        for kind in KINDS:
                            seen[f"{component} {kind} {i}"] = tuple(self.read_state(component, kind, i).shape)
        except (AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
            last = list(seen)[-1] if seen else "the start"
            raise ModelError(
                f"model {self.name!r}: after {last!r} a state that nnblip promises is missing"
                f" ({loading.first_line(error)}); this version of transformers or nnsight is not one that nnblip was"
                " tested with"
            ) from error
        for name, shape in seen.items():
            size = self.config.vision_config.hidden_size if name.startswith("image") else text.hidden_size
            size = text.intermediate_size if "mlp_activation" in name else size
            if shape[-1] != size or len(shape) != 3:
                raise ModelError(f"model {self.name!r}: {name} has shape {shape}, expected (1, tokens, {size})")

    # --- what the model is ---------------------------------------------------------

    def __repr__(self) -> str:
        """Name, weights and the names of its layers; the tree of torch modules is `repr(model._module)`."""
        return description.as_text(self)

    def _repr_html_(self) -> str:
        return description.as_html(self)

    @property
    def config(self) -> Any:
        """transformers' `BlipConfig`."""
        return self._module.config

    def extent(self, question_tokens: int, answer_tokens: int, noise_at: str = "image_embeds") -> Extent:
        """How many layers and tokens there are for a question and an answer of these lengths."""
        text, vision = self.config.text_config, self.config.vision_config
        return Extent(
            text.num_hidden_layers, question_tokens, answer_tokens, text.num_attention_heads,
            vision.num_hidden_layers, vision.image_size // vision.patch_size, one_of(noise_at, PLACES, "noise_at"),
        )  # fmt: skip

    @property
    def longest_answer(self) -> int:
        """How many tokens an answer of its own has at most."""
        return self.task.longest_answer(self.config)

    def _state_module(self, component: str, kind: str, layer: int) -> Any:
        one_of(component, self.task.components, "component", SiteError)
        if component == "image_encoder":
            one_of(kind, IMAGE_KINDS, "kind of image_encoder", SiteError)
        block = getattr(self, component).layer[layer]
        match kind:
            case "block" | "block_input":
                return block
            case "attention" | "crossattention":
                return getattr(block, kind)
            case "attention_head" | "crossattention_head":
                return getattr(block, kind.removesuffix("_head")).self
            case "attention_value_output":
                return block.attention.self
            case "mlp_activation":
                return block.intermediate
            case "attention_out" | "crossattention_out":
                return getattr(block, kind.removesuffix("_out")).add_norm.dense
            case "mlp_out":
                return block.add_norm.dense
        raise SiteError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")

    def read_state(self, component: str, kind: str, layer: int) -> Float[Tensor, "row token hidden"]:
        """Inside a trace: the state of all tokens; of the kinds of heads, all heads side by side."""
        module = self._state_module(component, kind, layer)
        state = module.input if kind == "block_input" else module.output
        return state[0] if isinstance(state, tuple) else state

    def write_state(self, component: str, kind: str, layer: int, value: Float[Tensor, "row token hidden"]) -> None:
        """Inside a trace: replace the state of all tokens."""
        module = self._state_module(component, kind, layer)
        if kind == "block_input":
            module.input = value
            return
        output = module.output
        module.output = (value, *output[1:]) if isinstance(output, tuple) else value

    # --- inputs --------------------------------------------------------------------

    def encode(self, image: ImageLike | Example | Encoded, question: str | None = None) -> Encoded:
        """An image and a question, or an example, as the model reads them; what this gave is taken as it is.

        Raises:
            InputError: for what it cannot read.
        """
        if isinstance(image, Encoded | Example) and question is not None:
            what = "what encode(...) gave" if isinstance(image, Encoded) else "an example"
            raise InputError(f"question {told(question)}: {what} has its question already; leave it out")
        if isinstance(image, Encoded):
            return image
        if isinstance(image, Example):
            return self.encode(image.image, image.question)
        if self.processor is None:
            raise InputError(
                "this server has nothing to read images with (PIL): call model.encode(image, question) before the"
                " session, and give what it gives instead of both"
            )
        return inputs.encode(self.processor, image, question, self.config.text_config.max_position_embeddings)

    def encode_partner(self, encoded: Encoded, noise_at: str, image: ImageLike | None, question: str | None) -> Encoded:
        """What noise "swap" moves towards: the other image, or with noise at the question the other question.

        Raises:
            InputError: if the one that is needed is not given, cannot be read, or is a question of another length.
        """
        name, what, given = ("partner", "image", image)
        if noise_at == "question":
            name, what, given = ("other_question", "question", question)
        if given is None:
            raise InputError(
                f"noise 'swap' needs another {what}: give {name}=, as in nnblip.Example(..., {name}={what})"
            )
        if noise_at == "question":
            return inputs.with_question(self.processor, encoded, question)
        return self.encode(given, encoded.question)

    def encode_answer(self, answer: str, what: str = "answer") -> list[int]:
        """The tokens of an answer. Raises `InputError`."""
        return inputs.answer_ids(self.processor, answer, self.config.text_config.max_position_embeddings, what)

    def encode_rival(self, rival: str | int) -> int:
        """The token of a rival answer: the first of a text, or an id. Raises `InputError`."""
        if isinstance(rival, str):
            return self.encode_answer(rival, "rival")[0]
        if rival >= self.config.text_config.vocab_size:
            raise InputError(f"rival {rival}: the vocabulary has {self.config.text_config.vocab_size} tokens")
        return rival

    def forward_inputs(self, encoded: Encoded, answer_ids: Sequence[int]) -> dict[str, Tensor]:
        """Arguments of the torch module's forward, the answer teacher-forced."""
        return self.task.inputs(self.config, encoded, answer_ids)

    def trace(self, *inputs: Any, remote: Any = None, **kwargs: Any) -> Any:
        """nnsight's `trace`, of an image and a question (and `answer=`, teacher-forced).

        With `remote` (by default if the model was made so) its block runs on a server.
        """
        plain = kwargs.get("trace", True) and not {"backend", "tracer_cls", "fn"} & kwargs.keys()
        remote = (self.remote and plain) if remote is None else remote
        if remote and len(inputs) == 2:  # what is needed to read them is here
            answer = kwargs.pop("answer", None)
            inputs, kwargs["answer"] = (self.encode(*inputs),), [] if answer is None else self.encode_answer(answer)
        return super().trace(*inputs, remote=remote, **kwargs)

    def session(self, backend: Any = None, remote: bool | str | None = None, **options: Any) -> Any:
        """nnsight's `session`. With `remote` (by default if the model was made so) all of it is one request."""
        return super().session(backend, (self.remote and backend is None) if remote is None else remote, **options)

    def _batch_size(self, *args: Any, **kwargs: Any) -> int:
        if len(args) == 2 or (args and isinstance(args[0], Encoded)):
            return 1
        if "input_ids" in kwargs:
            return len(kwargs["input_ids"])
        return super()._batch_size(*args, **kwargs)

    def _batch(self, invokes: list[tuple[Any, Any]], fn: Any) -> tuple[Any, Any]:
        """(image, question) pairs, what `encode` gave, or a forward's own arguments, as one batch. Never pads."""
        if not invokes:
            return super()._batch(invokes, fn)
        rows = []
        for args, kwargs in invokes:
            if len(args) == 2 or (args and isinstance(args[0], Encoded)):
                encoded = self.encode(*args)
                answer = kwargs.pop("answer", None) or []
                ids = self.encode_answer(answer) if isinstance(answer, str) else answer
                rows.append({**self.forward_inputs(encoded, ids), **kwargs})
            elif not args:
                rows.append(kwargs)
            else:
                raise InputError(f"trace got {len(args)} inputs: expected an image and a question")
        if len(rows) == 1:
            return (), rows[0]
        for name in ("input_ids", "decoder_input_ids"):
            lengths = {row[name].shape[1] for row in rows}
            if len(lengths) > 1:
                raise InputError(
                    f"invokes of one trace have {name} of different lengths {sorted(lengths)}: padding would change"
                    " BLIP's answers, so trace questions of equal length together"
                )
        return (), {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    # --- answers -------------------------------------------------------------------

    @torch.no_grad()
    def image_embeds(self, encoded: Encoded) -> Float[Tensor, "1 patch hidden"]:
        """The vision model's output, from a plain forward pass; of an edited model, with its edits."""
        if upstream.is_edited(self):
            with self.trace(**self.forward_inputs(encoded, []), remote=False):
                embeds = self.image_encoder.output.last_hidden_state.save()
            return embeds
        vision = self._module.vision_model
        return vision(encoded.pixel_values.to(vision.device)).last_hidden_state

    @torch.no_grad()
    def own_answer(
        self, encoded: Encoded, image_embeds: Float[Tensor, "1 patch hidden"], empty: bool = False
    ) -> list[int]:
        """The model's own answer, decoded greedily; of an edited model, with its edits at each token.

        Raises:
            InputError: if the model answers nothing at all ([SEP] at once), unless `empty` allows it.
        """
        if upstream.is_edited(self):
            said = decoding.greedy(partial(self.following, encoded), [], self.config)
        else:
            said = self.task.own_answer(self._module, encoded, image_embeds)
        if not said and not empty:
            raise InputError(
                f"the model answers nothing to {encoded.question!r} ([SEP] at once): give an answer to trace"
            )
        return said

    @torch.no_grad()
    def following(
        self, encoded: Encoded, said: Sequence[int], question_states: Float[Tensor, "1 token hidden"] | None = None
    ) -> Float[Tensor, " word"]:
        """The logits of the token that follows an answer so far, from a pass of its own with the model's edits.

        With `question_states`, what the question encoder hands over is these.
        """
        layers = self.config.text_config.num_hidden_layers
        with self.trace(**self.forward_inputs(encoded, [*said, 0]), use_cache=False, remote=False):
            if question_states is not None:
                self.write_state(self.task.text_components[0], "block", layers - 1, question_states)
            logits = self.task.logits(self).save()
        return logits[0, -1]

    @upstream.traceable
    def generate(self, **inputs: Any) -> Tensor:
        """The answer's tokens as transformers generates them, (1, tokens), [DEC] first.

        `with model.generate(image, question) as tracer:` is nnsight's own: every module is reached once for each
        token, `for step in tracer.iter[:]` goes through them, and `tracer.result` are the tokens. Further arguments,
        such as `max_new_tokens`, go to transformers' `generate`.
        """
        inputs.pop("decoder_input_ids", None)  # it begins with [DEC] itself
        if not {"max_length", "max_new_tokens", "generation_config"} & inputs.keys():
            inputs["max_new_tokens"] = self.longest_answer
        tokens: Tensor = self._module.generate(**inputs)
        return tokens

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer tokens; nothing on a server, which has no processor."""
        return "" if self.processor is None else inputs.answer_text(self.processor, ids)
