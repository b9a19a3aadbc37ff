"""What figures say: titles, names of what is shown, and the sentences of their captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from nnblip.diagnosis import CHECKS
from nnblip.diagnosis.look import Look
from nnblip.effects import reading
from nnblip.errors import visible
from nnblip.results import VARIABLES
from nnblip.sites import HEADS_NODE

#: What a map can show.
VALUES = ("indirect_effect", "relevance", "probability")
#: Attributes of a result that a caption names where they are set, and how.
SETTINGS = {"freeze": "frozen: {}", "knock_out": "knocked out: {}", "edits": "edited model"}


def done_to(tree: xr.DataTree) -> str:
    """What is done to a state: a noised run is not called restored."""
    return "damaged" if tree.attrs.get("direction") == "noising" else "restored"


def label_of(tree: xr.DataTree, node: xr.Dataset, name: str) -> str:
    """The question or answer of the chosen example, "" if the result has none, or several examples."""
    places: list[Any] = [tree.coords, node.coords, tree["clean"].coords if "clean" in tree.children else {}]
    for coords in places:
        if name in coords and not coords[name].ndim:
            return str(coords[name].item())
    return ""


def target_of(tree: xr.DataTree, node: xr.Dataset, variable: str = VARIABLES[0]) -> str:
    """What effects are on: the answer's probability, of which answer where one example is chosen, or another number."""
    answer = visible(label_of(tree, node, "answer")) if variable == VARIABLES[0] else ""
    return f"P(answer = “{answer}”)" if answer else target_name(variable)


def target_name(variable: str) -> str:
    """The same whatever the answer is."""
    names = {"probability": "P(answer)", "log_probability": "log P(answer)"}
    return names.get(variable, reading.spoken(variable))


def value_name(tree: xr.DataTree, node: xr.Dataset, value: str, variable: str = VARIABLES[0]) -> str:
    """What colours or an axis stand for, such as: indirect effect on P(answer = “red”)."""
    target = target_of(tree, node, variable)
    names = {
        "indirect_effect": f"indirect effect on {target}",
        "relevance": f"relevance for {target}",
        "probability": target,
    }
    return names[value]


def headline_of(tree: xr.DataTree, node: xr.Dataset, examples: int | None = None) -> str:
    """Question and answer of the chosen example, or of how many examples something is the mean."""
    if examples is not None:
        return f"mean of {examples} examples" if examples > 1 else "1 example"
    question, answer = (visible(label_of(tree, node, name)) for name in ("question", "answer"))
    return f"{question} → {answer}" if question and answer else question or answer


def chosen(tree: xr.DataTree, nu: float | None, example: str | None) -> xr.DataTree:
    """The result at one ν, and at the example that is named or the only one."""
    return chosen_example(reading.choose(tree, "nu", nu), example)


def chosen_example(tree: xr.DataTree, example: str | None) -> xr.DataTree:
    """The example that is named, or the only one; all of them if none is named.

    Raises:
        NnblipError: for what is no result, several noises, or an example that is not there.
    """
    reading.root_of(tree)
    tree = reading.one_noise(tree)
    return tree if example is None and tree.sizes.get("example", 1) > 1 else reading.choose(tree, "example", example)


def average_of(node: xr.Dataset) -> str:
    """Of how many draws a number of one example is the mean."""
    draws = node.sizes.get("draw")
    return "" if draws is None else "1 draw" if draws == 1 else f"{draws} draws"


def texts_of(tree: xr.DataTree, component: str) -> dict[int, str]:
    """The texts of a component's tokens by position, where the result has them and all its examples agree."""
    found: dict[int, set[str]] = {}
    for name in (component, component + HEADS_NODE):
        if name in tree.children and "token_text" in (node := tree[name].to_dataset()).coords:
            for position in node["token"].values.tolist():
                found.setdefault(position, set()).update(np.ravel(node["token_text"].sel(token=position).values))
    label = {"question_encoder": "question_tokens", "answer_decoder": "answer_tokens"}.get(component)
    if not found and label in tree.coords:  # only cells of a list were asked for
        for texts in np.ravel(tree.coords[label].values):
            for position, text in enumerate(str(texts).split(" ")):
                found.setdefault(position, set()).add(text)
    every = {position: texts - {""} for position, texts in found.items()}
    return {position: visible(*texts) for position, texts in every.items() if len(texts) == 1}


