"""`Dataset`: examples read one at a time, what was wrong with the rest, and how to choose among them."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from nnblip.datasets.looks import as_html
from nnblip.datasets.values import Seen
from nnblip.errors import InputError, NnblipWarning, PlaceError, told, whole
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

    Args:
        name: what it is called in messages and results.
        rows: gives, at each call, the examples and problems in their order.
        strict: the first problem raises `InputError` instead.

    Attributes:
        problems: what was skipped in the latest complete iteration.
    """

    def __init__(self, name: str, rows: Callable[[], Iterable[Example | Problem]], strict: bool = False) -> None:
        self.name = name
        self.strict = strict
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
            said = "; ".join(map(str, problems[:3])) + ("; ..." if len(problems) > 3 else "")
            warnings.warn(f"{self.name}: {len(problems)} rows skipped: {said}", NnblipWarning, stacklevel=2)

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
            read = list(self._checked())
            bad = [row for row in read if isinstance(row, Problem)]
            if bad and self.strict:
                raise InputError(f"{bad[0]} (strict=False would skip it)")
            self._read, self.problems = read, [*self._known, *bad]
            self._kept = [row for row in read if isinstance(row, Example)]
        return self._kept

    def __repr__(self) -> str:
        known = "" if self._read is None else f"{len(self._examples())} examples, "
        return f"<Dataset {self.name}, {known}{len(self.problems)} problems>"

    def _repr_html_(self) -> str:
        return as_html(repr(self).strip("<>"), (row for row in self._checked() if isinstance(row, Example)))

    def _checked(self) -> Iterator[Example | Problem]:
        """The rows; an id that came before is a problem."""
        if self._read is not None:
            yield from self._read
            return
        seen: set[str] = set()
        for row in self._rows():
            if isinstance(row, Example):
                if row.id is None or row.id in seen:
                    row = Problem(f"id {row.id}", "no id" if row.id is None else "this id came before")
                else:
                    seen.add(row.id)
            yield row

    def _through(self, chosen: Callable[[Iterator[Example | Problem]], Iterable[Example | Problem]]) -> Dataset:
        found = Dataset(self.name, lambda: chosen(self._checked()), self.strict)
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

    def distinct(self) -> Dataset:
        """The first of the examples that ask the same question of the same image.

        COCO-QA asks some questions several times; in an average each would count several times.
        """

        def first(rows: Iterator[Example | Problem]) -> Iterator[Example | Problem]:
            seen: set[tuple[Any, str]] = set()
            for row in rows:
                key = None if isinstance(row, Problem) else (_image_key(row), _plain(row.question))
                if key is None or key not in seen:
                    yield row
                if key is not None:
                    seen.add(key)

        return self._through(first)

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
