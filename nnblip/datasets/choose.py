"""Choosing with the model's help: what it answers correctly, and matched partners for image swap."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from nnblip.blip.inputs import Encoded
from nnblip.datasets.records import Dataset, Problem, lot, template_of
from nnblip.datasets.vqa_accuracy import accuracy, normalized
from nnblip.errors import InputError, whole
from nnblip.examples import Example, ExampleLike

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


#: Where people disagree, an answer counts as correct from this soft accuracy on: at least two of ten gave it.
SOFT = 0.5
#: So many wrong answers, and so many faults, are shown where too little is right.
SHOWN = 5
#: So many questions of a remote model make one request.
TOGETHER = 8

#: The tokens of a model's answer, or why it cannot be asked.
Said = list[int] | InputError
#: Gives the example if it is kept, else the reason.
Verdict = Callable[[], Example | str]


class Chosen(Dataset):
    """What was kept of a data set, in memory.

    Attributes:
        left_out: id and reason of each example that was not kept. They are no `problems`,
            which are rows and images that cannot be read.
    """

    left_out: list[Problem]

    @property
    def kept(self) -> int:
        """How many were kept."""
        return sum(1 for _ in self._rows())

    @property
    def dropped(self) -> int:
        """How many were left out."""
        return len(self.left_out)

    @property
    def summary(self) -> str:
        """Such as "kept 40 of 50 (10 left out, 2 not readable)"."""
        unreadable = f", {len(self.problems)} not readable" if self.problems else ""
        return f"kept {self.kept} of {self.kept + self.dropped} ({self.dropped} left out{unreadable})"


def correct(
    model: BlipVQA,
    dataset: Dataset | Iterable[ExampleLike],
    progress: bool | None = None,
    *,
    n: int | None = None,
    least: int = 1,
    known: MutableMapping[str, str] | None = None,
) -> Chosen:
    """The examples that the model answers correctly.

    Correct means: with ten answers (`extra["answers"]`), VQA's soft accuracy is at least
    `SOFT`; with one, both are the same in VQA's normal form ("two" is "2", "a cat" is "cat").

    What is kept has the model's own answer, as it says it: P("2") of a model that says "two" would be another
    number. Where the data set spells it otherwise, that is the extra field `given_answer`.

    Args:
        model: a `BlipVQA`.
        dataset: its examples, which need an answer.
        progress: draw a bar; None draws it in a terminal.
        n: so many are wanted: what comes after the last of them is not read. Fewer are no error.
        least: with fewer than so many there is nothing to go on with, which is an error. 0 takes what comes, to see
            how often the model is right.
        known: what this model has answered before, a text by the example's id; these are not asked again, and
            what is new is put into it at once. A `dict`, or a `shelve.Shelf` for a choice that goes on
            where it was stopped.

    Raises:
        InputError: if fewer than `least` are answered correctly, which says what was answered instead; if the data
            set is strict and an image or question cannot be read.
        RemoteError: for any fault of a remote model's server, which is asked `TOGETHER` questions at a time.
    """

    if n is not None:
        whole(n, "n", 1, InputError)
    whole(least, "least", 0, InputError)
    answered: MutableMapping[str, str] = {} if known is None else known

    def judge(example: Example, said: Said | str) -> Example | str:
        if example.answer is None:
            raise InputError("it has no answer to compare the model's with")
        text = answered[str(example.id)] = said if isinstance(said, str) else model.text(_tokens(said))
        ten = example.extra.get("answers")
        if ten:
            score = accuracy(text, ten)
            return own(example, text) if score >= SOFT else f"the model answers {text!r}, soft accuracy {score:.2f}"
        right = bool(text) and normalized(text) == normalized(example.answer)
        return own(example, text) if right else f"the model answers {text!r}, not {example.answer!r}"

    def own(example: Example, text: str) -> Example:
        if text == example.answer:
            return example
        return replace(example, answer=text, extra={**example.extra, "given_answer": example.answer})

    def judged(examples: Iterator[Example]) -> Iterator[tuple[Example, Verdict]]:
        while group := list(itertools.islice(examples, TOGETHER if model.remote else 1)):
            new = [e for e in group if e.answer is not None and str(e.id) not in answered]
            answers = iter(_own_answers(model, [(e.image, e.question) for e in new]))
            asked = {str(e.id) for e in new}
            for example in group:
                name = str(example.id)
                said = next(answers) if name in asked else answered.get(name, [])
                yield example, partial(judge, example, said)

    dataset = _as_dataset(dataset)
    found = _chosen(dataset, judged(iter(dataset)), progress, n)
    if found.kept < least:
        raise InputError(_too_few(found, least))
    return found


def partners(
    model: BlipVQA,
    dataset: Dataset | Iterable[ExampleLike],
    seed: int = 0,
    tries: int = 20,
    progress: bool | None = None,
) -> Chosen:
    """The examples with a partner: another example's image, about which the model answers the question differently.

    Differently means that its answer begins with another token than the answer that is
    traced, as noise "swap" needs. Partners are sought among examples that ask the same
    question, then the same template (`template_of`), then the same question type. The
    extra field `partner_id` says whose image it is.

    Args:
        model: a `BlipVQA`.
        dataset: read at once, and held in memory.
        seed: of the order in which partners are tried; the order of the data set does not matter.
        tries: how many images are tried for one example.
        progress: draw a bar; None draws it in a terminal.

    Raises:
        InputError: if the data set is strict and an image or question cannot be read.
        RemoteError: for any fault of a remote model's server, which is asked about up to `TOGETHER` images at a time.
    """
    whole(seed, "seed", 0, InputError)
    whole(tries, "tries", 1, InputError)
    dataset = _as_dataset(dataset)
    examples = list(dataset)
    groups = [_group(examples, seed, kind) for kind in ("question", "template", "type")]
    known: dict[tuple[str | None, str], Said] = {}

    def first_token(other: Example, question: str, later: Sequence[Example] = ()) -> int | None:
        """Of the model's answer to this question on the other's image; None if there is none.

        A server that must be asked is asked about some of the images that may come later, too.
        """
        if (other.id, question) not in known:
            new = [one for one in (other, *later) if (one.id, question) not in known]
            new = new[: TOGETHER if model.remote else 1]
            answers = _own_answers(model, [(one.image, question) for one in new])
            known.update(((one.id, question), said) for one, said in zip(new, answers, strict=True))
        said = _tokens(known[other.id, question])
        return said[0] if said else None

    def match(example: Example) -> Example | str:
        others = list(itertools.islice(_candidates(example, groups), tries))
        if example.answer is None:
            wanted = first_token(example, example.question, others)
        else:
            model.encode(example.image, example.question)
            wanted = model.encode_answer(example.answer)[0]
        if wanted is None:
            return "the model answers nothing"
        for place, other in enumerate(others):
            try:
                found = first_token(other, example.question, others[place + 1 :])
            except InputError:  # an image that cannot be read is told of when its own turn comes
                continue
            if found not in (None, wanted):
                extra = {**example.extra, "partner_id": other.id}
                return replace(example, partner=other.image, extra=extra)
        return f"no partner: the model's answer was the same on {len(others)} other images"

    held = Dataset.of(dataset.name, examples, dataset.problems, dataset.strict)
    return _chosen(held, ((example, partial(match, example)) for example in examples), progress)


def _as_dataset(given: Dataset | Iterable[ExampleLike]) -> Dataset:
    """Examples of a plain list are named by their place, unless they have names."""
    if isinstance(given, Dataset):
        return given
    examples = [Example.of(one) for one in given]
    return Dataset.of("examples", [replace(e, id=e.id or str(place)) for place, e in enumerate(examples)])


def _chosen(
    dataset: Dataset, judged: Iterable[tuple[Example, Verdict]], progress: bool | None, n: int | None = None
) -> Chosen:
    """The examples whose verdict is one, the first n of them; where it is a reason, a text, they are left out."""
    kept: list[Example] = []
    left_out: list[Problem] = []
    unreadable: list[Problem] = []
    bar = tqdm(judged, desc="choosing", unit="question", disable=None if progress is None else not progress)
    for example, judge in bar:
        try:
            verdict = judge()
        except InputError as error:
            if dataset.strict:
                raise InputError(f"{example.id}: {error}") from error
            unreadable.append(Problem(str(example.id), str(error)))
            continue
        if isinstance(verdict, str):
            left_out.append(Problem(str(example.id), verdict))
        else:
            kept.append(verdict)
            bar.set_postfix(kept=len(kept), refresh=False)
            if len(kept) == n:
                break
    bar.close()
    found: Chosen = Chosen.of(dataset.name, kept, [*dataset.problems, *unreadable], dataset.strict)
    found.left_out = left_out
    return found


def _too_few(found: Chosen, least: int) -> str:
    """Why there is nothing to go on with: what the model answered, or what could not be read."""
    asked = found.kept + found.dropped
    said = [*found.left_out[:SHOWN], *found.problems[:SHOWN]]
    shown = "; ".join(map(str, said)) + ("; ..." if found.dropped + len(found.problems) > len(said) else "")
    unreadable = f", {len(found.problems)} cannot be read" if found.problems else ""
    return (
        f"{found.name}: {found.kept} of {asked} questions are answered correctly{unreadable}, expected at least {least}"
        + (f": {shown}" if shown else ": there is no question")
        + ". Take other questions or another model (correct(..., least=0) goes on all the same)."
    )


def _own_answers(model: BlipVQA, asked: Sequence[tuple[Any, str]]) -> list[Said]:
    """The model's answers to questions on images, or why it cannot be asked; of a server, in one request."""
    encoded: list[Encoded | InputError] = []
    for image, question in asked:
        try:
            encoded.append(model.encode(image, question))
        except InputError as error:
            encoded.append(error)
    readable = [one for one in encoded if isinstance(one, Encoded)]
    answers = iter(model.own_answers(readable))
    return [next(answers) if isinstance(one, Encoded) else one for one in encoded]


def _tokens(said: Said) -> list[int]:
    if isinstance(said, InputError):
        raise said
    return said


class _Groups(dict[str, list[Example]]):
    """Examples by what they share, in an order that seed and ids fix; `place` is where an example stands."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.place: dict[str | None, int] = {}

    def key(self, example: Example) -> str:
        match self.kind:
            case "question":
                return " ".join(example.question.lower().split())
            case "template":
                return template_of(example.question)
        return example.question_type or ""


def _group(examples: list[Example], seed: int, kind: str) -> _Groups:
    groups, members = _Groups(kind), defaultdict(list)
    for example in sorted(examples, key=lambda e: lot(seed, e.id)):
        members[groups.key(example)].append(example)
    groups.update(members)
    groups.place = {e.id: place for group in members.values() for place, e in enumerate(group)}
    return groups


def _candidates(example: Example, groups: list[_Groups]) -> Iterator[Example]:
    """The others of its groups, the closest first; each once, starting after its own place in the group."""
    seen = {example.id}
    for group in groups:
        members, place = group[group.key(example)], group.place[example.id]
        for other in itertools.chain(members[place + 1 :], members[:place]):
            if other.id not in seen:
                seen.add(other.id)
                yield other
