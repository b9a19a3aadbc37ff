"""Minimal pairs, in place of noise: another picture or another question, and what restoring states brings back then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import xarray as xr
from tqdm.auto import tqdm

from nnblip import effects
from nnblip.datasets.records import lot
from nnblip.examples import Example
from nnblip.results import VARIABLES

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: So many other questions are tried for one example.
TRIES = 12
#: Which states of the question encoder are restored: what each sublayer adds, the stream after all three, and heads.
KINDS = ("attention_out", "crossattention_out", "mlp_out", "block")
HEADS = "crossattention_head"
VALUE = "logit_difference"


def other_questions(
    model: BlipVQA, examples: Sequence[Example], questions: Sequence[str], seed: int = 0
) -> list[Example]:
    """The examples with another question about the same picture, of as many tokens, which is answered differently.

    Tried first are those that differ in the fewest words (symmetric token replacement), in the order of a lot.

    Args:
        model: where.
        examples: what is traced.
        questions: from which the other one is taken.
        seed: of the lot.

    Returns:
        Those for which one was found, with `other_question`.
    """
    tokens = {question: len(model.processor.tokenizer.tokenize(question)) for question in dict.fromkeys(questions)}
    found = []
    for example in tqdm(examples, unit="question", desc="pairs", disable=None):
        own = example.question.split()
        wanted, answer = len(model.processor.tokenizer.tokenize(example.question)), _first(model, example)

        def distance(question: str, own: list[str] = own) -> int:
            other = question.split()
            return sum(a != b for a, b in zip(own, other, strict=False)) + abs(len(own) - len(other))

        rivals = [question for question, count in tokens.items() if count == wanted and distance(question)]
        rivals.sort(key=lambda question: (distance(question), lot(seed, f"{example.id} {question}")))
        for question in rivals[:TRIES]:
            if _first(model, replace(example, question=question, answer=None)) != answer:
                found.append(replace(example, other_question=question))
                break
    return found


def patching(model: BlipVQA, examples: Sequence[Example], noise_at: str, seed: int = 0) -> xr.Dataset:
    """Restore each state of the question encoder alone, in the run on the other picture or question (noise "swap").

    The logit difference is that of the answer's first token and of what the corrupted run answers (NOTICE,
    Golovanevsky et al. 2406.16320).

    Args:
        model: where.
        examples: of one layout, each with a `partner`, or with an `other_question`.
        noise_at: "image_embeds" or "question".
        seed: of provenance alone; nothing is drawn.

    Returns:
        `effect` (example, kind, layer) and `heads` (example, layer, head): indirect effects on the logit difference, of
        the kinds in `KINDS` and of heads of cross-attention, mean over tokens; `total` (example): the total effect on
        it; `patching_effect` (example, kind, layer): one over the other, of each example alone, as NOTICE has it;
        `clean` and `corrupted` (example): P(answer). A cell that restores by construction is not left out: of single
        tokens there is none.
    """
    from nnblip.tracing.trace import causal_trace

    trees = []
    for example in tqdm(examples, unit="question", desc=f"swap at {noise_at}", disable=None):
        other = replace(
            example, answer=None, partner=None, other_question=None,
            **({"question": example.other_question} if noise_at == "question" else {"image": example.partner}),
        )  # fmt: skip
        trees.append(causal_trace(
            model, [example], nu=1, draws=1, noise="swap", noise_at=noise_at, seed=seed, rival=_first(model, other),
            components=["question_encoder"], kinds=[*KINDS, HEADS], progress=False,
        ))  # fmt: skip
    # each has a rival of its own, so they were traced one by one
    tree = xr.DataTree.from_dict({
        name: xr.concat([one[name].to_dataset()[list(VARIABLES)].reset_coords(drop=True) for one in trees], "example")
        for name in trees[0].children
    })  # fmt: skip
    gained, total = effects.indirect_effect(tree), effects.total_effect(tree)["corrupted"].to_dataset()
    single = effects.relevance(tree, estimator="mean_of_ratios")["question_encoder"].to_dataset()
    numbers = {
        "effect": gained["question_encoder"].to_dataset()[VALUE].mean("token"),
        "heads": gained["question_encoder_heads"].to_dataset()[VALUE].sel(kind=HEADS).mean("token"),
        "total": total[VALUE],
        "patching_effect": single[VALUE].expand_dims("draw").mean("token"),
        "clean": tree["clean"].to_dataset()["probability"],
        "corrupted": tree["corrupted"].to_dataset()["probability"],
    }
    found = xr.Dataset({name: one.reset_coords(drop=True) for name, one in numbers.items()})
    return found.isel(nu=0, draw=0, drop=True)


def _first(model: BlipVQA, example: Example) -> int:
    """The first token of the answer: the one that is traced, or else the model's own."""
    return model.encode_answer(example.answer or model.answer(example).text)[0]
