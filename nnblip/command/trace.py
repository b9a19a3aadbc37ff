"""`nnblip trace`: one picture and one question, and all that is drawn of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nnblip.command.options import ASKED, MODEL, Asked, Flag, Many, Model, Whole, arguments, say
from nnblip.errors import InputError, told
from nnblip.passes.settings import Settings

if TYPE_CHECKING:
    import xarray as xr

    from nnblip.examples import Example
    from nnblip.model import BlipVQA

#: The ν at which maps are drawn and states are ranked, where it is one of those that are traced: that of the paper.
SHOWN = 5.0
#: The bundled scene that is traced by itself: "where is the diamond", of which pictures say most at a glance.
SCENE = 9


def trace(
    image: Path | None = None,
    question: str | None = None,
    /,
    *,
    answer: str | None = None,
    partner: Path | None = None,
    other_question: str | None = None,
    nu: Annotated[tuple[float, ...], Many] = (1.0, 3.0, 5.0, 10.0),
    seed: Whole = Settings.seed,
    where: Annotated[bool, Parameter(negative="--no-where")] = True,
    out: Path = Path("nnblip-out"),
    overwrite: Flag = False,
    asked: Asked = ASKED,
    model: Model = MODEL,
) -> None:
    """Trace where the answer comes from; write the result and its pictures, summary.png first.

    Parameters
    ----------
    image
        A picture. Without it, a scene that ships with nnblip.
    question
        A question about it.
    answer
        The answer to trace; by default the model's own.
    partner
        With --noise swap, a picture of which the model answers the same question differently.
    other_question
        With --noise swap --noise-at question, a question of as many words with another answer.
    nu
        Noise factors, such as --nu 1 3 5 10.
    seed
        Seed of the noise.
    where
        Look where in the picture it is, too: what the answer loses when one region alone is damaged, and Grad-CAM.
    out
        Folder for the results and the pictures.
    overwrite
        Replace what an earlier run wrote there.
    """
    from nnblip import demo, report
    from nnblip.command import folder, printing
    from nnblip.command.said import with_said
    from nnblip.diagnosis import ATTRIBUTE, diagnose
    from nnblip.examples import Example
    from nnblip.tracing.trace import causal_trace

    if (image is None) != (question is None):
        raise InputError("give both an image and a question, or neither for a bundled scene")
    for given, what in ((answer, "answer"), (partner, "partner"), (other_question, "other_question")):
        if given is not None and question is None:
            raise InputError(f"{what} {told(str(given))}: give the image and the question that it belongs to, too")
    if asked.noise == "swap" and (other_question if asked.noise_at == "question" else partner) is None:
        name = "--other-question" if asked.noise_at == "question" else "--partner"
        raise InputError(f"noise 'swap' at {asked.noise_at}: give what to swap with, with {name}")
    settings = asked.settings(nu, seed)  # refused before a model is loaded and a folder looked at
    folder.check(out, folder.names(settings, where), overwrite)
    example = demo.examples()[SCENE]
    if question is not None:
        other = None if partner is None else str(partner)
        example = Example(str(image), question, answer, partner=other, other_question=other_question)
    blip = model.load()
    tree = causal_trace(blip, [example], **arguments(settings))
    if not model.remote:  # where each answer would be a request of its own
        tree = with_said(blip, example, settings, tree)
    found = folder.Traced(tree, str(example.image), *(_where(blip, example, settings, tree) if where else (None, None)))
    shown = SHOWN if SHOWN in tree.nu else float(tree.nu.max())
    drawn = found.figures(shown)
    diagnosed = diagnose(tree)
    printing.trace(tree, diagnosed, str(example.image), shown)
    noted = tree.copy()
    noted.attrs = {**tree.attrs, ATTRIBUTE: diagnosed.to_json()}
    pages = {folder.PAGE: partial(report.write, noted, images=example.image)} if found.has_maps else {}
    wrote = folder.write(out, {**found.results, folder.RESULT: noted}, drawn, overwrite, pages)
    say("Wrote " + ", ".join(map(str, wrote)))
    say(f"\nOpen first:  {wrote[0]}")
    if pages:
        say(f"To explore:  python -m webbrowser {(out / folder.PAGE).resolve().as_uri()}")


def _where(
    blip: BlipVQA, example: Example, settings: Settings, tree: xr.DataTree
) -> tuple[xr.DataTree, xr.DataTree | None]:
    """What points in the picture, of the same answer; and Grad-CAM, which is of a model in which nothing is cut."""
    from nnblip.tracing.attention import attention
    from nnblip.tracing.pointing import pointing

    same = replace(example, answer=tree["answer"].item() if settings.knock_out else example.answer)
    pointed = pointing(blip, [same], knock_out=settings.knock_out, rival=settings.rival, max_rows=settings.max_rows)
    if settings.knock_out:
        return pointed, None
    return pointed, attention(blip, [same], ["question_encoder"], kinds=["crossattention"])
