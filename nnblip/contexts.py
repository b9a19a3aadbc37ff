"""clean and corrupt: the two context managers, as nnsight tracers.

Each runs the body that the user writes beside one or two workers of its own: before the
body's code at a place of the model, the noise and the restoring; after it, the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from nnsight.intervention.interleaver import Mediator
from nnsight.intervention.tracer import InterleavingTracer
from nnsight.intervention.util import clear_shared_locals
from nnsight.tracing.tracer import push_result
from torch import Tensor

from nnblip.errors import NnblipError, SiteError, one_of
from nnblip.inputs import Encoded
from nnblip.noise import Noise, Swap, check_nu, corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.plan import INPUT, Plan, Point, points, restore_in_place
from nnblip.sites import KINDS, TEXT_COMPONENTS, Site, as_cell

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


class States(dict[tuple[str, str, int], Tensor]):
    """Clean states by (component, kind, layer), each (1, tokens, hidden)."""

    def __missing__(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 3):
            raise SiteError(f"states[{key!r}]: expected states[component, kind, layer]")
        one_of(key[0], TEXT_COMPONENTS, "component", SiteError)
        one_of(key[1], KINDS, "kind", SiteError)
        layers = 1 + max(layer for _, _, layer in self) if self else 0
        raise SiteError(f"layer {key[2]!r} of {key[0]}: there are {layers}, 0 to {layers - 1}")


class _Worker(Mediator):
    """Intervention code of nnblip's own that runs beside the body."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(None, {}, {})
        self.work = work

    def _run(self) -> None:
        self.work()
        self.flush()


class _Run(InterleavingTracer):
    """A tracer whose body runs between `_before` and `_after`.

    Attributes:
        answer_ids: the answer that is traced, list of int, [SEP] left out.
        image_embeds: what the question encoder saw, (1, patches, hidden).
        probability: of the answer, a float in [0, 1].
        log_probability: its natural logarithm.
        logit_difference: answer's first token minus the strongest other token of the clean run.
    """

    def __init__(self, model: BlipVQA, encoded: Encoded, answer_ids: list[int]) -> None:
        super().__init__(model, "__call__", **model.forward_inputs(encoded, answer_ids))
        self._model: BlipVQA | None = model
        self.encoded = encoded
        self.answer_ids = answer_ids
        self._outcome: Outcome | None = None

    def _before(self) -> None:
        """Intervention code that comes before the body's."""

    def _after(self) -> None:
        """Intervention code that comes after the body's."""

    def execute(self, code: Any) -> None:
        """As nnsight's own, with the two workers around the body."""
        model, frame = self._model, self.info.frame
        if model is None:
            raise NnblipError("this run is over: call model.clean or model.corrupt again")
        interleaver = model.interleaver
        self.batcher = model._batcher_class(model, self.kwargs)
        body = Mediator(code, frame.f_globals, dict(frame.f_locals), node=self.node)
        body.batch_group = self.batcher.add(**self.kwargs)
        interleaver.mediators = [_Worker(self._before), body, _Worker(self._after)]
        try:
            model.interleave(self.fn, batcher=self.batcher)
            push_result(frame, body.lcls.writes())
        finally:
            interleaver.cancel()
            clear_shared_locals()
        self._finish(model)

    def _finish(self, model: BlipVQA) -> None:
        """What is left to compute once the model has run."""

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


class CleanRun(_Run):
    """What `model.clean(...)` gives; everything below is there after the block.

    Attributes:
        answer: text of the answer that is traced.
        input_ids: (1, tokens).
        tokens: the text of each question token.
        states: clean states by (component, kind, layer), each (1, tokens, hidden).
        rival: the strongest other first token (an id).
    """

    def __init__(self, model: BlipVQA, encoded: Encoded, answer_ids: list[int]) -> None:
        super().__init__(model, encoded, answer_ids)
        self.answer = model.text(answer_ids)
        self.input_ids = encoded.input_ids
        self.tokens = encoded.tokens
        self.states = States()
        self.image_embeds: Float[Tensor, "1 patch hidden"]
        self.rival = -1

    def _after(self) -> None:
        model = self.envoy
        self.image_embeds = model.image_encoder.output.last_hidden_state.detach()
        for point in points(model.config.text_config.num_hidden_layers):
            if point.kind != INPUT:
                self.states[point.component, point.kind, point.layer] = model.read_state(*point).detach()
        logits = model.text_decoder.output.logits.detach()
        self.rival = rival_of(logits, self.answer_ids)
        self._outcome = outcome_of(logits, self.answer_ids, self.rival)


