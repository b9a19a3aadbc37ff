"""causal_trace: every state restored, one pass for each example, draw and ν."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import xarray as xr

from nnblip import results
from nnblip.edges import KnockOutLike
from nnblip.errors import SettingError
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.noise import NoiseLike
from nnblip.passes.measure import Asked, measure
from nnblip.passes.settings import Settings
from nnblip.remote import errand
from nnblip.roles import RoleFunction
from nnblip.sites import CellsLike
from nnblip.tracing.labels import labelled, result_of
from nnblip.tracing.noises import require_comparable, side_by_side
from nnblip.tracing.requests import Request, each, sending, several


def causal_trace(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    nu: float | Sequence[float] = Settings.nu,
    draws: int | str = Settings.draws,
    noise: NoiseLike | Sequence[NoiseLike] = Settings.noise,
    *,
    reliability: float = Settings.reliability,
    seed: int = Settings.seed,
    kinds: Sequence[str] | None = None,
    components: Sequence[str] = Settings.components,
    cells: CellsLike | None = Settings.cells,
    direction: str = Settings.direction,
    freeze: Iterable[str] = Settings.freeze,
    noise_at: str = Settings.noise_at,
    regions: int | tuple[int, int] | None = Settings.regions,
    knock_out: KnockOutLike = Settings.knock_out,
    roles: RoleFunction | None = None,
    rival: str | int | None = Settings.rival,
    max_rows: int | None = Settings.max_rows,
    progress: bool | None = None,
    remote: bool | None = None,
    timeout: float | None = None,
    blocking: bool = True,
) -> xr.DataTree | Any:  # a `Job` if not blocking; as a union, every caller would have to tell them apart
    """Restore every state, one at a time, and measure how much of the answer returns.

    One pass of the model computes the whole map of as many draws and ν of an example as there is room for; the
    image embeddings of an example are computed once. Method: Palit et al. 2023; one-pass plan:
    `nnblip.passes.plan`, `nnblip.passes.engine`.

    Args:
        model: a `BlipVQA`.
        examples: (image, question) or (image, question, answer) tuples, dicts or
            `nnblip.Example`s, or a single `nnblip.Example`. An answer that is given is traced
            instead of the model's own.
        nu: noise factor or factors, each at least 0.
        draws: how many samples of the noise, the same for every ν and every cell. With "auto" each example has as
            many, ten at a time and at most 100, as every map of it needs to be as reliable as wished for.
        noise: name or object, see `nnblip.noise`. Or a list of several, each with all its draws; then every
            node but `/clean` and `/knock_outs` has the dimension `noise` first.
        reliability: with draws="auto", the split-half reliability (Spearman-Brown) that is wished for: how far the
            map of the mean over draws would come out again with as many others.
        seed: seed of the noise; the same seed and settings give the same numbers bit for bit.
        kinds: which states of a layer, see `nnblip.sites.KINDS`; by default `block`, or none if `cells` are given. The
            same cell in other words: `crossattention` and `block` (unless the MLP is frozen),
            `attention_value_output` and `attention_out`, `mlp_activation` and `mlp_out`.
        components: which components get a map. Some cells restore by construction, see `nnblip.effects.structural`:
            the decoder's last layer of a one-token answer, all tokens of the question encoder's last layer.
        cells: what else to restore together: a family of `nnblip.sites` (`windows`, `pairs`,
            `all_tokens`, `token_across_layers`) or a list of families, sites and sets of sites. Also edges
            (`nnblip.Edge`, `nnblip.sites.edges`), whose senders alone are restored for their receivers alone, and
            knock-outs (`nnblip.knock_out`, `nnblip.sites.knock_outs`), each a clean run without some attention edges.
        direction: "denoising", a corrupted run in which states are put back (does the state
            suffice?), or "noising", a clean run in which they are replaced by their corrupted
            values (is it needed?).
        freeze: sublayers ("attention", "crossattention", "mlp_out") whose later outputs, in the
            component where a row's first state is restored, stay what they are in the run
            without restoring. BLIP's later question-encoder layers read the corrupted image
            again; with `freeze={"crossattention"}` a restored state cannot steer what they read.
        noise_at: where the noise falls: "image_embeds" (what the image encoder hands over),
            "patch_embeds" (what its first layer reads), "pixels", or "question" (the embeddings of its words, [CLS]
            and [SEP] left as they are). With "patch_embeds" and "pixels" the layers of `image_encoder` can be
            restored; else only its last, the embeddings.
        regions: grid of the map of `image_encoder`, see `nnblip.sites.image_regions`; patch by
            patch if None.
        knock_out: attention edges to cut in every run, clean, corrupted and restored, see
            `nnblip.knock_out`; one or several. The model's own answer is that without them.
        roles: instead of the rules of `nnblip.roles`, a function from a question's tokens ("[CLS]", "what", ...)
            to a role for each; "" for none. It names tokens and changes no number.
        rival: against which token `logit_difference` holds the answer's first: the first of a text, or an id; of
            other answers too (NOTICE's incorrect answer). By default the strongest other first token of the
            clean run, or with noise "swap" that of the answer to the partner or the other question.
        max_rows: at most so many rows in a pass, those of all its draws and ν together; smaller is slower and needs
            less memory. A row that passes through the image encoder counts 16 times. By default chosen from the
            model's sizes and the memory of its device (`nnblip.passes.room`); the result's attribute says what it is.
        progress: a bar on the terminal; by default where there is one.
        remote: run on an NDIF server, one request for each example, a few of them in flight; it brings
            the image and the seed and takes back the numbers; by default if the model was made so.
        timeout: seconds after which a request is given up; half an hour if None.
        blocking: if not, send one request for all examples to the server and do not wait for it.

    Returns:
        The result tree (docs/results.md): nodes `/clean`, `/corrupted`, one for each
        component with dims (example, nu, draw, kind, layer, token), one for its heads if
        their kinds are asked for, `/cells`, `/edges` (example, nu, draw, edge) and `/knock_outs` (example, knock_out)
        if cells are; variables `probability`,
        `log_probability`, `logit_difference`, float32. Every map has its split-half reliability, by probability, as
        coordinates `reliability`, `reliability_low` and `reliability_high` on (example, nu, kind); NaN below 4
        draws. With draws="auto", `draws` on `example` says how many there are; the rest is NaN. The attribute
        `direction` says what the numbers of restored nodes mean. If not `blocking`, a `nnblip.Job`.

    Raises:
        NnblipError: for a bad setting or example, with its number.
        RemoteError: for any fault of the server.
    """
    model = as_model(model).at(remote)
    several_noises, noises = isinstance(noise, list | tuple), noise if isinstance(noise, list | tuple) else [noise]
    wanted = partial(
        Settings.of,
        nu=nu, draws=draws, reliability=reliability, seed=seed, kinds=kinds, components=components,
        cells=list(cells) if isinstance(cells, Iterator) else cells,
        direction=direction, freeze=freeze, noise_at=noise_at, regions=regions, knock_out=knock_out,
        roles=roles, rival=rival, max_rows=max_rows,
    )  # fmt: skip
    every = [wanted(noise=one) for one in noises]
    if several_noises:
        require_comparable(every)
        examples = several(examples)
    if not blocking:
        from nnblip.tracing.jobs import Job

        if not model.remote:
            raise SettingError("blocking=False: only a trace on a server can be left alone, with remote=True")
        if several_noises:
            raise SettingError("blocking=False with several noises: expected one noise, a job for each")
        return Job.submit(model, several(examples), every[0])
    found = [
        result_of(
            model, one, each(examples, one, partial(request, model, one, timeout=timeout), progress, model.remote)
        )
        for one in every
    ]
    return side_by_side(found, every) if several_noises else found[0]


def trace_example(
    model: BlipVQA, settings: Settings, example: Example, tick: Callable[[], object] = lambda: None
) -> results.Traced:
    """All numbers of one example; `tick` is called after each pass that is made here."""
    return request(model, settings, example, tick)()


def request(
    model: BlipVQA,
    settings: Settings,
    example: Example,
    tick: Callable[[], object] = lambda: None,
    timeout: float | None = None,
) -> Request[results.Traced]:
    """What gives the numbers of an example, here or on a server. Raises `NnblipError` for what cannot be read."""
    asked = Asked.of(model, example, settings)
    label = partial(labelled, model, example, settings, asked.encoded)
    if not model.remote:
        return Request(partial(measure, model, settings, asked, tick), label)
    ask = sending(model, "traces", settings.sent(), [asked], timeout=timeout)
    return Request(ask, lambda answers: label(errand.measured(answers[0])))
