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

from nnblip.edges import as_knock_outs, cuts
from nnblip.engine import Forward, run_alone
from nnblip.errors import NnblipError, SiteError, one_of
from nnblip.inputs import Encoded
from nnblip.interventions import States, cut_attention, quiet_dead, skip_vision, write_states
from nnblip.noise import Noise, Swap, check_nu, corrupt, get_noise, unit_noise
from nnblip.outcome import Outcome, outcome_of, rival_of
from nnblip.plan import INPUT, Plan, Point, points, restore_in_place
from nnblip.sites import HEAD_KINDS, SUBLAYERS, TEXT_COMPONENTS, Cell, Site, as_cell
from nnblip.vision import clean_at, patch_embeds

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


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
        knock_out: the attention edges that are cut.
    """

    def __init__(self, model: BlipVQA, encoded: Encoded, answer_ids: list[int], knock_out: Any) -> None:
        super().__init__(model, "__call__", **model.forward_inputs(encoded, answer_ids))
        self._model: BlipVQA | None = model
        self.encoded = encoded
        self.answer_ids = answer_ids
        self.knock_out = as_knock_outs(knock_out)
        self._extent = model.extent(encoded.input_ids.shape[1], len(answer_ids))
        self._cuts = cuts(self.knock_out, self._extent)
        self._outcome: Outcome | None = None

    def _before(self) -> None:
        """Intervention code that comes before the body's."""
        model = self.envoy
        for point in points(self._extent.layers, self._extent.image_layers):
            sublayer = point.kind.removesuffix("_head")
            cut = self._cuts.get((point.component, sublayer, point.layer))
            if cut is not None and point.kind in HEAD_KINDS:
                cut_attention(model, point.component, sublayer, point.layer, cut)
                quiet_dead(model, point.component, sublayer, point.layer, cut)
            self._at_point(model, point)

    def _at_point(self, model: BlipVQA, point: Point) -> None:
        """What `_before` does to a state."""

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

    def __init__(self, model: BlipVQA, encoded: Encoded, answer_ids: list[int], knock_out: Any = ()) -> None:
        super().__init__(model, encoded, answer_ids, knock_out)
        self.answer = model.text(answer_ids)
        self.input_ids = encoded.input_ids
        self.tokens = encoded.tokens
        self.states = States()
        self.image_embeds: Float[Tensor, "1 patch hidden"]
        self.rival = -1

    def _after(self) -> None:
        model = self.envoy
        for point in points(self._extent.layers, self._extent.image_layers):
            if point == Point(TEXT_COMPONENTS[0], INPUT, 0):
                self.image_embeds = model.image_encoder.output.last_hidden_state.detach()
                self.states.image_embeds = self.image_embeds
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
        image_embeds: what the question encoder sees, (1, patches, hidden): the noisy
            embeddings, with those put back that `restore` names. With noise on pixels or patch
            embeddings it is there after the block.
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
        noise_at: str = "image_embeds",
        freeze: Iterable[str] = (),
        knock_out: Any = None,
    ) -> None:
        if not isinstance(clean, CleanRun):
            raise NnblipError(
                f"clean is a {type(clean).__name__}: expected what `with model.clean(...) as clean:` gave"
            )
        if clean._model is not model:
            raise NnblipError("clean is of another model: its states mean nothing here; run model.clean on this one")
        clean.outcome  # noqa: B018 - raises if the clean block has not run
        cell = () if restore is None else as_cell(restore)
        super().__init__(model, clean.encoded, clean.answer_ids, clean.knock_out if knock_out is None else knock_out)
        extent = model.extent(clean.input_ids.shape[1], len(clean.answer_ids), noise_at)
        for site in cell:
            extent.check(site)
        kind = get_noise(noise)
        self.rival = clean.rival
        embeds = clean.image_embeds if noise_at == "image_embeds" else clean_at(model, clean.encoded, noise_at)
        if isinstance(kind, Swap):
            other = model.encode_partner(partner, clean.encoded.question)
            unit, self.rival = model.partner(other, clean.answer_ids, noise_at)
        else:
            unit = unit_noise(kind, tuple(embeds.shape), seed, clean.encoded.key, draw)
        noisy = corrupt(kind, embeds, unit, check_nu(nu))
        self._runs_vision = noise_at != "image_embeds"
        self._image = patch_embeds(model, noisy, noise_at) if self._runs_vision else noisy
        self._frozen = _frozen(freeze, cell)
        self._kept = States()
        if self._frozen:
            forward = Forward(clean.encoded, self._image, clean.answer_ids, self._runs_vision, self._cuts)
            self._kept, _ = run_alone(model, forward)
        if not self._runs_vision:
            tokens = [site.token for site in cell if site.component == "image_encoder"]
            self._image[:, tokens] = clean.image_embeds[:, tokens]
            self.image_embeds: Float[Tensor, "1 patch hidden"] = self._image
            cell = tuple(site for site in cell if site.component != "image_encoder")
        self.clean = clean
        self.answer = ""
        self._plan: Plan = restore_in_place(cell)
        self._logits: Tensor
        self._question_states: Tensor
        self._cache: Any = None

    def _before(self) -> None:
        model = self.envoy
        if self._runs_vision:
            model.image_encoder.embeddings.skip(self._image)
        else:
            skip_vision(model, self._image)
        super()._before()

    def _at_point(self, model: BlipVQA, point: Point) -> None:
        if (point.component, point.kind) in self._frozen:
            model.write_state(*point, self._kept[point])
        if point in self._plan.steps:
            write_states(model, point, self._plan, self.clean.states)

    def _after(self) -> None:
        model = self.envoy
        if self._runs_vision:
            self.image_embeds = model.image_encoder.output.last_hidden_state.detach()
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
        longest = model.extent(self.encoded.input_ids.shape[1], model.longest_answer)
        return model.decode(self._question_states, said, self._cache, cuts(self.knock_out, longest))


def _frozen(freeze: Iterable[str], cell: Cell) -> set[tuple[str, str]]:
    """(component, kind) of what is kept: in the answer decoder, if nothing before it is restored."""
    names = (freeze,) if isinstance(freeze, str) else tuple(freeze)
    decoder = bool(cell) and all(site.component == "answer_decoder" for site in cell)
    component = "answer_decoder" if decoder else "question_encoder"
    return {(component, SUBLAYERS[one_of(name, SUBLAYERS, "sublayer", SiteError)]) for name in names}
