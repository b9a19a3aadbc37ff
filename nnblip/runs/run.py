"""What both context managers are: an nnsight tracer that runs the user's body beside work of its own, here or away.

Away means on a server: the tracer is sent instead of executed, does there what it would
have done here, and its numbers come back. States and embeddings do not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip import upstream
from nnblip.blip.decoding import Ending, greedy, said_in
from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.outcome import NAMES, Outcome
from nnblip.edges import Cuts, as_knock_outs, at_length, cuts
from nnblip.errors import NnblipError
from nnblip.passes.cutting import cut_attention, quiet_dead
from nnblip.passes.plan import Point, points
from nnblip.passes.states import States
from nnblip.runs.envelope import opened, sealed
from nnblip.sites import HEAD_KINDS, TEXT_COMPONENTS

#: Under this name, which no program can give to a variable, a run's own numbers come back.
BROUGHT = "(nnblip)"
STAYED = "stayed on the server: in the block, .save() what is wanted of it"


class Elsewhere(States):
    """States of a run that took place on a server."""

    def __missing__(self, key: Any) -> Tensor:
        raise NnblipError(f"states[{key!r}] {STAYED}")


class Run(upstream.InterleavingTracer):
    """A tracer whose body runs between `_before` and `_after`.

    Attributes:
        answer_ids: the answer that is traced, list of int, [SEP] left out.
        image_embeds: what the question encoder saw, (1, patches, hidden).
        probability: of the answer, a float in [0, 1].
        log_probability: its natural logarithm.
        logit_difference: answer's first token minus the strongest other token of the clean run.
        knock_out: the attention edges that are cut.
    """

    def __init__(self, model: Blip, encoded: Encoded, knock_out: Any, backend: Any) -> None:
        """`backend` sends the run to a server; None runs it here."""
        super().__init__(model, "__call__", backend=backend)
        self._model = model
        self.away = backend is not None
        self.sent: tuple[bytes, bool] | None = None  # the request, and whether it is compressed
        self.encoded = encoded
        self.knock_out = as_knock_outs(knock_out)
        self.rival = -1
        self._answer_ids: list[int] | None = None
        self._said: list[int] = []
        self._ending: Any = None
        self._image_embeds: Tensor | None = None
        self._outcome: Outcome | None = None

    # --- where the model is ----------------------------------------------------------

    def _prepare(self, model: Blip) -> None:
        """What the weights are needed for before the run: at once if they are here."""
        self._extent = model.extent(self.encoded.input_ids.shape[1], len(self.answer_ids))
        self._cuts = cuts(self.knock_out, self._extent)

    def _before(self) -> None:
        """Intervention code that comes before the body's."""
        model = self.envoy
        for point in points(self._extent.layers, self._extent.image_layers):
            self._visit(model, point, self._cuts)

    def _visit(self, model: Blip, point: Point, every_cut: Cuts) -> None:
        """What this run does at a point: edges are cut, then states written."""
        sublayer = point.kind.removesuffix("_head")
        cut = every_cut.get((point.component, sublayer, point.layer))
        if cut is not None and point.kind in HEAD_KINDS:
            cut_attention(model, point.component, sublayer, point.layer, cut)
            quiet_dead(model, point.component, sublayer, point.layer, cut)
        self._at_point(model, point)

    def _at_point(self, model: Blip, point: Point) -> None:
        """What `_before` does to a state."""

    def _after(self) -> None:
        """Intervention code that comes after the body's."""

    def _finish(self, model: Blip) -> None:
        """What is left to compute once the model has run."""

    @torch.no_grad()
    def _say(self, model: Blip, ending: Ending) -> list[int]:
        """What the model says greedily in this run, see `nnblip.blip.decoding.said_after`.

        Of an edited model, what follows the first disagreement is decoded by further passes with the model's edits
        at each token; edits of the body in the answer decoder do not reach there.
        """
        if not upstream.is_edited(model):
            longest = model.extent(self.encoded.input_ids.shape[1], model.longest_answer)
            return model.task.said(model._module, ending, self.answer_ids, cuts(self.knock_out, longest))
        said, over = said_in(ending.logits, self.answer_ids, model.config)
        if over:
            return said
        return greedy(partial(self._following, model, ending.question_states), said, model.config)

    def _following(self, model: Blip, question_states: Tensor, said: list[int]) -> Tensor:
        """The logits of the next token, with what this run does in the answer decoder."""
        extent = model.extent(self.encoded.input_ids.shape[1], model.longest_answer)
        cut = at_length(cuts(self.knock_out, extent), len(said) + 1)
        encoder, last = TEXT_COMPONENTS[0], extent.layers - 1
        with model.trace(**model.forward_inputs(self.encoded, [*said, 0]), use_cache=False, remote=False):
            model.write_state(encoder, "block", last, question_states)
            for point in points(extent.layers):
                if point.component != encoder:
                    self._visit(model, point, cut)
            logits = model.task.logits(model).save()
        return logits[0, -1]

    def execute(self, code: Any) -> None:
        """As nnsight's own, with the two workers around the body. On a server, the numbers are sent back."""
        if self.away:
            upstream.bring_back(self, BROUGHT, sealed(self._model, self._there, code))
        else:
            self._run(self._model, code)

    def _run(self, model: Blip, code: Any) -> None:
        if self._outcome is not None:
            raise NnblipError("this run is over: call model.clean or model.corrupt again")
        inputs = model.forward_inputs(self.encoded, self.answer_ids)
        upstream.run_beside(self, model, code, inputs, self._before, self._after)
        self._finish(model)

    # --- there and back --------------------------------------------------------------

    def _there(self, model: Blip, code: Any) -> dict[str, Any]:
        """On the server: the whole run, and what of it goes back."""
        self._prepare(model)
        self._run(model, code)
        return {"rival": self.rival, "answer_ids": self.answer_ids, "said": self._said, **vars(self.outcome)}

    def arrived(self, brought: Any) -> None:
        """Here: what came back. Raises the error that came instead."""
        found = opened(brought)
        self._outcome = Outcome(*(found[name] for name in NAMES))
        self.rival, self._answer_ids, self._said = found["rival"], found["answer_ids"], found["said"]

    def again(self, model: Blip) -> Run:
        """On a server, where an earlier run is sent to again: it, run anew as it was sent then."""
        assert self.sent is not None
        blob, compressed = self.sent
        with upstream.lines_kept():  # the body at hand may be of the same file
            run: Run = upstream.unpack(blob, model, compressed)
            run._prepare(run._model)
            run._run(run._model, run.info.code)
        return run

    def __getstate__(self) -> dict[str, Any]:
        if self.info is not None and self.info.frame is None:  # it is over: nothing is left to run
            return {**self.__dict__, "info": None, "backend": None, "node": None, "batcher": None}
        return super().__getstate__()

    # --- what is there after the block -----------------------------------------------

    @property
    def answer_ids(self) -> list[int]:
        if self._answer_ids is None:
            raise NnblipError("the answer is known after the `with` block: the server finds it")
        return self._answer_ids

    @property
    def image_embeds(self) -> Float[Tensor, "1 patch hidden"]:
        if self._image_embeds is None:
            over = self.away and self._outcome is not None
            raise NnblipError(f"image_embeds {STAYED if over else 'are there after the `with` block'}")
        return self._image_embeds

    @property
    def outcome(self) -> Outcome:
        """The three numbers as tensors of one row.

        Raises:
            NnblipError: inside the block, before the model has run.
        """
        if self._outcome is None:
            raise NnblipError("the run's numbers are there after its `with` block, not inside it")
        return self._outcome

    @property
    def probability(self) -> float:
        return float(self.outcome.probability[0])

    @property
    def log_probability(self) -> float:
        return float(self.outcome.log_probability[0])

    @property
    def logit_difference(self) -> float:
        return float(self.outcome.logit_difference[0])