def setting_of(tree: xr.DataTree) -> str:
    """What the title of one ν says of the runs: the ν, and whether they were made at all."""
    return ", ".join(
        one for one in (nu_of(tree), "estimated from gradients" if tree.attrs.get("method") else "") if one
    )


def nu_of(tree: xr.DataTree) -> str:
    """ "ν = 5", or from where to where."""
    nus = np.ravel(tree.coords["nu"].values).tolist() if "nu" in tree.coords else []
    return "" if not nus else f"ν = {nus[0]:g}" if len(nus) == 1 else f"ν = {min(nus):g} to {max(nus):g}"


# ---- what leaves nothing in the numbers --------------------------------------------------------


#: The checks whose findings can be severe.
GRAVE = ("weak corruption", "halves of the draws disagree", "edge of precision")


def severe(tree: xr.DataTree, names: Iterable[str], kind: str | None = None) -> list[str]:
    """What leaves nothing in the numbers that are drawn, of these nodes (and this kind alone): a figure that is passed
    on has to say it itself.

    Of all checks only those are made that can be that grave.
    """
    nodes = {name: node.to_dataset(inherit=False) for name, node in tree.children.items()}
    others = [name for name in reading.restored_names(tree) if name not in set(names)]
    kept = {name: node for name, node in nodes.items() if name not in others}
    for name, node in kept.items():
        if kind is not None and "kind" in node.dims and kind in node["kind"].values:
            kept[name] = node.sel(kind=[kind])
    look = Look(reading.with_nodes(tree, kept), None, None)
    found = [one for check in CHECKS if check.name in GRAVE for one in check(look) if one.level == "severe"]
    return [visible(f"Not to be relied on: {one.name}, {one.measured}") for one in found]


# ---- captions ----------------------------------------------------------------------------------


def run_sentences(
    tree: xr.DataTree, node: xr.Dataset, examples: int | None, what: str = "Each state alone"
) -> list[str]:
    """Of what, under which noise, and by which model: what the captions of all figures say after what is shown.

    `what` is restored or damaged in one run.
    """
    of = of_one(tree, node)
    if examples is not None:
        of = [f"Mean over {examples} examples." if examples > 1 else "One example."]
    return [*of, *noise_sentences(tree, node, what), model_sentence(tree)]


def of_one(tree: xr.DataTree, node: xr.Dataset) -> list[str]:
    """The question and answer of one example."""
    question, answer = (visible(label_of(tree, node, name)) for name in ("question", "answer"))
    return [*([f"Question: “{question}”."] if question else []), *([f"Answer: “{answer}”."] if answer else [])]


def noise_sentences(tree: xr.DataTree, node: xr.Dataset, what: str = "Each state alone") -> list[str]:
    """What is done in a run, under which noise."""
    attrs, draws = tree.attrs, node.sizes.get("draw")
    noise = visible(reading.noise_of(tree)).removesuffix("()")
    said = [f"Noise: {noise} on {visible(attrs.get('noise_at', 'image_embeds'))}" if noise else "Noise"]
    said += [one for one in (nu_of(tree), f"seed {attrs['seed']}" if "seed" in attrs else "") if one]
    if draws:
        said += [f"{draws} draw{'s' * (draws > 1)} of each example"]
    direction = (
        f"{what} is given its corrupted value in the clean run (noising)."
        if attrs.get("direction") == "noising"
        else f"{what} is put back to its clean value in the corrupted run (denoising)."
    )
    if attrs.get("method"):
        direction += f" The effects are estimated from gradients ({visible(attrs['method'])}) and not measured."
    other = [how.format(visible(attrs[name])) for name, how in SETTINGS.items() if attrs.get(name)]
    return [direction, f"{', '.join(said)}.", *(f"{one[0].upper()}{one[1:]}." for one in other)]


def model_sentence(tree: xr.DataTree) -> str:
    model, revision = (visible(tree.attrs.get(name) or "") for name in ("model", "revision"))
    return f"Model: {model}{f' ({revision})' if revision else ''}." if model else ""


def provenance(tree: xr.DataTree) -> Mapping[str, Any]:
    """Attributes of the result, with the example and ν that were chosen."""
    chosen = {name: np.asarray(tree.coords[name].values).tolist() for name in ("example", "nu") if name in tree.coords}
    if isinstance(chosen.get("example"), list) and len(chosen["example"]) > 20:
        chosen["example"] = f"{len(chosen['example'])} examples"
    return {**{str(name): value for name, value in tree.attrs.items()}, **chosen}
