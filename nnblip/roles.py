"""The role of each token of a question, so that questions of different lengths can be averaged.

Plain rules, first that fits:

1. `[CLS]`, `[SEP]`: the special tokens. Punctuation is `punctuation`.
2. `question word`: what, which, how, where, ... and "many", "much" after "how".
3. `attribute word`: color, colour, shape, size, number, kind, type, material, ...
4. `function word`: articles, prepositions, pronouns, forms of be, do, have, modal verbs, not.
5. `content word`: every other word; the last of them is `last content word`.

The pieces of one word ("##" in WordPiece) have the role of the whole word. Any other function from
tokens to roles can stand in for these rules, see `Rules`.

The tokens of other components have two roles each: `[CLS]` and `image` in the image encoder, `[DEC]`
and `answer word` in the answer decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nnblip.errors import SettingError
from nnblip.words import words_of

#: The roles of a question's tokens, in the order in which averages have them.
ROLES = (
    "[CLS]", "question word", "attribute word", "function word", "content word", "last content word",
    "punctuation", "[SEP]",
)  # fmt: skip
QUESTION_WORDS = frozenset("what which how where who whom whose when why".split())
ATTRIBUTE_WORDS = frozenset(
    "color colour colors colours shape shapes size number kind type material texture pattern brand".split()
)
FUNCTION_WORDS = frozenset(
    """a an the this that these those of in on at by to from with without for into onto under over above below
    behind beside near next between around and or not no is are was were be been being do does did has have had
    can could will would should may might must there here it its he she they them his her their you your i we
    our any some all than as about across against along am among before after during down him inside me off out
    outside past through toward up us s""".split()
)


def roles(tokens: Sequence[str]) -> tuple[str, ...]:
    """The role of each token, one of `ROLES`.

    Args:
        tokens: the question's tokens as the tokenizer names them, [CLS] and [SEP] included.
    """
    found, last_content = [""] * len(tokens), None
    previous = ""
    for word, pieces in words_of(tokens):
        word = word.lower()
        role = _role(word, previous)
        for position in pieces:
            found[position] = role
        if role == "content word":
            last_content = pieces
        previous = word
    for position in last_content or []:
        found[position] = "last content word"
    return tuple(found)


#: What can stand in for `roles`.
RoleFunction = Callable[[tuple[str, ...]], Iterable[str]]


@dataclass(frozen=True, repr=False)
class Rules:
    """A function from the tokens of a question to a role for each, checked; shown and recorded by its name.

    The function gets a tuple of texts, [CLS] and [SEP] included, and returns as many: "" for a token
    that has no role. `by_role` gives a word the role of its first piece.
    """

    function: RoleFunction = roles

    @classmethod
    def of(cls, given: Any) -> Rules:
        """Those of `roles` for None. Raises `NnblipError` for what is no function."""
        if given is None or isinstance(given, Rules):
            return given or cls()
        if not callable(given):
            raise SettingError(f"roles {given!r:.100}: expected a function from a question's tokens to a role for each")
        return cls(given)

    def __call__(self, tokens: Iterable[str]) -> tuple[str, ...]:
        """Raises `NnblipError` if the function does not return one text for each token."""
        tokens = tuple(tokens)
        found: Any = self.function(tokens)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise SettingError(f"roles: {self} returned {found!r:.100} for {list(tokens)}, expected a list of texts")
        found = list(found)
        if wrong := [role for role in found if not isinstance(role, str)]:
            raise SettingError(f"roles: {self} returned the role {wrong[0]!r:.100} for {list(tokens)}, expected texts")
        if len(found) != len(tokens):
            raise SettingError(
                f"roles: {self} returned {len(found)} roles for {len(tokens)} tokens: {found} for {list(tokens)};"
                " expected one for each"
            )
        return tuple(map(str, found))

    def __repr__(self) -> str:
        function: Any = self.function
        while isinstance(function, partial):
            function = function.func
        if not hasattr(function, "__qualname__"):
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"


def answer_roles(tokens: Sequence[str]) -> tuple[str, ...]:
    """The role of each token of the answer decoder's input, which starts with [DEC]."""
    return tuple("answer word" if position else "[DEC]" for position in range(len(tokens)))


def _role(word: str, previous: str) -> str:
    if word in ("[cls]", "[sep]"):
        return word.upper()
    if not any(character.isalnum() for character in word):
        return "punctuation"
    if word in QUESTION_WORDS or (word in ("many", "much") and previous == "how"):
        return "question word"
    if word in ATTRIBUTE_WORDS:
        return "attribute word"
    return "function word" if word in FUNCTION_WORDS else "content word"
