"""VQA's official soft accuracy, and its normal form of answers.

Source: the evaluation code of github.com/GT-Vision-Lab/VQA, written anew from its rules; where
they are odd (a period after a digit stays, "somebody'd" loses its apostrophe) so are these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number) for number, word in enumerate("one two three four five six seven eight nine ten".split(), 1)
}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")

# An answer's contraction gets back one apostrophe that it lacks.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}


def accuracy(answer: str, answers: Iterable[str]) -> float:
    """How right an answer is, 0 to 1: for each of the people, min(1, matches among the others / 3); their mean.

    As in the official code, answers are brought to normal form only where the people disagree.

    Args:
        answer: the model's.
        answers: those of the (ten) people.
    """
    people = [_flat(one) for one in answers]
    said = _flat(answer)
    if len(set(people)) > 1:
        people, said = [normalized(one) for one in people], normalized(said)
    matches = sum(one == said for one in people)
    if not people:
        return 0.0
    return sum(min(1.0, (matches - (one == said)) / 3) for one in people) / len(people)


def normalized(answer: str) -> str:
    """Without punctuation and articles, in lower case, numbers up to ten in digits, apostrophes put back."""
    plain = _flat(answer)
    in_number = _COMMA_IN_NUMBER.search(plain) is not None
    cleaned = plain
    for sign in _PUNCTUATION:
        apart = f"{sign} " in plain or f" {sign}" in plain
        cleaned = cleaned.replace(sign, "" if apart or in_number else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _flat(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
