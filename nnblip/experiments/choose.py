"""Questions that the model answers correctly. What it answered is kept as it goes, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from nnblip.datasets.records import Dataset
from nnblip.errors import InputError, NnblipError
from nnblip.examples import Example
from nnblip.experiments.sources import image_of
from nnblip.experiments.texts import table

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: No more than so many questions are tried for one that is wanted.
MOST = 50
#: Begins the reason why something cannot be asked.
UNREADABLE = "unreadable: "
#: So many wrong answers are shown where none is right.
SHOWN = 3


@dataclass
class Group:
    """The questions of one group, and what was passed over before there were enough of them.

    Attributes:
        name: of the group.
        source: the data set that it is of.
        examples: what was chosen, with `question_type` the name of the group.
        wrong: what the model answered instead, and the question.
        unreadable: why images or questions could not be read, or there is no answer to compare with.
        unaligned: how many have other tokens than the first.
        repeated: how many are about an image that is taken already, and were not asked.
    """

    name: str
    source: str = ""
    examples: list[Example] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unaligned: int = 0
    repeated: int = 0

    @property
    def tried(self) -> int:
        return len(self.examples) + len(self.wrong) + len(self.unreadable) + self.unaligned


class Asked:
    """What the model answered so far: a line a question in a file, which a stopped run finds again."""

    def __init__(self, model: BlipVQA, log: Path) -> None:
        self.model, self.log = model, log
        self._known: dict[str, dict[str, str | None]] = {}
        if log.exists():
            for line in log.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self._known[row["id"]] = {name: row[name] for name in ("id", "wrong", "answer")}
                except (ValueError, KeyError, TypeError):  # what was being written when the run was stopped
                    break
            self._rewrite()

    def judged(self, examples: list[Example], prefix: str) -> list[Example | str]:
        """Each with the model's own answer if that is right, else why not; `UNREADABLE` begins what cannot be asked."""
        new = [e for e in examples if f"{prefix}/{e.id}" not in self._known]
        if new:
            from nnblip.datasets.choose import correct

            found = correct(self.model, Dataset.of(prefix, new), progress=False, least=0)
            right = {str(e.id): e.answer for e in found}
            said = {problem.where: problem.what for problem in found.left_out}
            broken = {problem.where: problem.what for problem in found.problems}
            with self.log.open("a") as file:
                for e in new:
                    name = str(e.id)
                    wrong = f"{e.question}: {said[name]}" if name in said else None
                    wrong = f"{UNREADABLE}{broken[name]}" if name in broken else wrong
                    row = {"id": f"{prefix}/{name}", "wrong": wrong, "answer": right.get(name)}
                    self._known[f"{prefix}/{name}"] = row
                    file.write(json.dumps(row) + "\n")
        return [self._as_said(e, self._known[f"{prefix}/{e.id}"]) for e in examples]

    @staticmethod
    def _as_said(example: Example, row: Mapping[str, str | None]) -> Example | str:
        """What is traced is what the model says: "two" where the data set has "2", which stays as `given_answer`."""
        if row["wrong"] is not None:
            return row["wrong"]
        if row["answer"] == example.answer:
            return example
        return replace(example, answer=row["answer"], extra={**example.extra, "given_answer": example.answer})

    def _rewrite(self) -> None:
        self.log.write_text("".join(f"{json.dumps(row)}\n" for row in self._known.values()))


