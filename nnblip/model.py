"""`BlipVQA`: what a user calls. BLIP for question answering, clean and corrupted, here or on a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.task import QuestionAnswering
from nnblip.edges import KnockOutLike
from nnblip.errors import ModelError
from nnblip.examples import Example, ImageLike
from nnblip.noise import NoiseLike
from nnblip.passes.settings import Settings
from nnblip.paths import Edge
from nnblip.runs import contexts
from nnblip.sites import Site


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


class BlipVQA(Blip):
    """A BLIP that answers questions, open to intervention.

    Every nnsight feature works on it: `model.trace(image, question)`, `session`, `edit`,
    `scan`, `.source`, gradients. The components are `model.image_encoder`,
    `model.question_encoder` and `model.answer_decoder`, each with `.layer[i]`; in a text
    layer `.attention`, `.crossattention` and `.add_norm` (which BLIP calls `output`).
    The torch module is `model._module`.

    Args:
        repo: a hub id, a local folder in transformers' format, None for the small model that ships
            with nnblip, or a module that is in memory, a `BlipForQuestionAnswering`, which is
            used where and as it is and set to evaluation.
        device_map: where accelerate puts the weights ("auto", "cuda:0", ...); the CPU if None.
        dtype: "float32", "bfloat16", "float16" or "float64", or the torch dtype.
        revision: branch, tag or commit on the hub.
        remote: build the structure from the configuration alone, without weights, and run on an
            NDIF server (NDIF_HOST, NDIF_API_KEY, as nnsight has them) that has the same model.
        processor: of a module that is in memory, its `transformers.BlipProcessor`.
        **load: further arguments of `from_pretrained`, such as `token` or `cache_dir`.

    Raises:
        ModelError: if there is no such model, it is not a BLIP for question answering, its
            safetensors weights, configuration and tokenizer do not fit each other, a weight is
            no number, or a promised name is missing in it.
    """

    task = QuestionAnswering()

    def __init__(
        self,
        repo: str | Path | torch.nn.Module | None = None,
        *,
        device_map: Any = None,
        dtype: str | torch.dtype = "float32",
        revision: str | None = None,
        remote: bool = False,
        processor: Any = None,
        **load: Any,
    ) -> None:
        from nnblip import demo  # not on a server, which has the model already

        super().__init__(
            demo.MODEL if repo is None else repo,
            device_map=device_map, dtype=dtype, revision=revision, remote=remote, processor=processor, **load,
        )  # fmt: skip
        if repo is None:
            self.name = demo.NAME

    def answer(self, image: ImageLike | Example | Encoded, question: str | None = None) -> Answer:
        """What the model answers, to the question of an example too, and how probable it finds that.

        Raises:
            InputError: for an image or question that it cannot read.
            RemoteError: for any fault of a remote model's server.
        """
        with torch.no_grad(), self.clean(self.encode(image, question)) as clean:
            pass
        return Answer(clean.answer, clean.probability, clean.log_probability, clean.answer_ids)

    def own_answers(self, asked: Sequence[Encoded]) -> list[list[int]]:
        """The model's own answers, [SEP] left out; an empty list where it answers nothing. Of a server, one request.

        Raises:
            RemoteError: for any fault of a remote model's server.
        """
        if not asked:
            return []
        if self.remote:
            from nnblip.remote import client

            found: list[list[int]] = client.ask(self, "own_answers", asked)
            return found
        return [self.own_answer(one, self.image_embeds(one), empty=True) for one in asked]

    # --- where it runs -------------------------------------------------------------

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

    def _remote_backend(self, remote: bool | str, blocking: bool, job_id: str | None, verbose: bool) -> Any:
        from nnblip.remote import client, packing

        if remote == "local":
            return packing.Rehearsal(self, verbose)
        host = remote if isinstance(remote, str) else None
        return client.for_blocks(self, host=host, blocking=blocking, job_id=job_id, verbose=verbose)

    # --- the two contexts ----------------------------------------------------------

    def clean(
        self, image: ImageLike | Example | Encoded, question: str | None = None, answer: str | None = None, *,
        knock_out: KnockOutLike = (),
        remote: bool | None = None, timeout: float | None = None,
    ) -> contexts.CleanRun:  # fmt: skip
        """A context manager: run the model as it is and save its clean states.

        The body is nnsight code on the model, as in `model.trace(...)`.

        Args:
            image: a path, a PIL image or an array; or an `nnblip.Example` or what `encode` gave, which bring
                the question.
            question: its text.
            answer: the answer to trace; if None that of the example, or else the model's own, with nothing knocked out.
            knock_out: attention edges to cut, see `nnblip.knock_out`; one or several.
            remote: run on an NDIF server; by default if the model was made so. States and image
                embeddings stay there: what is wanted of them, the body saves.
            timeout: seconds after which a server is no longer waited for; half an hour if None.

        Raises:
            InputError: for an image, question or answer that the model cannot read.
            RemoteError: after the block, for any fault of the server.
        """
        encoded = self.encode(image, question)
        if answer is None and isinstance(image, Example):
            answer = image.answer
        given = None if answer is None else self.encode_answer(answer)
        return contexts.CleanRun(self, encoded, given, knock_out, self._backend(remote, timeout))

    def corrupt(
        self,
        clean: contexts.CleanRun,
        nu: float,
        seed: int = Settings.seed,
        draw: int = 0,
        noise: NoiseLike = Settings.noise,
        restore: Site | Sequence[Site] | Edge | None = None,
        partner: ImageLike | None = None,
        *,
        other_question: str | None = None,
        noise_at: str = Settings.noise_at,
        freeze: Iterable[str] = Settings.freeze,
        knock_out: KnockOutLike | None = None,
        remote: bool | None = None,
        timeout: float | None = None,
    ) -> contexts.CorruptedRun:
        """A context manager: run on a damaged image or question, with states put back to their clean values.

        The noise is exactly that of draw `draw` of `causal_trace(..., seed=seed)` for the same
        image and question. The vision model runs again only if the noise falls before it.

        Args:
            clean: what `model.clean(...)` gave, after its block.
            nu: noise factor, at least 0.
            seed: seed of the noise.
            draw: which sample of it.
            noise: name or object, see `nnblip.noise`.
            restore: a site or a collection of sites; or an edge, along which alone what the clean run adds is sent.
            partner: another image with another answer, for noise "swap"; the logit difference
                is then to the first token of that answer.
            other_question: another question of as many tokens with another answer, for noise "swap" at the question.
            noise_at: where the noise falls, "image_embeds", "patch_embeds", "pixels" or "question".
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
            self, clean, nu, seed, draw, noise, restore, partner, other_question, noise_at, freeze, knock_out,
            self._backend(remote, timeout),
        )  # fmt: skip

    def _backend(self, remote: bool | None, timeout: float | None) -> Any:
        """What sends a run to a server; None if it runs here."""
        if not self.is_remote(remote):
            return None
        from nnblip.remote.client import Backend

        return Backend(self, timeout)


def as_model(given: object) -> BlipVQA:
    """The model itself. Raises `ModelError` for what is none, such as the torch module or the name of one."""
    if not isinstance(given, BlipVQA):
        raise ModelError(f"the model is a {type(given).__name__}; expected what nnblip.BlipVQA(...) gives")
    return given
