"""`Dataset`: examples read one at a time, what was wrong with the rest, and how to choose among them."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nnblip.datasets.looks import as_html
from nnblip.datasets.sniff import advice
from nnblip.datasets.values import Seen
from nnblip.datasets.vqa_accuracy import normalized
from nnblip.errors import InputError, NnblipWarning, PlaceError, one_of, told, whole
from nnblip.examples import Example
from nnblip.roles import ATTRIBUTE_WORDS, FUNCTION_WORDS, QUESTION_WORDS

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used: `where` it stands (file:line or id) and `what` is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def attempt(where: str, make: Callable[..., Example], *args: Any) -> Example | Problem:
    """`make(*args)`, or the problem that its `InputError` tells of."""
    try:
        return make(*args)
    except InputError as error:
        return Problem(where, str(error))


class Dataset:
    """Examples with their names, which can be iterated any number of times.

    Each iteration reads the files anew, row by row; images are not opened. A row that
    cannot be used is skipped, kept in `problems` and told of by one warning at the end.
    `len(dataset)`, `dataset[3]` and `dataset[:10]` read all rows once and keep them, without their images.
    Where not one row can be used the file is not what the reader takes it for: `InputError`.

    Args:
        name: what it is called in messages and results.
        rows: gives, at each call, the examples and problems in their order.
        strict: the first problem raises `InputError` instead.
        source: the file or folder that is read, if there is one: an error says for which reader it looks.

    Attributes:
        problems: what was skipped in the latest complete iteration.
    """

    def __init__(
        self,
        name: str,
        rows: Callable[[], Iterable[Example | Problem]],
        strict: bool = False,
        source: Path | None = None,
    ) -> None:
        self.name = name
        self.strict = strict
        self._source = source
        self._selected = False  # the rows of a selection have been counted before
        self.problems: list[Problem] = []
        self._known: list[Problem] = []  # of the rows that examples in memory were chosen from
        self._rows = rows
        self._read: list[Example | Problem] | None = None  # all rows, once they were asked for by number
        self._kept: list[Example] = []  # the examples among them

    @classmethod
    def of(cls, name: str, examples: Iterable[Example], problems: Iterable[Problem] = (), strict: bool = False) -> Any:
        """Of examples in memory, and problems that are known (and were told of) already."""
        kept = list(examples)
        found = cls(name, lambda: kept, strict)
        found.problems = found._known = list(problems)
        return found

    def __iter__(self) -> Iterator[Example]:
        problems: list[Problem] = []
        for row in self._checked():
            if isinstance(row, Example):
                yield row
            elif self.strict:
                raise InputError(f"{row} (strict=False would skip it)")
            else:
                problems.append(row)
        self.problems = [*self._known, *problems]
        if problems:
            warnings.warn(f"{self.name}: {len(problems)} rows skipped: {_some(problems)}", NnblipWarning, stacklevel=2)

    def __len__(self) -> int:
        """How many examples can be used. Raises `InputError` for the first that cannot, if strict."""
        return len(self._examples())

    def __bool__(self) -> bool:
        return any(isinstance(row, Example) for row in self._checked())

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Dataset: ...
    def __getitem__(self, place: int | slice) -> Example | Dataset:
        """An example by its number, or a data set of several.

        Raises:
            PlaceError: for a number that is too large.
        """
        every = self._examples()
        if isinstance(place, slice):
            return Dataset.of(self.name, every[place], self.problems, self.strict)
        try:
            return every[place]
        except IndexError as error:
            few = f"0 to {len(every) - 1}" if every else "none"
            raise PlaceError(f"example {place} of {self.name}: it has {len(every)}, {few}") from error
        except TypeError as error:
            raise InputError(f"{self.name}[{told(place)}]: expected the number of an example, or a slice") from error

    def _examples(self) -> list[Example]:
        """All that can be used, read once and kept; the problems are told of by whoever iterates."""
        if self._read is None:
            read: list[Example | Problem] = []
            for row in self._checked():
                if isinstance(row, Problem) and self.strict:
                    raise InputError(f"{row} (strict=False would skip it)")
                read.append(row)
            bad = [row for row in read if isinstance(row, Problem)]
            self._read, self.problems = read, [*self._known, *bad]
            self._kept = [row for row in read if isinstance(row, Example)]
        return self._kept

    def __repr__(self) -> str:
        known = "" if self._read is None else f"{len(self._examples())} examples, "
        return f"<Dataset {self.name}, {known}{len(self.problems)} problems>"

    def _repr_html_(self) -> str:
        return as_html(repr(self).strip("<>"), (row for row in self._checked() if isinstance(row, Example)))

    def _checked(self) -> Iterator[Example | Problem]:
        """The rows; an id that came before is a problem. Raises `InputError` if there is nothing but problems."""
        if self._read is not None:
            yield from self._read
            return
        seen: set[str] = set()
        unusable: list[Problem] = []
        for row in self._rows():
            if isinstance(row, Example):
                if row.id is None or row.id in seen:
                    row = Problem(f"id {row.id}", "no id" if row.id is None else "this id came before")
                else:
                    seen.add(row.id)
            elif not seen:
                unusable.append(row)
            yield row
        if unusable and not (seen or self._selected):
            own = self.name.partition(":")[0]
            hint = "" if self._source is None else advice(self._source, own)
            raise InputError(f"{self.name}: not one of {len(unusable)} rows can be used: {_some(unusable)}{hint}")

    def _through(self, chosen: Callable[[Iterator[Example | Problem]], Iterable[Example | Problem]]) -> Dataset:
        found = Dataset(self.name, lambda: chosen(self._checked()), self.strict)
        found._selected = True
        found.problems = found._known = self._known
        return found

    def filter(self, keep: Callable[[Example], bool]) -> Dataset:
        """The examples for which `keep(example)` is true."""
        return self._through(lambda rows: (row for row in rows if isinstance(row, Problem) or keep(row)))

    def where(
        self,
        question_type: str | Collection[str] | None = None,
        template: str | None = None,
        words: int | Collection[int] | None = None,
        tokens: int | Collection[int] | None = None,
        model: BlipVQA | None = None,
        **extra: Any,
    ) -> Dataset:
        """The examples that fit everything that is given.

        Args:
            question_type: one type or several.
            template: a question in which `*` stands for one or more words, such as
                `what is the color of the *`. Upper and lower case, and punctuation at the end, are alike.
            words: how many words parted by spaces the question has; a number, or several such as range(5, 8).
            tokens: how many tokens `model` reads, [CLS] and [SEP] included; a number or several.
            model: the model whose tokens are counted.
            **extra: values of extra fields, such as official_type="object"; one or several.

        Raises:
            InputError: for `tokens` without `model`. While the rows are read: for a field that no example has, or a
                type or text of a field that is nowhere in it (the nearest is suggested); of several numbers one has
                to be there.
        """
        tests: list[Callable[[Example], bool]] = []
        wanted = dict(extra) if question_type is None else {"question_type": question_type, **extra}
        if template is not None:
            pattern = _pattern(template)
            tests.append(lambda e: pattern.fullmatch(_plain(e.question)) is not None)
        if words is not None:
            word_counts = _several(words)
            tests.append(lambda e: len(e.question.split()) in word_counts)
        if tokens is not None:
            if model is None:
                raise InputError(f"tokens={tokens!r}: give model=, whose tokens are counted (or words=)")
            token_counts, tokenizer = _several(tokens), model.processor.tokenizer
            tests.append(lambda e: len(tokenizer(e.question, verbose=False).input_ids) in token_counts)
        fields = {name: _several(value) for name, value in wanted.items()}

        def chosen(rows: Iterator[Example | Problem]) -> Iterator[Example | Problem]:
            seen = Seen(fields)
            for row in rows:
                if isinstance(row, Problem) or (seen.fits(row) and all(test(row) for test in tests)):
                    yield row
            seen.require_found(self.name)

        return self._through(chosen)

    def typed(self, by: str | Mapping[str, str | Collection[str]]) -> Dataset:
        """The same examples with other question types; what each had before is the extra field `given_type`.

        VQA v2 has 65 types: `typed("answer_type")` makes them three, `typed("question_group")` a dozen, and
        `typed({"color": ["what color is the", "what color are the"], "number": "how many"})` whatever one names.

        Args:
            by: name of an extra field that becomes the type; or names of groups, each with the types that it
                takes together. Examples whose type is in no group are left out, as `where` would.

        Raises:
            InputError: for another thing, a type in two groups, or, when read, an example without that field and a
                type that no example has.
        """
        if isinstance(by, str):
            return self._through(partial(_retyped, by))
        if not isinstance(by, Mapping) or not by:
            raise InputError(f"typed {told(by)}: expected the name of a field, or groups such as {{'color': [...]}}")
        groups: dict[str, str] = {}
        for name, kinds in by.items():
            for kind in _several(kinds):
                if kind in groups:
                    raise InputError(f"typed: the type {kind!r} is in two groups, {groups[kind]!r} and {name!r}")
                groups[kind] = name
        return self._through(partial(_grouped, groups))

    def distinct(self, contradictory: str = "first") -> Dataset:
        """The first of the examples that ask the same question of the same image.

        COCO-QA asks some questions several times; in an average each would count several times. Some of these it
        answers in several ways (answers are compared in VQA's normal form): each such example is a problem, and told
        of.

        Args:
            contradictory: "first" keeps the first example of a question with several answers, "none" keeps no
                example of it, as nobody knows which answer is right; the rows are then read twice.

        Raises:
            InputError: for another `contradictory`; if the data set is strict and there are contradictory answers.
        """
        one_of(contradictory, ("first", "none"), "contradictory", InputError)
        return self._through(partial(_distinct, self if contradictory == "none" else None))

    def sample(self, n: int, seed: int = 0) -> Dataset:
        """n examples, drawn without replacement, in the order of the data set.

        The rows are read once, now. Which are drawn depends on the seed and their ids
        alone, not on their order, and a smaller sample is part of a larger one.

        Raises:
            InputError: if there are fewer than n.
        """
        whole(n, "sample n", 1, InputError)
        whole(seed, "seed", 0, InputError)
        count = itertools.count()
        drawn = heapq.nsmallest(n, ((lot(seed, e.id), next(count), e) for e in self))
        if len(drawn) < n:
            raise InputError(f"sample of {n} from {self.name}: there are only {len(drawn)} examples")
        in_order = sorted(drawn, key=lambda row: row[1])
        return Dataset.of(self.name, (example for _, _, example in in_order), self.problems, self.strict)


def lot(seed: int, *names: str | None) -> bytes:
    """Random bytes that a seed and names fix."""
    return hashlib.blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=16).digest()


def template_of(question: str) -> str:
    """A question with `*` for its content words: `what is the color of the *`.

    What stays are question words, attribute words (color, shape, ...) and function words,
    see `nnblip.roles`.
    """
    kept = QUESTION_WORDS | ATTRIBUTE_WORDS | FUNCTION_WORDS | {"many", "much"}
    words = [word if word in kept else "*" for word in _plain(question).split()]
    return re.sub(r"\*( \*)+", "*", " ".join(words))


def _some(problems: list[Problem]) -> str:
    return "; ".join(map(str, problems[:3])) + ("; ..." if len(problems) > 3 else "")


def _distinct(twice: Dataset | None, rows: Iterable[Example | Problem]) -> Iterator[Example | Problem]:
    """The first example of each question about an image; of those that `twice` has with several answers none."""
    first: dict[Any, tuple[str | None, str | None]] = {}  # id and answer
    doubtful: dict[Any, str] = {}
    if twice is not None:
        for row in twice._checked():
            if isinstance(row, Example) and (said := _contradiction(first, row)):
                doubtful.setdefault(_asked(row), said)
        first = {}
    for row in rows:
        if isinstance(row, Problem):
            yield row
        elif (key := _asked(row)) not in first:
            first[key] = row.id, row.answer
            yield Problem(f"id {row.id}", f"{doubtful[key]}; none is kept") if key in doubtful else row
        elif twice is None and (said := _contradiction(first, row)):
            yield Problem(f"id {row.id}", f"{said}; the first is kept")


def _contradiction(first: dict[Any, tuple[str | None, str | None]], other: Example) -> str:
    """What is said of an example that asks what another asked before it, "" if it is answered alike or new."""
    name, answer = first.setdefault(_asked(other), (other.id, other.answer))
    if answer is None or other.answer is None or normalized(answer) == normalized(other.answer):
        return ""
    return f"{told(other.question)} is answered {told(answer)} by {name} and {told(other.answer)} by {other.id}"


def _asked(example: Example) -> Any:
    return _image_key(example), _plain(example.question)


def _retyped(field: str, rows: Iterable[Example | Problem]) -> Iterator[Example | Problem]:
    for row in rows:
        if isinstance(row, Example):
            one_of(field, row.extra, f"{row.id}: field", InputError)
            kind = row.extra[field]
            extra = {**row.extra, "given_type": row.question_type}
            row = replace(row, question_type=None if kind is None else str(kind), extra=extra)
        yield row


def _grouped(groups: Mapping[str, str], rows: Iterable[Example | Problem]) -> Iterator[Example | Problem]:
    found: dict[str, None] = {}
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        kind = str(row.question_type)
        found[kind] = None
        if kind in groups:
            yield replace(row, question_type=groups[kind], extra={**row.extra, "given_type": row.question_type})
    for kind in groups if found else ():
        one_of(kind, found, "question type", InputError)


def _image_key(example: Example) -> Any:
    image = example.extra.get("image_id", example.image)
    return image if isinstance(image, Hashable) else id(image)


def _plain(question: str) -> str:
    """Lower case, single spaces, no punctuation at the end."""
    return " ".join(question.lower().split()).rstrip(" ?!.")


def _pattern(template: str) -> re.Pattern[str]:
    if not isinstance(template, str):
        raise InputError(f"template {template!r:.100}: expected a question such as 'what is the color of the *'")
    words = [r"\S+(?: \S+)*" if word == "*" else re.escape(word) for word in _plain(template).split()]
    if not words:
        raise InputError(f"template {template!r}: expected a question such as 'what is the color of the *'")
    return re.compile(" ".join(words))


def _several(value: Any) -> Collection[Any]:
    """One value or several, as a collection."""
    return (value,) if isinstance(value, str | int | float) else value