def choose(
    asked: Asked, candidates: Mapping[str, Iterable[Example]], n: int, *, aligned: bool = False, apart: bool = True
) -> list[Group]:
    """Of each group the first n questions that the model answers correctly; of n · `MOST` that it is asked at most.

    Args:
        asked: the model, with what it answered before.
        candidates: of each group the questions in the order in which they are tried.
        n: how many of each group.
        aligned: only questions without a word in several pieces, of as many tokens as the first one kept.
        apart: each image is asked about once, in all groups together, so that the examples are independent. The
            groups take turns.

    Raises:
        InputError: if none is answered correctly; says what was answered instead.
    """
    groups = {name: Group(name) for name in candidates}
    left = {name: iter(examples) for name, examples in candidates.items()}
    images: set[str] = set()
    lengths: dict[str, int] = {}
    with tqdm(total=n * len(groups), unit="question", desc="choosing", disable=None) as bar:
        while left:
            for name in list(left):
                group = groups[name]
                block = [] if group.tried >= n * MOST else _next(left[name], group, images if apart else None, asked)
                for example, kept in zip(block, asked.judged(block, name), strict=True):
                    if len(group.examples) == n or (apart and image_of(example) in images):
                        continue  # a server is asked several at a time
                    if isinstance(kept, str):
                        told = group.unreadable if kept.startswith(UNREADABLE) else group.wrong
                        told.append(kept.removeprefix(UNREADABLE))
                    elif aligned and not _aligns(asked.model, kept, lengths, name):
                        group.unaligned += 1
                    else:
                        images.add(image_of(example))
                        group.examples.append(replace(kept, question_type=name))
                        bar.update()
                if not block or len(group.examples) == n:
                    del left[name]
    found = list(groups.values())
    if not any(group.examples for group in found):
        raise InputError(_none_of(found))
    return found


def require(groups: list[Group], least: int, most: int, count: int) -> list[Group]:
    """The groups that have enough questions for a test.

    Raises:
        NnblipError: if these are fewer than `count`.
    """
    enough = [group for group in groups if len(group.examples) >= least]
    if len(enough) < count:
        said = ", ".join(f"{group.name} {len(group.examples)} of {group.tried} tried" for group in groups[:most])
        raise NnblipError(
            f"too few examples for a test: expected at least {least} that the model answers correctly, each about an"
            f" image of its own, of {count} group{'s' * (count > 1)}; there are {said}"
        )
    return enough


def passed_over(groups: list[Group], broken: Mapping[str, int]) -> str:
    """A table of what was chosen and what was not, and of how many rows could not be used."""
    head = ["questions", "chosen", "tried", "answered wrongly", "tokens do not align", "not readable", "image taken"]
    rows = [head]
    for one in groups:
        counts = (len(one.examples), one.tried, len(one.wrong), one.unaligned, len(one.unreadable), one.repeated)
        rows.append([one.name, *map(str, counts)])
    told = ", ".join(f"{count} of {name}" for name, count in broken.items() if count)
    return table(*rows) + (f"\n\nRows that the reader could not use: {told}." if told else "")


def _next(left: Iterator[Example], group: Group, images: set[str] | None, asked: Asked) -> list[Example]:
    """The next questions to ask, about images that are free; of a server several at a time."""

    def free(example: Example) -> bool:
        taken = images is not None and image_of(example) in images
        group.repeated += taken
        return not taken

    from nnblip.datasets.choose import TOGETHER

    return list(islice((example for example in left if free(example)), TOGETHER if asked.model.remote else 1))


def _aligns(model: BlipVQA, example: Example, lengths: dict[str, int], name: str) -> bool:
    tokens = model.processor.tokenizer.tokenize(example.question)
    if any(token.startswith("##") for token in tokens):
        return False
    return lengths.setdefault(name, len(tokens)) == len(tokens)


def _none_of(groups: list[Group]) -> str:
    wrong = [said for group in groups for said in group.wrong]
    unreadable = [said for group in groups for said in group.unreadable]
    tried = sum(group.tried for group in groups)
    if not tried:
        return "there are no questions to ask: none is of the types and form that are asked for"
    told = f"the model answers none of {tried} questions correctly"
    if wrong:
        told += f"; such as {'; '.join(wrong[:SHOWN])}"
    return told + (f"; {len(unreadable)} cannot be asked: {unreadable[0]}" if unreadable else "")
