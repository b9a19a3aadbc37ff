"""The role of each token of a question, so that questions of different lengths can be averaged.

Plain rules, first that fits:

1. `[CLS]`, `[SEP]`: the special tokens. Punctuation is `punctuation`.
2. `question word`: what, which, how, where, ... and "many", "much" after "how".
3. `attribute word`: color, colour, shape, size, number, kind, type, material, ...
4. `function word`: articles, prepositions, pronouns, forms of be, do, have, modal verbs, not.
5. `content word`: every other word; the last of them is `last content word`.

The pieces of one word ("##" in WordPiece) have the role of the whole word.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    words: list[list[int]] = []  # the positions of each word's pieces
    for position, token in enumerate(tokens):
        if token.startswith("##") and words:
            words[-1].append(position)
        else:
            words.append([position])
    found, last_content = [""] * len(tokens), None
    previous = ""
    for pieces in words:
        word = "".join(tokens[p].removeprefix("##") for p in pieces).lower()
        role = _role(word, previous)
        for position in pieces:
            found[position] = role
        if role == "content word":
            last_content = pieces
        previous = word
    for position in last_content or []:
        found[position] = "last content word"
    return tuple(found)


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
