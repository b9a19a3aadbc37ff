"""`BlipVQA`: transformers' BLIP for question answering as an nnsight model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from nnsight.modeling.huggingface import HuggingFaceModel
from torch import Tensor

from nnblip import contexts, decoding, inputs, loading
from nnblip.edges import Cuts
from nnblip.errors import InputError, ModelError, SiteError, one_of
from nnblip.inputs import Encoded
from nnblip.noise import Noise
from nnblip.sites import COMPONENTS, IMAGE_KINDS, KINDS, PLACES, TEXT_COMPONENTS, Extent, Site
from nnblip.vision import clean_at

#: Names of the vocabulary for transformers' modules. `output` is a name that nnsight
#: serves on every module (the module's output), so BLIP's submodules of that name
#: (dense layer, residual, LayerNorm) become `add_norm`.
RENAME = {
    "vision_model": "image_encoder",
    "text_encoder": "question_encoder",
    "text_decoder.bert": "answer_decoder",
    "encoder.layer": "layer",
    "encoder.layers": "layer",
    "E_output": "add_norm",
}


class Answer(NamedTuple):
    """What the model answers.

    Attributes:
        text: the answer.
        probability: joint probability of its tokens, [SEP] left out.
        log_probability: its natural logarithm.
        ids: its tokens, [SEP] left out.
    """

    text: str
    probability: float
    log_probability: float
    ids: list[int]


class BlipVQA(HuggingFaceModel):
    """A BLIP that answers questions, open to intervention.

    Every nnsight feature works on it: `model.trace(image, question)`, `session`, `edit`,
    `scan`, `.source`, gradients. The components are `model.image_encoder`,
    `model.question_encoder` and `model.answer_decoder`, each with `.layer[i]`; in a text
    layer `.attention`, `.crossattention` and `.add_norm` (which BLIP calls `output`).
    The torch module is `model._module`.

    Args:
        repo: a hub id, a local folder in transformers' format, or None for the small
            model that ships with nnblip.
        device_map: where accelerate puts the weights ("auto", "cuda:0", ...); the CPU if None.
        dtype: "float32", "bfloat16" or another floating torch dtype.
        revision: branch, tag or commit on the hub.
        remote: build the structure from the configuration alone, without weights, and run on an
            NDIF server (NDIF_HOST, NDIF_API_KEY, as nnsight has them) that has the same model.
        **load: further arguments of `from_pretrained`, such as `token` or `cache_dir`.

    Raises:
        ModelError: if there is no such model, it is not a BLIP for question answering, it
            has no safetensors weights, or a promised name is missing in it.
    """

    def __init__(
        self,
        repo: str | Path | None = None,
        *,
        device_map: Any = None,
        dtype: str | torch.dtype = "float32",
        revision: str | None = None,
        remote: bool = False,
        **load: Any,
    ) -> None:
        for name in ("trust_remote_code", "use_safetensors"):
            if name in load:
                raise ModelError(f"{name}={load[name]!r}: nnblip loads safetensors only and never runs remote code")
        self.processor: Any = None
        self.remote, self.dtype = remote, loading.as_dtype(dtype)
        source = str(Path(__file__).parent / "demo" / "model" if repo is None else repo)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*which nnsight already serves.*")
            super().__init__(
                source,
                revision=revision,
                dispatch=not remote,
                rename=RENAME,
                device_map=device_map,
                dtype=self.dtype,
                **load,
            )
        self.name = "nnblip-demo" if repo is None else source
        if not remote:  # else the server proves the names: a tree that differs is refused there
            self._prove_names()

    def _load(self, repo_id: str, *args: Any, **options: Any) -> torch.nn.Module:
        module, self.processor = loading.load(repo_id, self.revision, options)
        return module

    def _load_meta(self, repo_id: str, *args: Any, **options: Any) -> torch.nn.Module:
        module, self.processor = loading.structure(repo_id, self.revision, options, self.dtype)
        return module

    # --- as a part of a request ------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # nnsight sends the tree of names; weights are on the server, the processor and the
        # arguments of loading (a token of the hub may be among them) stay here
        return {**super().__getstate__(), "processor": None, "remote": False, "args": (), "kwargs": {}}

    @classmethod
    def _remoteable_class(cls) -> type:
        from nnsight.modeling.transformers import TransformersModel

        return TransformersModel

    def _remoteable_model_key(self) -> str:
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
                for component in TEXT_COMPONENTS:
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
            if shape[-1] != size or len(shape) != 3:
                raise ModelError(f"model {self.name!r}: {name} has shape {shape}, expected (1, tokens, {size})")

    # --- what the model is ---------------------------------------------------------

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
        return decoding.longest_answer(self._module)

    def _state_module(self, component: str, kind: str, layer: int) -> Any:
        one_of(component, COMPONENTS, "component", SiteError)
        if component == "image_encoder":
            one_of(kind, IMAGE_KINDS, "kind of image_encoder", SiteError)
        block = getattr(self, component).layer[layer]
        match kind:
            case "block":
                return block
            case "attention" | "crossattention":
                return getattr(block, kind)
            case "attention_head" | "crossattention_head":
                return getattr(block, kind.removesuffix("_head")).self
            case "attention_out" | "crossattention_out":
                return getattr(block, kind.removesuffix("_out")).add_norm.dense
            case "mlp_out":
                return block.add_norm.dense
        raise SiteError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")

    def read_state(self, component: str, kind: str, layer: int) -> Float[Tensor, "row token hidden"]:
        """Inside a trace: the state of all tokens; of the kinds of heads, all heads side by side."""
        output = self._state_module(component, kind, layer).output
        return output[0] if isinstance(output, tuple) else output

    def write_state(self, component: str, kind: str, layer: int, value: Float[Tensor, "row token hidden"]) -> None:
        """Inside a trace: replace the state of all tokens."""
        module = self._state_module(component, kind, layer)
        output = module.output
        module.output = (value, *output[1:]) if isinstance(output, tuple) else value

    # --- inputs --------------------------------------------------------------------

    def encode(self, image: Any, question: str | None = None) -> Encoded:
        """An image and a question as the model reads them; what this gave is taken as it is.

        Raises:
            InputError: for what it cannot read.
        """
        if isinstance(image, Encoded) and question is None:
            return image
        if self.processor is None:
            raise InputError(
                "this server has nothing to read images with (PIL): call model.encode(image, question) before the"
                " session, and give what it gives instead of both"
            )
        return inputs.encode(self.processor, image, question or "", self.config.text_config.max_position_embeddings)

    def encode_partner(self, image: Any, question: str) -> Encoded:
        """Another image for noise "swap". Raises `InputError`, also if none is given."""
        if image is None:
            raise InputError(
                "noise 'swap' needs another image: give partner=, as in nnblip.Example(..., partner=image)"
            )
        return self.encode(image, question)

    def encode_answer(self, answer: str) -> list[int]:
        """The tokens of an answer. Raises `InputError`."""
        return inputs.answer_ids(self.processor, answer, self.config.text_config.max_position_embeddings)

    def forward_inputs(self, encoded: Encoded, answer_ids: Sequence[int]) -> dict[str, Tensor]:
        """Arguments of the torch module's forward, the answer teacher-forced."""
        start = self.config.text_config.bos_token_id
        return {
            "pixel_values": encoded.pixel_values,
            "input_ids": encoded.input_ids,
            "decoder_input_ids": torch.tensor([[start, *answer_ids[:-1]]]),
        }

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

    def _remote_backend(self, remote: bool | str, blocking: bool, job_id: str | None, verbose: bool) -> Any:
        from nnblip.packing import Rehearsal
        from nnblip.remote import for_blocks

        if remote == "local":
            return Rehearsal(self, verbose)
        host = remote if isinstance(remote, str) else None
        return for_blocks(self, host=host, blocking=blocking, job_id=job_id, verbose=verbose)

    def _batch_size(self, *args: Any, **kwargs: Any) -> int:
        if len(args) == 2 or (args and isinstance(args[0], Encoded)):
            return 1
        if "input_ids" in kwargs:
            return len(kwargs["input_ids"])
        return super()._batch_size(*args, **kwargs)

    def _batch(self, invokes: list[tuple], fn: Any) -> tuple:
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
        """The vision model's output, from a plain forward pass."""
        vision = self._module.vision_model
        return vision(encoded.pixel_values.to(vision.device)).last_hidden_state

    @torch.no_grad()
    def own_answer(
        self, encoded: Encoded, image_embeds: Float[Tensor, "1 patch hidden"], empty: bool = False
    ) -> list[int]:
        """The model's own answer, decoded greedily.

        Raises:
            InputError: if the model answers nothing at all ([SEP] at once), unless `empty` allows it.
        """
        ids = encoded.input_ids.to(image_embeds.device)
        states = self._module.text_encoder(input_ids=ids, encoder_hidden_states=image_embeds).last_hidden_state
        said = self.decode(states, [])
        if not said and not empty:
            raise InputError(
                f"the model answers nothing to {encoded.question!r} ([SEP] at once): give an answer to trace"
            )
        return said

    def decode(
        self, question_states: Float[Tensor, "1 token hidden"], said: list[int], cache: Any = None,
        cuts: Cuts | None = None,
    ) -> list[int]:  # fmt: skip
        """Go on answering greedily, see `nnblip.decoding.decode`."""
        return decoding.decode(self._module, question_states, said, cache, cuts)

    def partner(
        self, encoded: Encoded, answer_ids: Sequence[int], noise_at: str = "image_embeds"
    ) -> tuple[Float[Tensor, "1 patch hidden"], int]:
        """For noise "swap": of another image what the noise falls on (float32, CPU), and its answer's first token.

        Raises:
            InputError: if the model's answer there begins alike.
        """
        embeds = self.image_embeds(encoded)
        other = self.own_answer(encoded, embeds)
        if other[0] == answer_ids[0]:
            raise InputError(
                f"partner: the model answers {self.text(other)!r} there too, so there is nothing to trace;"
                " expected an image with another answer"
            )
        if noise_at != "image_embeds":
            embeds = clean_at(self, encoded, noise_at)
        return embeds.float().cpu(), other[0]

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer tokens; nothing on a server, which has no processor."""
        return "" if self.processor is None else inputs.answer_text(self.processor, ids)

    def answer(self, image: Any, question: str) -> Answer:
        """What the model answers, and how probable it finds that.

        Raises:
            InputError: for an image or question that it cannot read.
            RemoteError: for any fault of a remote model's server.
        """
        with torch.no_grad(), self.clean(image, question) as clean:
            pass
        return Answer(clean.answer, clean.probability, clean.log_probability, clean.answer_ids)

    def is_remote(self, remote: bool | None) -> bool:
        """Whether what is asked for with this `remote` runs on a server; by default as the model was made.

        Raises:
            ModelError: if it should run here, and there are no weights here.
        """
        if remote is False and self.remote:
            raise ModelError("remote=False: this model has no weights here, it was made with remote=True")
        return self.remote if remote is None else remote

    def at(self, remote: bool | None) -> BlipVQA:
        """This model where it is asked to run: itself, or the same on a server. Raises `ModelError` as `is_remote`."""
        if self.is_remote(remote) == self.remote:
            return self
        twin = self._shallow_copy()
        twin.remote = True
        return twin

    # --- the two contexts ----------------------------------------------------------

    def clean(
        self, image: Any, question: str | None = None, answer: str | None = None, *, knock_out: Any = (),
        remote: bool | None = None, timeout: float | None = None,
    ) -> contexts.CleanRun:  # fmt: skip
        """A context manager: run the model as it is and save its clean states.

        The body is nnsight code on the model, as in `model.trace(...)`.

        Args:
            image: a path, a PIL image or an array; or what `encode` gave, which has the question.
            question: its text.
            answer: the answer to trace; the model's own, with nothing knocked out, if None.
            knock_out: attention edges to cut, see `nnblip.knock_out`; one or several.
            remote: run on an NDIF server; by default if the model was made so. States and image
                embeddings stay there: what is wanted of them, the body saves.
            timeout: seconds after which a server is no longer waited for; half an hour if None.

        Raises:
            InputError: for an image, question or answer that the model cannot read.
            RemoteError: after the block, for any fault of the server.
        """
        encoded = self.encode(image, question)
        given = None if answer is None else self.encode_answer(answer)
        return contexts.CleanRun(self, encoded, given, knock_out, self._backend(remote, timeout))

    def corrupt(
        self,
        clean: contexts.CleanRun,
        nu: float,
        seed: int = 0,
        draw: int = 0,
        noise: str | Noise = "multiplicative",
        restore: Site | Sequence[Site] | None = None,
        partner: Any = None,
        *,
        noise_at: str = "image_embeds",
        freeze: Iterable[str] = (),
        knock_out: Any = None,
        remote: bool | None = None,
        timeout: float | None = None,
    ) -> contexts.CorruptedRun:
        """A context manager: run on a damaged image, with states put back to their clean values.

        The noise is exactly that of draw `draw` of `causal_trace(..., seed=seed)` for the same
        image and question. The vision model runs again only if the noise falls before it.

        Args:
            clean: what `model.clean(...)` gave, after its block.
            nu: noise factor, at least 0.
            seed: seed of the noise.
            draw: which sample of it.
            noise: name or object, see `nnblip.noise`.
            restore: a site or a collection of sites.
            partner: another image with another answer, for noise "swap"; the logit difference
                is then to the first token of that answer.
            noise_at: where the noise falls, "image_embeds", "patch_embeds" or "pixels".
            freeze: sublayers ("attention", "crossattention", "mlp_out") whose outputs stay what
                they are in the corrupted run, whatever is restored or edited: of the answer
                decoder if `restore` names only states there, of the question encoder else.
            knock_out: attention edges to cut; by default those of `clean`.
            remote, timeout: as for `clean`, whose block runs once more there for its states.

        Raises:
            NnblipError: for a bad ν, noise or site, or a `clean` of another model.
            RemoteError: after the block, for any fault of the server.
        """
        return contexts.CorruptedRun(
            self, clean, nu, seed, draw, noise, restore, partner, noise_at, freeze, knock_out,
            self._backend(remote, timeout),
        )  # fmt: skip

    def _backend(self, remote: bool | None, timeout: float | None) -> Any:
        """What sends a run to a server; None if it runs here."""
        if not self.is_remote(remote):
            return None
        from nnblip.remote import Backend

        return Backend(self, timeout)
