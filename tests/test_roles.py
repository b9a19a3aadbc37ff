"""Roles of question tokens, against a table made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnblip.roles import ATTRIBUTE_WORDS, FUNCTION_WORDS, PICTURE_WORDS, QUESTION_WORDS, ROLES, roles

SHORT = {
    "C": "[CLS]",
    "q": "question word",
    "a": "attribute word",
    "f": "function word",
    "P": "picture word",
    "c": "content word",
    "L": "last content word",
    ".": "punctuation",
    "S": "[SEP]",
}

# In the manner of COCO-QA, cut into pieces as BERT's tokenizer does.
TABLE = [
    ("[CLS] what is the color of the character [SEP]", "C q f f a f f L S"),
    ("[CLS] What Is The Color Of The Character ? [SEP]", "C q f f a f f L . S"),
    ("[CLS] how many elephants are walking in the line ? [SEP]", "C q q c f c f f L . S"),
    ("[CLS] how much wine is left [SEP]", "C q q c f L S"),
    ("[CLS] are there many people here [SEP]", "C f f c L f S"),
    ("[CLS] where is the gi ##raf ##fe standing [SEP]", "C q f f c c c L S"),
    ("[CLS] where is the gi ##raf ##fe [SEP]", "C q f f L L L S"),
    ("[CLS] what is the man holding in his hand [SEP]", "C q f f c c f f L S"),
    ("[CLS] which animal is next to the motor ##cycle ? [SEP]", "C q c f f f f L L . S"),
    ("[CLS] what color are the sk ##ate ##board ##s [SEP]", "C q a f f L L L L S"),
    ("[CLS] what kind of dog is this [SEP]", "C q a f L f f S"),
    ("[CLS] what shape is it ? [SEP]", "C q a f f . S"),
    ("[CLS] what is it [SEP]", "C q f f S"),
    ("[CLS] is there a dog [SEP]", "C f f f L S"),
    ("[CLS] does the t - shirt have a num ##ber [SEP]", "C f f c . L f f a a S"),
    ("[CLS] what does the sign say ? ! [SEP]", "C q f f c L . . S"),
    ("[CLS] the woman eats what [SEP]", "C f c L q S"),
    ("[CLS] what is [UNK] [SEP]", "C q f L S"),
    ("[CLS] 2 dogs [SEP]", "C c L S"),
    ("[CLS] [SEP]", "C S"),
    ("[CLS] isn ' t the other dog very old ? [SEP]", "C f . f f f c f L . S"),
    ("[CLS] don ' t they ' re both [SEP]", "C f . f f . f f S"),
    ("[CLS] is the sign ' t ' [SEP]", "C f f L . f . S"),  # no grammar: this t is a letter
    ("[CLS] who won ? [SEP]", "C q L . S"),
    ("[CLS] what is in front of the house [SEP]", "C q f f f f f L S"),
    ("[CLS] what color is the front of the train [SEP]", "C q a f f c f f L S"),
    ("[CLS] what are on top of each other [SEP]", "C q f f f f f f S"),
    ("[CLS] is the man on top [SEP]", "C f f c f L S"),
]
PICTURES = [
    ("[CLS] how many dogs are in the picture ? [SEP]", "C q q L f f f P . S"),
    ("[CLS] where was this photo taken ? [SEP]", "C q f f P L . S"),
    ("[CLS] what is this black and white photo of [SEP]", "C q f f c f L P f S"),
    ("[CLS] is there a picture on the wall [SEP]", "C f f f c f f L S"),
    ("[CLS] is this a picture of a girl [SEP]", "C f f f c f f L S"),
    ("[CLS] what color is the picture frame [SEP]", "C q a f f c L S"),
    ("[CLS] what is the color of the photograph [SEP]", "C q f f a f f L S"),  # COCO-QA asks for a thing's color
    ("[CLS] how many pictures are there [SEP]", "C q q L f f S"),
    ("[CLS] picture [SEP]", "C L S"),
]


def assert_roles(question, expected):
    assert roles(question.split()) == tuple(SHORT[letter] for letter in expected.split())


@pytest.mark.parametrize(("question", "expected"), TABLE)
def test_roles_of_questions_in_the_manner_of_coco_qa(question, expected):
    assert_roles(question, expected)


@pytest.mark.parametrize(("question", "expected"), PICTURES)
def test_the_picture_that_is_asked_about_is_no_content_word(question, expected):
    assert_roles(question, expected)


def test_lists_do_not_overlap():
    lists = (QUESTION_WORDS, ATTRIBUTE_WORDS, PICTURE_WORDS, FUNCTION_WORDS)
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


@pytest.mark.parametrize(
    "word",
    ["other", "while", "each", "another", "same", "someone", "very", "both", "if", "either", "everyone", "also", "but"],
)
def test_words_that_were_missing_from_the_list(word):
    assert roles(["[CLS]", "is", word, "dog", "[SEP]"])[2] == "function word"


@pytest.mark.parametrize(
    "word",
    # all of these are in COCO-QA: "what is parked against the wall", "what is the boy riding through the water"
    [
        "about", "across", "against", "along", "am", "among", "before", "after", "during", "down", "him", "inside",
        "me", "off", "out", "outside", "past", "through", "toward", "up", "us",
    ],
)  # fmt: skip
def test_prepositions_pronouns_and_forms_of_be_are_function_words(word):
    assert roles(["[CLS]", "what", word, "dog", "[SEP]"])[2] == "function word"


def test_the_s_of_a_genitive_is_no_content_word():
    # BERT's tokenizer cuts "the man's hat" and "what's" in three
    assert_roles("[CLS] what is on the man ' s hat [SEP]", "C q f f f c . f L S")
    assert_roles("[CLS] which hat is the man ' s [SEP]", "C q c f f L . f S")


def test_many_is_a_question_word_only_after_how():
    assert roles(["how", "many"])[1] == "question word"
    assert roles(["what", "many"])[1] != "question word"
    assert roles(["how", "##ever", "many"])[2] != "question word"


def test_no_tokens_have_no_roles():
    assert roles([]) == ()


WORDS = st.sampled_from(
    [
        "[CLS]", "[SEP]", "[UNK]", "what", "how", "many", "color", "the", "of", "dog", "twenty", "##one", "##s", "##",
        "?", "'", "cat", "sitting", "this", "picture", "photo", "and", "isn", "t", "in", "front",
    ]
)  # fmt: skip


@given(st.lists(WORDS | st.text(max_size=4)))
def test_every_token_of_any_list_has_one_of_the_roles(tokens):
    found = roles(tokens)
    assert len(found) == len(tokens) and set(found) <= set(ROLES)


@given(st.lists(WORDS | st.text(max_size=4)))
def test_the_pieces_of_a_word_have_one_role(tokens):
    found = roles(tokens)
    for position in range(1, len(tokens)):
        if tokens[position].startswith("##"):
            assert found[position] == found[position - 1]


@given(st.lists(WORDS))
def test_there_is_one_last_content_word_if_there_is_any_and_it_is_the_last(tokens):
    found = roles(tokens)
    content = [i for i, role in enumerate(found) if role in ("content word", "last content word")]
    last = [i for i in content if found[i] == "last content word"]
    assert bool(content) == bool(last)
    if last:
        assert last == content[-len(last) :]
        assert all(tokens[i].startswith("##") for i in last[1:]), "more than one word"
        if last[0] > 0 and tokens[last[0]].startswith("##"):
            pytest.fail("the last content word is cut")