class CorruptedRun(_Run):
    """What `model.corrupt(clean, ...)` gives; everything below is there after the block.

    Attributes:
        answer: text of what the model would say now, with the noise, the restored states
            and the body's edits.
        image_embeds: the noisy embeddings, (1, patches, hidden).
    """

    def __init__(
        self,
        model: BlipVQA,
        clean: CleanRun,
        nu: float,
        seed: int,
        draw: int,
        noise: str | Noise,
        restore: Site | Iterable[Site] | None,
        partner: Any = None,
    ) -> None:
        if not isinstance(clean, CleanRun):
            raise NnblipError(
                f"clean is a {type(clean).__name__}: expected what `with model.clean(...) as clean:` gave"
            )
        if clean._model is not model:
            raise NnblipError("clean is of another model: its states mean nothing here; run model.clean on this one")
        clean.outcome  # noqa: B018 - raises if the clean block has not run
        cell = () if restore is None else as_cell(restore)
        extent = model.extent(clean.input_ids.shape[1], len(clean.answer_ids))
        for site in cell:
            extent.check(site)
        super().__init__(model, clean.encoded, clean.answer_ids)
        kind = get_noise(noise)
        self.rival = clean.rival
        if isinstance(kind, Swap):
            unit, self.rival = model.partner(partner, clean.encoded.question, clean.answer_ids)
        else:
            unit = unit_noise(kind, tuple(clean.image_embeds.shape), seed, clean.encoded.key, draw)
        self.clean = clean
        self.image_embeds = corrupt(kind, clean.image_embeds, unit, check_nu(nu))
        self.answer = ""
        self._plan: Plan = restore_in_place(cell)
        self._logits: Tensor
        self._question_states: Tensor
        self._cache: Any = None

    def _before(self) -> None:
        model = self.envoy
        skip_vision(model, self.image_embeds)
        for point in points(model.config.text_config.num_hidden_layers):
            if point in self._plan.steps:
                write_states(model, point, self._plan, self.clean.states)

    def _after(self) -> None:
        model = self.envoy
        self._question_states = model.text_encoder.output.last_hidden_state.detach()
        output = model.text_decoder.output
        self._logits, self._cache = output.logits.detach(), output.past_key_values

    def _finish(self, model: BlipVQA) -> None:
        self._outcome = outcome_of(self._logits, self.answer_ids, self.rival)
        self.answer = model.text(self._say(model))
        self._cache = None

    def _say(self, model: BlipVQA) -> list[int]:
        """The greedy answer: as the pass says it while that agrees with the traced answer, then decoded on.

        The keys and values of the pass carry its interventions, so what follows the first
        disagreement is decoded with them in place.
        """
        said: list[int] = []
        for position, expected in enumerate(self.answer_ids):
            token = int(self._logits[0, position].argmax())
            if token == model.config.text_config.sep_token_id:
                return said
            said.append(token)
            if token != expected:
                break
        if unused := len(self.answer_ids) - len(said):
            self._cache.crop(-unused)
        return model.decode(self._question_states, said, self._cache)


def skip_vision(model: BlipVQA, image_embeds: Float[Tensor, "1 patch hidden"]) -> None:
    """Inside a trace: these embeddings instead of running the vision model."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    model.image_encoder.skip(BaseModelOutputWithPooling(last_hidden_state=image_embeds))


def write_states(model: BlipVQA, point: Point, plan: Plan, clean: States) -> None:
    """Inside a trace: overwrite the states that the plan names at a point by their clean values."""
    step = plan.steps[point]
    if step.rows:
        state = model.read_state(*point).clone()
        source = clean[point.component, point.kind, point.layer].to(state)
        if step.heads:
            heads = model.config.text_config.num_attention_heads
            by_head, source = (x.unflatten(-1, (heads, -1)) for x in (state, source))  # views: writes reach `state`
            by_head[step.rows, step.tokens, step.heads] = source[0, step.tokens, step.heads]
        else:
            state[step.rows, step.tokens] = source[0, step.tokens]
        model.write_state(*point, state)
