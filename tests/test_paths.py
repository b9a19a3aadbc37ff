"""Edges: which there are, and what is refused. (Numbers: tests/test_oracle_edges.py.)"""

from __future__ import annotations

import itertools

import pytest

import nnblip
from nnblip import sites
from nnblip.edges import knock_out
from nnblip.errors import SiteError
from nnblip.paths import CONTRIBUTIONS, INPUTS, Edge, describe_edge
from nnblip.sites import Extent, Site, gather

EXTENT = Extent(3, 4, 2, 2, image_layers=2, side=2)
SUB = ("attention_out", "crossattention_out", "mlp_out")


def question(kind, layer=0, token=0, head=None):
    return Site("question_encoder", kind, layer, token, head)


def answer(kind, layer=0, token=0, head=None):
    return Site("answer_decoder", kind, layer, token, head)


def image(*tokens, layer=1):
    return [Site("image_encoder", layer=layer, token=token) for token in tokens]


def by_hand(receiver, input, senders):
    """The senders of a receiver's input, from the sentences of the vocabulary."""
    order = {"attention_out": 0, "crossattention_out": 1, "mlp_out": 2}
    found = []
    for sender in senders:
        before = (sender.layer, order[sender.kind]) < (receiver.layer, order[receiver.kind])
        if receiver.kind == "crossattention_out" and input in ("key", "value"):
            good = receiver.component == "answer_decoder" and sender.component == "question_encoder"
        elif sender.component != receiver.component or not before:
            good = False
        elif input in ("query", "mlp"):
            good = sender.token == receiver.token
        else:
            good = sender.component == "question_encoder" or sender.token <= receiver.token
        if good:
            found.append(sender)
    return found


def test_the_family_has_exactly_the_edges_there_are_and_no_other_can_be_made():
    every = [
        Site(component, kind, layer, token)
        for component, tokens in (("question_encoder", 4), ("answer_decoder", 2))
        for kind, layer, token in itertools.product(SUB, range(3), range(tokens))
    ]
    made = set()
    for component in ("question_encoder", "answer_decoder"):
        made |= {e for e in sites.edges(SUB, component)(EXTENT) if e.sender[0].component != "image_encoder"}
    expected, refused = set(), 0
    for receiver in every:
        for input in INPUTS[receiver.kind]:
            good = by_hand(receiver, input, every)
            expected |= {((sender,), receiver, input) for sender in good}
            for sender in set(every) - set(good):
                refused += 1
                with pytest.raises(SiteError):
                    Edge(sender, receiver, input)
    assert {(e.sender, e.receiver, e.input) for e in made} == expected and len(expected) > 500 and refused > 500


def test_the_image_comes_in_regions():
    cells = sites.edges("crossattention_head", "question_encoder", "block", "value", 1, 3, regions=2)(EXTENT)
    assert [(e.receiver.head, [s.token for s in e.sender]) for e in cells] == [
        (head, tokens) for head in (0, 1) for tokens in ([0], [1], [2], [3], [4])
    ]
    whole = sites.edges("crossattention_out", "question_encoder", inputs="key", layer=0, token=0)(EXTENT)
    assert [[s.token for s in e.sender] for e in whole] == [[0], [1, 2, 3, 4]]


def test_one_edge_is_the_same_however_its_region_is_given():
    receiver = question("crossattention_out", 1, 2)
    one = Edge(image(3, 1, 2), receiver, "key")
    assert one == Edge(iter(image(1, 2, 3, 3)), receiver, "key") and hash(one) == hash(
        Edge(image(2, 3, 1), receiver, "key")
    )
    assert Edge(image(1)[0], receiver, "key") == Edge(image(1), receiver, "key")
    told = "image_encoder block layer 1 tokens 1-3 -> question_encoder crossattention_out layer 1 token 2 key"
    assert str(one) == told and nnblip.Edge is Edge
    assert describe_edge(one) == {
        "edge": told, "input": "key",
        "sender_component": "image_encoder", "sender_kind": "block", "sender_layer": 1, "sender_head": -1,
        "sender_token": -1,
        "receiver_component": "question_encoder", "receiver_kind": "crossattention_out", "receiver_layer": 1,
        "receiver_head": -1, "receiver_token": 2,
    }  # fmt: skip


def test_heads_send_and_receive():
    edge = Edge(question("attention_head", 0, 1, 1), answer("crossattention_head", 2, 0, 0), "value")
    edge.check(EXTENT)
    with pytest.raises(SiteError, match="head 2 of question_encoder: there are 2"):
        Edge(question("attention_head", 0, 1, 2), answer("crossattention_head", 2, 0, 0), "value").check(EXTENT)
    heads = [kind for kind in CONTRIBUTIONS if kind.endswith("head")]
    found = sites.edges(heads, "question_encoder", heads, layer=1)(EXTENT)
    assert len(found) == len(set(found)) and all(
        e.sender[0].head is not None for e in found if e.reads != "image_encoder"
    )
    assert {e.receiver.head for e in found} == {0, 1}


