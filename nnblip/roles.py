"""The role of each token of a question, so that questions of different lengths can be averaged.

Plain rules, first that fits:

1. `[CLS]`, `[SEP]`: the special tokens. Punctuation is `punctuation`.
2. `question word`: what, which, how, where, ... and "many", "much" after "how".
3. `attribute word`: color, colour, shape, size, number, kind, type, material, ...
4. `picture word`: picture, photo, image, ... where it means the picture that is asked about ("is there a dog in
   this photo"), and not a thing in it ("a picture on the wall", "the picture frame"). Every fourteenth
   question of VQA ends with such a word, which says nothing of what is asked for.
5. `function word`: articles, prepositions, pronouns, conjunctions, forms of be, do, have, modal verbs, not.
   So are both halves of "isn't" and the "front" of "in front of".
6. `content word`: every other word, numbers among them; the last of them is `last content word`.

Lists of words know no grammar: "like" is a function word in "does he like it" too. Of 200 questions of COCO-QA and
VQA v2 that were drawn after the lists were made and judged by hand, 2 have a wrong role.

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
    "[CLS]", "question word", "attribute word", "function word", "picture word", "content word", "last content word",
    "punctuation", "[SEP]",
)  # fmt: skip
QUESTION_WORDS = frozenset("what which how where who whom whose when why".split())
ATTRIBUTE_WORDS = frozenset(
    """color colour colors colours shape shapes size number kind kinds type types sort material texture pattern
    brand""".split()
)
PICTURE_WORDS = frozenset("picture photo photograph image pic".split())
FUNCTION_WORDS = frozenset(
    """a an the this that these those such
    other others another each every same both either neither any some all none no own
    i me my mine we us our ours you your yours he him his she her hers it its they them their theirs
    myself yourself himself herself itself ourselves themselves oneself
    someone anyone everyone somebody anybody everybody nobody something anything everything nothing
    somewhere anywhere everywhere nowhere someplace
    of in on at by to from with without within for into onto upon off out over above below behind beside besides
    beneath underneath under near next between among amongst amid around about across against along alongside atop
    before after during since until till through throughout toward towards up down inside outside past via per
    despite except including beyond like unlike opposite
    and or nor but if while whether because so though although unless than as yet
    is are was were be been being am do does did has have had
    can could will would shall should may might must cannot
    not never ever very too also just only even still already almost quite rather else again then now here there
    s""".split()
)
#: What BERT's tokenizer leaves of a shortened word before and after the apostrophe: isn ' t, they ' re.
NEGATED = frozenset(
    "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shouldn wasn weren won wouldn".split()
)
SHORTENED = frozenset("s t re ve ll d m".split())
#: Prepositions of three words; each word of them is a function word.
PHRASES = frozenset([("in", "front", "of"), ("on", "top", "of")])
#: After these a picture word is a thing in the picture: the picture frame.
PICTURE_THINGS = frozenset("frame frames album albums book books booth window".split())
APOSTROPHES = frozenset("'\u2019")


def roles(tokens: Sequence[str]) -> tuple[str, ...]:
    """The role of each token, one of `ROLES`.

    Args:
        tokens: the question's tokens as the tokenizer names them, [CLS] and [SEP] included.
    """
    words = words_of(tokens)
    texts = [word.lower() for word, _ in words]
    found, last_content = [""] * len(tokens), None
    for place, (_, pieces) in enumerate(words):
        role = _role(texts, place)
        for position in pieces:
            found[position] = role
        if role == "content word":
            last_content = pieces
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


def _role(words: Sequence[str], place: int) -> str:
    """Of one word among the others."""
    word, before = words[place], words[place - 1] if place else ""
    if word in ("[cls]", "[sep]"):
        return word.upper()
    if not any(character.isalnum() for character in word):
        return "punctuation"
    if word in QUESTION_WORDS or (word in ("many", "much") and before == "how"):
        return "question word"
    if word in ATTRIBUTE_WORDS:
        return "attribute word"
    if word in PICTURE_WORDS and _is_the_picture(words, place):
        return "picture word"
    return "function word" if word in FUNCTION_WORDS or _is_part(words, place) else "content word"


def _is_the_picture(words: Sequence[str], place: int) -> bool:
    """Is it the picture that is asked about? "this black and white photo" is, "the color of the photo" is not."""
    if place + 1 < len(words) and words[place + 1] in PICTURE_THINGS:
        return False
    first = place - 1
    while first >= 0 and words[first] not in ("the", "this") and (words[first] == "and" or _is_plain(words[first])):
        first -= 1
    if first < 0 or words[first] not in ("the", "this"):
        return False
    return not (first >= 2 and words[first - 1] == "of" and words[first - 2] in ATTRIBUTE_WORDS)


def _is_plain(word: str) -> bool:
    """Is it in no list?"""
    listed = word in QUESTION_WORDS or word in ATTRIBUTE_WORDS or word in PICTURE_WORDS or word in FUNCTION_WORDS
    return word.isalnum() and not listed


def _is_part(words: Sequence[str], place: int) -> bool:
    """Is it a part of a shortened word, such as isn't, or of a phrase?"""
    if place and words[place - 1] in APOSTROPHES and words[place] in SHORTENED:
        return True
    after = words[place + 1 : place + 3]
    if words[place] in NEGATED and len(after) == 2 and after[0] in APOSTROPHES and after[1] == "t":
        return True
    return any(tuple(words[start : start + 3]) in PHRASES for start in range(max(0, place - 2), place + 1))
