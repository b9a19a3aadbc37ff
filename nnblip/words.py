"""The words of a question among its tokens: which positions a text has. Plain Python."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from nnblip.errors import SiteError, told


def words_of(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Each word with the positions of its pieces ("##" in WordPiece), in their order; special tokens are words too."""
    words: list[tuple[str, list[int]]] = []
    for position, token in enumerate(tokens):
        if token.startswith("##") and words:
            text, pieces = words[-1]
            words[-1] = text + token.removeprefix("##"), [*pieces, position]
        else:
            words.append((token.removeprefix("##"), [position]))
    return words


def positions(tokens: Sequence[str], word: str, error: type[Exception] = SiteError, where: str = "") -> list[int]:
    """The positions of a word's pieces, upper and lower case alike; of a piece that is written so ("##o"), its own.

    Args:
        tokens: the question's tokens as the tokenizer names them, [CLS] and [SEP] included. What is padded is "".
        word: a whole word, or a piece that begins with "##".
        error: what is raised.
        where: of which question, for a message; by default its words.

    Raises:
        SiteError: if the question lacks the word (the nearest is suggested) or has it several times (with the
            positions).
    """
    every = [(token, [place]) for place, token in enumerate(tokens)] if word.startswith("##") else words_of(tokens)
    every = [(text, pieces) for text, pieces in every if text]
    found = [pieces for text, pieces in every if text.casefold() == word.strip().casefold()]
    where = where or f"the question {told(' '.join(text for text, _ in words_of(tokens) if text))}"
    if len(found) > 1:
        at = ", ".join(map(str, (pieces[0] for pieces in found)))
        raise error(f"token {told(word)}: {where} has it {len(found)} times, at {at}; expected the position of one")
    if not found:
        near = difflib.get_close_matches(word, [text for text, _ in every], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise error(f"token {told(word)} is not in {where}{hint} It has: {spelt(tokens)}.")
    return found[0]


def spelt(tokens: Sequence[str], places: Iterable[int] | None = None) -> str:
    """Tokens with their positions, such as "4 'dark'"; all of them if none are named."""
    chosen = range(len(tokens)) if places is None else places
    return ", ".join(f"{place} {tokens[place]!r}" for place in chosen if tokens[place])
