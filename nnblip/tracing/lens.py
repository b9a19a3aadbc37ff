"""lens: what the model would say after each layer, by its own decoder and its own head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from nnblip.blip.inputs import answer_tokens
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.passes.measure import Asked
from nnblip.passes.reading import Lensed
from nnblip.passes.reading import lens as read
from nnblip.passes.settings import Settings
from nnblip.remote import errand
from nnblip.results import VARIABLES
from nnblip.roles import answer_roles
from nnblip.tracing import provenance
from nnblip.tracing.readings import Node, Reading, tree_of
from nnblip.tracing.requests import Request, each, sending


def lens(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    *,
    rival: str | int | None = Settings.rival,
    progress: bool | None = None,
    remote: bool | None = None,
    timeout: float | None = None,
) -> xr.DataTree:
    """Read what the model would answer after each layer of the question encoder, and of the answer decoder.

    One forward pass for each example, in which all layers are rows. Two lenses:

    - `/decoder_lens` (DecoderLens, Langedijk et al. 2310.03686): the answer decoder reads the question encoder's
      `block` states of a layer in place of those of its last. BLIP's text layers end in a LayerNorm of their own, so
      none has to be added.
    - `/logit_lens` (nostalgebraist 2020): the decoder's head, its last transform included (dense, activation,
      LayerNorm), reads the decoder's `block` states of a layer in place of those of its last.

    The last layer of both is the clean run itself. What goes into the first layers has no place: layer 0 is the first
    layer's output.

    Args:
        model: a `BlipVQA`, edited or not.
        examples: as for `causal_trace`. An answer that is given is read for instead of the model's own.
        rival: against which token `logit_difference` holds the answer's first: the first of a text, or an id. By
            default the strongest other of the clean run, as at every later position of `/logit_lens`.
        progress, remote, timeout: as for `causal_trace`.

    Returns:
        A tree. `/decoder_lens` (example, layer) has `probability`, `log_probability` and `logit_difference` of the
        answer, all its tokens teacher-forced, as a trace has them. `/logit_lens` (example, layer, token) has those of
        the answer token that each position predicts, alone: the product of their probabilities over `token` is that of
        the answer. Both have `said`, a coordinate, the text of the likeliest token (in `/decoder_lens`, of the answer's
        first), and `said_probability`. `token_text` and `role` are what stands at a position, `answer_text` the token
        that it predicts, `rival_text` the one it is held against. Short answers are padded with NaN. The root has the
        coordinates of a trace on `example`, and its attributes of provenance.

    Raises:
        NnblipError: for a bad setting or example, with its number.
        RemoteError: for any fault of the server.
    """
    model = as_model(model).at(remote)
    # nothing is damaged: what is left of the settings of a trace
    settings = Settings.of(nu=0.0, draws=1, rival=rival)
    found = each(examples, settings, partial(_request, model, settings, timeout), progress, model.remote)
    attrs: dict[str, Any] = {"reading": "lens", "rival": "" if settings.rival is None else settings.rival}
    return tree_of(found, provenance.attributes(model, **attrs))


def _request(
    model: BlipVQA, settings: Settings, timeout: float | None, example: Example, tick: Callable[[], object]
) -> Request[Reading]:
    """What reads an example, here or on a server."""
    asked = Asked.of(model, example, settings)

    def label(found: Lensed) -> Reading:
        one = Reading.of(model, example, asked.encoded, found.answer_ids, found.predicted, _nodes(model, found))
        return Reading(one.id, {**one.coords, "rival": model.text(found.rivals[:1])}, one.nodes)

    def here() -> Lensed:
        found = read(model, asked)
        tick()
        return found

    if not model.remote:
        return Request(here, label)
    ask = sending(model, "lenses", [asked], timeout=timeout)
    return Request(ask, lambda answers: label(errand.lensed(answers[0])))


def _nodes(model: BlipVQA, found: Lensed) -> dict[str, Node]:
    def texts(ids: Any) -> np.ndarray:
        flat = model.processor.tokenizer.convert_ids_to_tokens(np.ravel(ids).tolist())
        return np.array(flat, str).reshape(np.shape(ids))

    tokens = answer_tokens(model.processor, found.answer_ids)
    decoder: dict[str, tuple[tuple[str, ...], Any]] = {
        **{name: (("layer",), found.decoder_lens[number]) for number, name in enumerate(VARIABLES)},
        "said_probability": (("layer",), found.decoder_sure),
        "said": (("layer",), texts(found.decoder_said)),
    }
    logit: dict[str, tuple[tuple[str, ...], Any]] = {
        **{name: (("layer", "token"), found.logit_lens[number]) for number, name in enumerate(VARIABLES)},
        "said_probability": (("layer", "token"), found.logit_sure),
        "said": (("layer", "token"), texts(found.logit_said)),
        "token_text": (("token",), list(tokens)),
        "role": (("token",), list(answer_roles(tokens))),
        "answer_text": (("token",), texts(found.answer_ids)),
        "rival_text": (("token",), texts(found.rivals)),
    }
    return {"decoder_lens": Node(decoder, {}, {}), "logit_lens": Node(logit, {}, {})}
