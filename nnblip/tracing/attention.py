"""attention: where each layer looks, and Grad-CAM of cross-attention for the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import xarray as xr

from nnblip.blip.inputs import answer_tokens
from nnblip.errors import SettingError, SiteError, told
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.passes.measure import Asked
from nnblip.passes.reading import ATTENTIONS, Attended, attend
from nnblip.passes.settings import Settings, names_of
from nnblip.remote import errand
from nnblip.roles import answer_roles
from nnblip.roles import roles as question_roles
from nnblip.sites import COMPONENTS, TEXT_COMPONENTS
from nnblip.tracing import provenance
from nnblip.tracing.readings import Node, Reading, tree_of
from nnblip.tracing.requests import Request, each, sending

DIMS = ("layer", "head", "token", "source")
#: Whose tokens a component's cross-attention reads.
READ = {"question_encoder": "image_encoder", "answer_decoder": "question_encoder"}


def attention(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    components: Sequence[str] = TEXT_COMPONENTS,
    *,
    kinds: Sequence[str] = ATTENTIONS,
    grad_cam: bool = True,
    progress: bool | None = None,
    remote: bool | None = None,
    timeout: float | None = None,
) -> xr.DataTree:
    """Read the weights of every attention of the clean run, and Grad-CAM of cross-attention for the answer.

    One forward pass for each example, and with Grad-CAM one backward from the answer to the attention weights.
    Nothing is damaged or restored: weights say where a layer looks, which is not whether the answer depends on it
    (docs/reading.md).

    Grad-CAM (Selvaraju et al. 1610.02391) is here what the repositories of ALBEF and BLIP make of cross-attention:
    weights times the positive part of their gradient, which is the positive part of the product. There the score is
    that of image-text matching, which a BLIP for questions does not have; here it is the log-probability of the answer,
    all its tokens teacher-forced. They take the mean over heads in one layer, and leave the image's [CLS] out: that is
    left to you, as in `tree["question_encoder/crossattention"].grad_cam.sel(layer=3).mean("head")[..., 1:]`.

    Args:
        model: a `BlipVQA`, edited or not.
        examples: as for `causal_trace`. Grad-CAM is of the answer that is given, or else of the model's own.
        components: "question_encoder", "answer_decoder", and "image_encoder" when asked: of the real size that is
            190 MB an example.
        kinds: "attention", what tokens read of each other, and "crossattention", of the component before: the question
            reads the image, the answer the question. The image encoder has attention only.
        grad_cam: whether there is Grad-CAM where there is cross-attention; without, no gradient is computed.
        progress, remote, timeout: as for `causal_trace`.

    Returns:
        A tree of nodes such as `/question_encoder/crossattention`, each with `attention` (example, layer, head, token,
        source), float32 (float64 of a model in float64), whose rows over `source` sum to 1, and those of
        cross-attention with `grad_cam`, in the same dimensions, at least 0. Coordinates: `token_text` and `role` on
        tokens, `source_text` on sources; of patches, where the attribute `grid` says rows and columns, 0 is [CLS].
        Short questions and answers are padded with NaN. The root has the coordinates of a trace on `example`, but for
        `rival`, and its attributes of provenance.

    Raises:
        SiteError: for a component or kind that the model does not have.
        ModelError: for weights that are NaN, or whose rows do not sum to 1.
        NnblipError: for another bad setting or example, with its number.
        RemoteError: for any fault of the server.
    """
    model = as_model(model).at(remote)
    components, kinds = names_of(components, COMPONENTS, "component"), names_of(kinds, ATTENTIONS, "kind")
    if "image_encoder" in components and "attention" not in kinds:
        raise SiteError("image_encoder has no crossattention: ask for the kind 'attention', or leave image_encoder out")
    if not isinstance(grad_cam, bool):
        raise SettingError(f"grad_cam {told(grad_cam)}: expected True or False")
    # nothing is damaged: what is left of the settings of a trace
    settings = Settings.of(nu=0.0, draws=1)
    begin = partial(_request, model, settings, components, kinds, grad_cam, timeout)
    found = each(examples, settings, begin, progress, model.remote)
    attrs: dict[str, Any] = {"reading": "attention"}
    if grad_cam and "crossattention" in kinds:
        attrs["grad_cam_of"] = "log_probability of the answer"
    return tree_of(found, provenance.attributes(model, **attrs))


def _request(
    model: BlipVQA, settings: Settings, components: Sequence[str], kinds: Sequence[str], grad_cam: bool,
    timeout: float | None, example: Example, tick: Callable[[], object],
) -> Request[Reading]:  # fmt: skip
    """What reads an example, here or on a server."""
    asked = Asked.of(model, example, settings)

    def label(found: Attended) -> Reading:
        nodes = _nodes(model, asked, found)
        return Reading.of(model, example, asked.encoded, found.answer_ids, found.predicted, nodes)

    def here() -> Attended:
        found = attend(model, components, kinds, grad_cam, asked)
        tick()
        return found

    if not model.remote:
        return Request(here, label)
    ask = sending(model, "attends", components, kinds, grad_cam, [asked], timeout=timeout)
    return Request(ask, lambda answers: label(errand.attended(answers[0])))


def _nodes(model: BlipVQA, asked: Asked, found: Attended) -> dict[str, Node]:
    side = model.extent(1, 1).side
    answer = answer_tokens(model.processor, found.answer_ids)
    texts = {"question_encoder": asked.encoded.tokens, "answer_decoder": answer, "image_encoder": _patches(side)}
    roles = {"question_encoder": question_roles(asked.encoded.tokens), "answer_decoder": answer_roles(answer)}
    nodes = {}
    for (component, kind), weights in found.weights.items():
        source = component if kind == "attention" else READ[component]
        arrays: dict[str, tuple[tuple[str, ...], Any]] = {"attention": (DIMS, weights)}
        if (component, kind) in found.grad_cam:
            arrays["grad_cam"] = DIMS, found.grad_cam[component, kind]
        shared: dict[str, tuple[tuple[str, ...], Any]] = {}
        for name, whose in (("token", component), ("source", source)):
            # patches are the same for all examples
            (shared if whose == "image_encoder" else arrays)[f"{name}_text"] = (name,), list(texts[whose])
        if component in roles:
            arrays["role"] = ("token",), list(roles[component])
        attrs = {"grid": [side, side]} if source == "image_encoder" else {}
        nodes[f"{component}/{kind}"] = Node(arrays, shared, attrs)
    return nodes


def _patches(side: int) -> tuple[str, ...]:
    return "[CLS]", *(f"row {row} column {column}" for row in range(side) for column in range(side))