def test_the_last_block_is_what_the_question_encoder_hands_over():
    (edge, *more) = sites.edges(senders="block", inputs="value", layer=0, token=1)(EXTENT)
    assert edge == Edge(question("block", 2, 0), answer("crossattention_out", 0, 1), "value") and len(more) == 3
    with pytest.raises(SiteError, match="expected layer 2"):
        Edge(question("block", 1, 0), answer("crossattention_out", 0, 1), "value").check(EXTENT)
    with pytest.raises(SiteError, match="expected layer 1"):
        Edge(image(1, layer=0), question("crossattention_out"), "key").check(Extent(3, 4, 2, 2, 2, 2, "pixels"))


@pytest.mark.parametrize(
    ("sender", "receiver", "input", "says"),
    [
        (question("mlp_out", 1), question("attention_out", 1), "query", "the sender comes after the receiver"),
        (question("attention_out", 1), question("attention_head", 1, 0, 0), "query", "or is its part"),
        (question("mlp_out", 0, 1), question("mlp_out", 1, 2), "mlp", "expected a sender at token 2"),
        (question("mlp_out", 0, 1), question("attention_out", 1, 2), "query", "expected a sender at token 2"),
        (answer("mlp_out", 0, 1), answer("attention_out", 1, 0), "value", "no word of the answer reads a later one"),
        (question("mlp_out"), answer("attention_out", 1), "value", "read from the answer_decoder; expected one of"),
        (question("mlp_out"), answer("mlp_out", 1), "mlp", "read from the answer_decoder"),
        (question("mlp_out"), question("crossattention_out", 1), "value", "from the image_encoder; expected nnblip"),
        (image(1), answer("crossattention_out"), "key", "read from the question_encoder; expected one of"),
        (image(1), question("attention_out"), "key", "read from the question_encoder"),
        (question("block", 2), question("attention_out", 2), "key", "'block' adds nothing"),
        (question("attention", 2), answer("crossattention_out"), "key", "kind 'attention'; expected one of"),
        (question("mlp_out"), question("block", 1), "mlp", "kind of a receiver 'block' is unknown"),
        (question("mlp_out"), question("mlp_out", 1), "value", "'value' is unknown. Expected one of: mlp"),
        (question("mlp_out"), question("attention_out", 1), "mlp", "Expected one of: query, key, value"),
        (image(1), image(2)[0], "key", "expected one in question_encoder or answer_decoder"),
        ([*image(1), *image(1, layer=0)], question("crossattention_out"), "key", "a region of one layer"),
        ([question("mlp_out"), question("mlp_out", 0, 1)], question("attention_out", 1), "key", "2 senders; expected"),
        ([], question("attention_out", 1), "key", "give at least one nnblip.Site"),
        ("mlp", question("attention_out", 1), "key", "is not a site"),
        (question("mlp_out"), "mlp", "mlp", "receiver 'mlp': expected a nnblip.Site"),
    ],
)  # fmt: skip
def test_edges_that_blip_does_not_have_are_refused(sender, receiver, input, says):
    with pytest.raises(SiteError, match=says):
        Edge(sender, receiver, input)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: sites.edges("block"), "kind of a receiver 'block' is unknown"),
        (lambda: sites.edges(senders="attention"), "did you mean 'attention_out'"),
        (lambda: sites.edges(component="image_encoder"), "component of receivers 'image_encoder' is unknown"),
        (lambda: sites.edges(inputs="keys"), "did you mean 'key'"),
        (lambda: sites.edges(layer=-1), "layer -1 of receivers"),
        (lambda: sites.edges(layer=3)(EXTENT), "layer 3 of answer_decoder: there are 3"),
        (lambda: sites.edges(token=2)(EXTENT), "token 2 of answer_decoder: there are 2"),
        (lambda: sites.edges("attention_out", layer=0)(EXTENT), "nothing comes before"),
        (lambda: sites.edges(component="question_encoder", regions=3)(EXTENT), "does not divide the 2 x 2"),
        (lambda: gather([], EXTENT), "at least one"),
        (lambda: gather(5, EXTENT), "expected a family"),
        (lambda: gather([knock_out("image_to_question"), knock_out("image_to_question")], EXTENT), "given twice"),
        (lambda: gather(knock_out("image_to_question", 3), EXTENT), "layer 3"),
        (lambda: gather(Edge(question("mlp_out"), question("mlp_out", 3), "mlp"), EXTENT), "layer 3"),
    ],
)
def test_families_and_lists_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(SiteError, match=says):
        wrong()


def test_edges_and_knock_outs_are_gathered_in_their_order():
    edge = Edge(question("mlp_out"), question("mlp_out", 1), "mlp")
    alone = question("block")
    found = gather([edge, alone, sites.knock_outs(targets="all"), knock_out("answer_to_answer")], EXTENT)
    assert found[:2] == [edge, (alone,)] and len(found) == 6
