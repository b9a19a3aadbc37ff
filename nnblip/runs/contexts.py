"""clean and corrupt: the two context managers, as nnsight tracers.

Each runs the body that the user writes beside one or two workers of its own: before the
body's code at a place of the model, the noise and the restoring; after it, the reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from nnblip.blip.inputs import Encoded
from nnblip.blip.network import Blip
from nnblip.blip.places import clean_at, damaged
from nnblip.blip.places import partner as partner_of
from nnblip.edges import KnockOutLike
from nnblip.errors import SettingError, SiteError, one_of, whole
from nnblip.examples import ImageLike
from nnblip.noise import NoiseLike, Swap, check_nu, get_noise
from nnblip.passes.engine import Forward, run_alone
from nnblip.passes.plan import INPUT, Plan, Point, points, restore_in_place
from nnblip.passes.sending import send
from nnblip.passes.states import Donor, States, skip_vision, start_vision, start_words, write_states
from nnblip.paths import Edge
from nnblip.runs import description
from nnblip.runs.run import Elsewhere, Run
from nnblip.sites import BEFORE_VISION, SUBLAYERS, TEXT_COMPONENTS, Cell, Extent, Site, resolved


class CleanRun(Run):
    """What `model.clean(...)` gives; everything below is there after the block.

    Attributes:
        answer: text of the answer that is traced.
        predicted: text of what this model says, with what is knocked out and the body's edits; the same where nothing
            is given, cut or edited.
        input_ids: (1, tokens).
        tokens: the text of each question token.
        states: clean states by (component, kind, layer), each (1, tokens, hidden). Those of a
            remote run stay on the server, where `model.corrupt` makes them anew.
        rival: the strongest other first token (an id).
    """

    def __init__(
        self, model: Blip, encoded: Encoded, answer_ids: list[int] | None = None, knock_out: KnockOutLike = (),
        backend: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(model, encoded, knock_out, backend)
        self._answer_ids = answer_ids
        self.input_ids = encoded.input_ids
        self.tokens = encoded.tokens
        self.states: States = Elsewhere() if self.away else States()
        if not self.away:
            self._prepare(model)

    @property
    def answer(self) -> str:
        return self._model.text(self.answer_ids)

    def __repr__(self) -> str:
        return description.as_text(self, description.of_clean(self))

    def _repr_html_(self) -> str:
        return description.as_html(self, description.of_clean(self))

    @property
    def predicted(self) -> str:
        return self._model.text(self._said)

    def resolve(self, site: Site) -> Site:
        """A site with a word of this question or a layer from the end, both counted from 0.

        Raises:
            SiteError: if there is no such layer or word, or the word stands there several times or has several pieces.
        """
        found = self._places().one(site)
        self._places("pixels").check(found)
        return found

    def _places(self, noise_at: str = "image_embeds") -> Extent:
        """How many layers and tokens there are, and what can be restored with the noise at a place."""
        extent = self._model.extent(self.input_ids.shape[1], len(self.answer_ids), noise_at)
        return replace(extent, texts=tuple(self.tokens))

    def _prepare(self, model: Blip) -> None:
        if self._answer_ids is None:
            self._answer_ids = model.own_answer(self.encoded, model.image_embeds(self.encoded))
        self.states = States()
        super()._prepare(model)

    def _after(self) -> None:
        model = self.envoy
        for point in points(self._extent.layers, self._extent.image_layers):
            if point == Point(TEXT_COMPONENTS[0], INPUT, 0):
                self._image_embeds = model.image_encoder.output.last_hidden_state.detach()
                self.states.image_embeds = self._image_embeds
            if point == Point(TEXT_COMPONENTS[1], INPUT, 0):
                handed_over = model.task.handed_over(model)
            if point.kind != INPUT:
                self.states[point.component, point.kind, point.layer] = model.read_state(*point).detach()
        self._ending = model.task.ending(model, handed_over)

    def _finish(self, model: Blip) -> None:
        logits = self._ending.logits
        self.rival = model.task.rival(logits, self.answer_ids)
        self._outcome = model.task.outcome(logits, self.answer_ids, self.rival)
        self._said = self._say(model, self._ending)
        self._ending = None


class CorruptedRun(Run):
    """What `model.corrupt(clean, ...)` gives; everything below is there after the block.

    Attributes:
        clean: the clean run.
        answer: text of what the model would say now, with the noise, the restored states
            and the body's edits.
        image_embeds: what the question encoder sees, (1, patches, hidden): the noisy
            embeddings, with those put back that `restore` names. With noise on pixels or patch
            embeddings it is there after the block. That of a remote run stays on the server.
    """

    def __init__(
        self,
        model: Blip,
        clean: CleanRun,
        nu: float,
        seed: int,
        draw: int,
        noise: NoiseLike,
        restore: Site | Iterable[Site] | Edge | None,
        partner: ImageLike | None = None,
        other_question: str | None = None,
        noise_at: str = "image_embeds",
        freeze: Iterable[str] = (),
        knock_out: KnockOutLike | None = None,
        backend: Any = None,
    ) -> None:
        if not isinstance(clean, CleanRun):
            raise SettingError(
                f"clean is a {type(clean).__name__}: expected what `with model.clean(...) as clean:` gave"
            )
        if clean._model is not model:
            raise SettingError("clean is of another model: its states mean nothing here; run model.clean on this one")
        clean.outcome  # noqa: B018 - raises if the clean block has not run
        if clean.away != (backend is not None):
            ran = "on a server" if clean.away else "here"
            raise SettingError(f"clean ran {ran}, so its states are there: give both the same remote=")
        super().__init__(model, clean.encoded, clean.knock_out if knock_out is None else knock_out, backend)
        self._answer_ids = clean.answer_ids
        self.clean = clean
        extent = clean._places(noise_at)
        self._edge = restore if isinstance(restore, Edge) else None
        self._cell: Cell = () if restore is None or isinstance(restore, Edge) else resolved(restore, extent)
        for one in self._cell if self._edge is None else [self._edge]:
            one.check(extent) if isinstance(one, Edge) else extent.check(one)
        self._frozen = _frozen(freeze, self._cell)
        if self._edge is not None and self._frozen:
            raise SettingError("freeze keeps what sublayers add after a restored state; leave it out for an edge")
        self._noise, self._nu, self._seed, self._draw, self._noise_at = (
            get_noise(noise), check_nu(nu), whole(seed, "seed", 0), whole(draw, "draw", 0), noise_at,
        )  # fmt: skip
        self._partner: Encoded | None = None
        if isinstance(self._noise, Swap):
            self._partner = model.encode_partner(clean.encoded, noise_at, partner, other_question)
        self._kept = States()
        self._plan: Plan
        self._donor: Donor
        self._image: Tensor
        self._words: Tensor | None = None
        if not self.away:
            self._prepare(model)

    def __repr__(self) -> str:
        return description.as_text(self, description.of_corrupted(self))

    def _repr_html_(self) -> str:
        return description.as_html(self, description.of_corrupted(self))

    @property
    def answer(self) -> str:
        return self._model.text(self._said)

    def _prepare(self, model: Blip) -> None:
        super()._prepare(model)
        clean, cell = self.clean, self._cell
        if self.away:
            anew = clean.again(model)
            clean.states, clean._image_embeds = anew.states, anew.image_embeds
        self.rival = clean.rival
        self._runs_vision = self._noise_at in BEFORE_VISION
        undamaged = (
            clean.image_embeds if self._noise_at == "image_embeds" else clean_at(model, self.encoded, self._noise_at)
        )
        partner = None
        if self._partner is not None:
            partner, self.rival = partner_of(model, self._partner, self.answer_ids, self._noise_at)
        found = damaged(
            model, undamaged, self._noise, self._nu, self._seed, self._draw, self.encoded.key, self._noise_at, partner
        )
        if self._noise_at == "question":
            self._image, self._words = clean.image_embeds, found
        else:
            self._image = found
        self._donor = clean.states
        if self._frozen or self._edge is not None:
            forward = Forward(
                self.encoded, self._image, self.answer_ids, self._runs_vision, self._cuts, self._words
            )  # fmt: skip
            self._kept, _ = run_alone(model, forward)
        if not self._runs_vision:
            tokens = [site.token for site in cell if site.component == "image_encoder"]
            self._image[:, tokens] = clean.image_embeds[:, tokens]
            self._image_embeds = self._image
            cell = tuple(site for site in cell if site.component != "image_encoder")
        self._plan = restore_in_place(cell)
        if self._edge is not None:
            self._plan = replace(restore_in_place((self._edge.lands,)), cells=(0,))
            self._donor = send(model, {0: self._edge}, self._kept, clean.states)

    def _before(self) -> None:
        model = self.envoy
        if self._runs_vision:
            start_vision(model, self._image)
        else:
            skip_vision(model, self._image)
        if self._words is not None:
            start_words(model, self._words)
        super()._before()

    def _at_point(self, model: Blip, point: Point) -> None:
        if (point.component, point.kind) in self._frozen:
            kept, state = self._kept[point], model.read_state(*point).clone()
            tokens = min(kept.shape[1], state.shape[1])  # an answer that is gone on with has more
            state[:, :tokens] = kept[:, :tokens]
            model.write_state(*point, state)
        if point in self._plan.steps:
            write_states(model, point, self._plan, self._donor)

    def _after(self) -> None:
        model = self.envoy
        if self._runs_vision:
            self._image_embeds = model.image_encoder.output.last_hidden_state.detach()
        self._ending = model.task.ending(model, model.task.handed_over(model))

    def _finish(self, model: Blip) -> None:
        self._outcome = model.task.outcome(self._ending.logits, self.answer_ids, self.rival)
        self._said = self._say(model, self._ending)
        self._ending = None


def _frozen(freeze: Iterable[str], cell: Cell) -> set[tuple[str, str]]:
    """(component, kind) of what is kept: in the answer decoder, if nothing before it is restored."""
    names = (freeze,) if isinstance(freeze, str) else tuple(freeze)
    decoder = bool(cell) and all(site.component == "answer_decoder" for site in cell)
    component = "answer_decoder" if decoder else "question_encoder"
    return {(component, SUBLAYERS[one_of(name, SUBLAYERS, "sublayer", SiteError)]) for name in names}
