"""Sites, cells and extents: what is refused, and with which words."""

import itertools
import re

import numpy as np
import pytest

from nnblip.errors import SiteError
from nnblip.paths import Edge
from nnblip.sites import (
    KINDS,
    TEXT_COMPONENTS,
    Extent,
    Site,
    all_tokens,
    as_cell,
    describe,
    gather,
    heatmap,
    image_regions,
    pairs,
    token_across_layers,
    windows,
)

EXTENT = Extent(layers=6, question_tokens=9, answer_tokens=2, heads=4)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("question_encodr", "question_encoder"),
        ("Question_Encoder", "question_encoder"),
        ("anwser_decoder", "answer_decoder"),
        ("image-encoder", "image_encoder"),
    ],
)
def test_misspelt_component_suggests_the_nearest(given, meant):
    with pytest.raises(SiteError, match=rf"component '{given}' is unknown; did you mean '{meant}'\?"):
        Site(given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("blok", "block"),
        ("crossatention", "crossattention"),
        ("cross_attention_out", "crossattention_out"),
        ("mlp", "mlp_out"),
        ("attention_ouput", "attention_out"),
    ],
)
def test_misspelt_kind_suggests_the_nearest(given, meant):
    with pytest.raises(SiteError, match=rf"kind '{given}' is unknown; did you mean '{meant}'\?"):
        Site("question_encoder", given)


@pytest.mark.parametrize("given", ["zzzzzz", "", None, 3, ["zzzzzz"]])
def test_a_name_that_resembles_nothing_lists_all_names_in_a_proper_sentence(given):
    with pytest.raises(SiteError) as caught:
        Site("question_encoder", given)
    assert str(caught.value) == f"kind {given!r} is unknown. Expected one of: {', '.join(KINDS)}."


@pytest.mark.parametrize("name", ["layer", "token"])
@pytest.mark.parametrize("value", [-1, True, False, 1.0, 2.5, "3", None, float("nan"), [1], np.float64(1)])
def test_layer_and_token_must_be_whole_numbers_from_zero(name, value):
    if (name, value) in (("layer", -1), ("token", "3")):
        return  # counted from the end, and a word
    with pytest.raises(SiteError) as caught:
        Site("question_encoder", **{name: value})
    message = str(caught.value)
    assert f"{name} {value!r}" in message and "question_encoder" in message and "whole number" in message


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpy_whole_numbers_name_the_same_site_as_plain_ones(kind):
    # np.argmax and the coordinates of a result give these
    site = Site("question_encoder", layer=kind(3), token=kind(4))
    assert site == Site("question_encoder", layer=3, token=4)
    assert hash(site) == hash(Site("question_encoder", layer=3, token=4))
    assert str(site) == "question_encoder block layer 3 token 4"


@pytest.mark.parametrize(("component", "tokens"), [("question_encoder", 9), ("answer_decoder", 2)])
def test_extent_takes_exactly_the_layers_and_tokens_there_are(component, tokens):
    accepted = set()
    for layer, token in itertools.product(range(8), range(12)):
        try:
            EXTENT.check(Site(component, layer=layer, token=token))
        except SiteError:
            continue
        accepted.add((layer, token))
    assert accepted == set(itertools.product(range(6), range(tokens)))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site("question_encoder", layer=6), "layer 6 of question_encoder: there are 6, 0 to 5"),
        (Site("question_encoder", token=9), "token 9 of question_encoder: there are 9, 0 to 8"),
        (Site("answer_decoder", layer=11, token=1), "layer 11 of answer_decoder: there are 6, 0 to 5"),
        (Site("answer_decoder", token=2), "token 2 of answer_decoder: there are 2, 0 to 1"),
    ],
)
def test_extent_says_how_many_there_are(site, message):
    with pytest.raises(SiteError) as caught:
        EXTENT.check(site)
    assert str(caught.value) == message


def test_where_the_noise_falls_says_which_layers_of_the_image_encoder_can_be_restored():
    late, early = (Extent(6, 9, 2, 4, image_layers=4, side=8, noise_at=place) for place in ("image_embeds", "pixels"))
    site = Site("image_encoder", layer=2, token=64)
    early.check(site)
    assert list(late.depths("image_encoder")) == [3] and list(early.depths("image_encoder")) == [0, 1, 2, 3]
    with pytest.raises(SiteError, match=r"restore layer 3 \(the embeddings\), or let the noise fall earlier"):
        late.check(site)


def test_regions_part_the_patches():
    extent = Extent(6, 9, 2, 4, image_layers=12, side=24)
    cells = image_regions(6)(extent)
    assert len(cells) == 37 and {len(cell) for cell in cells[1:]} == {16} and cells[0][0].token == 0
    assert sorted(site.token for cell in cells for site in cell) == list(range(577))
    assert [site.token for site in cells[8]] == [1 + y * 24 + x for y in range(4, 8) for x in range(4, 8)]
    assert len(image_regions((2, 3), layer=5, cls=False)(extent)) == 6


@pytest.mark.parametrize(("component", "tokens"), [("question_encoder", 9), ("answer_decoder", 2)])
def test_heatmap_has_every_state_once_ordered_by_kind_layer_token(component, tokens):
    kinds = ("mlp_out", "block", "attention")  # not the order of KINDS: the given order counts
    cells = heatmap(EXTENT, component, kinds)
    # what reshape(kind, layer, token) relies on
    assert [(s.component, s.kind, s.layer, s.token) for (s,) in cells] == [
        (component, *index) for index in itertools.product(kinds, range(6), range(tokens))
    ]


def test_heatmap_stays_inside_the_extent():
    for component in TEXT_COMPONENTS:
        for (site,) in heatmap(EXTENT, component, KINDS):
            EXTENT.check(site)


def test_heatmap_of_heads_has_the_head_before_the_token():
    cells = heatmap(EXTENT, "answer_decoder", ("crossattention_head",))
    assert [(s.layer, s.head, s.token) for (s,) in cells] == list(itertools.product(range(6), range(4), range(2)))


@pytest.mark.parametrize(("kind", "head"), [("block", 0), ("attention_head", None), ("crossattention_head", -1)])
def test_a_head_is_needed_where_the_kind_has_heads_and_only_there(kind, head):
    with pytest.raises(SiteError, match="head"):
        Site("question_encoder", kind, 0, 0, head)
    with pytest.raises(SiteError, match="head 4 of question_encoder: there are 4"):
        EXTENT.check(Site("question_encoder", "attention_head", 0, 0, 4))


def test_windows_are_whole_and_of_every_width():
    cells = windows([1, 3], kind="attention")(EXTENT)
    assert len(cells) == 9 * (6 + 4)
    assert all(len({site.token for site in cell}) == 1 for cell in cells)
    assert {tuple(site.layer for site in cell) for cell in cells if len(cell) == 3} == {
        (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)
    }  # fmt: skip
    assert describe(cells[-1]) == {
        "cell": "; ".join(f"question_encoder attention layer {layer} token 8" for layer in (3, 4, 5)),
        "component": "question_encoder", "kind": "attention", "layer": 3, "width": 3, "token": 8, "size": 3,
    }  # fmt: skip


def rome(layers, window):
    """The columns of ROME's code and the paper's second notebook: the layers around each layer, cut at the ends."""
    return [[*range(max(0, layer - window // 2), min(layers, layer - (-window // 2)))] for layer in range(layers)]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("component", TEXT_COMPONENTS)
def test_windows_of_the_papers_second_notebook_are_one_call(component, width):
    cells = windows(width, kind="attention", component=component, align="center", edges="cut")(EXTENT)
    wanted = [
        [(layer, token) for layer in column] for column in rome(6, width) for token in range(EXTENT.tokens(component))
    ]
    assert [[(site.layer, site.token) for site in cell] for cell in cells] == wanted
    assert {(site.component, site.kind) for cell in cells for site in cell} == {(component, "attention")}


def test_windows_cut_at_the_end_or_left_out():
    def spans(*given, **how):
        return [[site.layer for site in cell] for cell in windows(*given, **how)(EXTENT) if cell[0].token == 0]

    assert spans(3, edges="cut") == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5], [5]]
    assert spans(3, align="center") == spans(3), "whole windows are the same, whatever a window is called after"
    both = spans([1, 2], edges="cut")
    assert both == [[0], [1], [2], [3], [4], [5], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]], "[5] is there already"
    assert len(gather(windows([1, 2, 3], align="center", edges="cut"), EXTENT)) == 9 * (6 + 5 + 5 - 0) - 9


def test_families_of_all_tokens_and_of_one_token():
    assert [len(cell) for cell in all_tokens()(EXTENT)] == [9] * 6
    (cell,) = all_tokens(2, component="answer_decoder")(EXTENT)
    assert cell == (Site("answer_decoder", layer=2, token=0), Site("answer_decoder", layer=2, token=1))
    (cell,) = token_across_layers(4)(EXTENT)
    assert cell == tuple(Site("question_encoder", layer=layer, token=4) for layer in range(6))


def test_pairs_come_with_their_single_sites():
    a, b, c = (Site("question_encoder", layer=i) for i in range(3))
    assert pairs([a, b, c])(EXTENT) == [(a,), (b,), (c,), (a, b), (a, c), (b, c)]
    assert pairs([a], [b, c])(EXTENT) == [(a,), (b,), (c,), (a, b), (a, c)]


A_SITE = Site("question_encoder", layer=1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: windows(0), "window width 0"),
        (lambda: windows(2.5), "window width"),
        (lambda: windows(7)(EXTENT), "has 6 layers"),
        (lambda: windows(2, kind="blok"), "did you mean 'block'"),
        (lambda: windows(2, align="centre"), "did you mean 'center'"),
        (lambda: windows(2, edges="keep"), "Expected one of: drop, cut"),
        (lambda: windows(2, kind="attention_head"), "heads"),
        (lambda: pairs([A_SITE]), "at least two"),
        (lambda: pairs([A_SITE], [A_SITE]), "at least two"),
        (lambda: gather([], EXTENT), "at least one"),
        (lambda: gather([[]], EXTENT), "empty"),
        (lambda: gather([[A_SITE], A_SITE], EXTENT), "twice"),
        (lambda: gather([[A_SITE, "block"]], EXTENT), "not a site"),
        (lambda: gather(all_tokens(6), EXTENT), "layer 6"),
        (lambda: gather(7, EXTENT), "cells 7"),
    ],
)
def test_cells_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(SiteError, match=says):
        wrong()


@pytest.mark.parametrize("collection", [list, tuple, iter, set, dict.fromkeys])
def test_a_cell_is_made_of_any_collection_of_sites(collection):
    sites = [Site("question_encoder", layer=2), Site("answer_decoder", "mlp_out", 1, 1)]
    cell = as_cell(collection(sites))
    assert isinstance(cell, tuple) and len(cell) == 2 and set(cell) == set(sites)


def test_one_site_is_a_cell_of_its_own():
    site = Site("answer_decoder", layer=3)
    assert as_cell(site) == (site,)


@pytest.mark.parametrize("empty", [(), [], set(), iter([])])
def test_an_empty_cell_is_refused(empty):
    with pytest.raises(SiteError, match=r"restores nothing: give at least one nnblip\.Site"):
        as_cell(empty)


@pytest.mark.parametrize(
    "given",
    [
        [("question_encoder", "block", 3, 4)],
        ["block"],
        "block",
        [Site("question_encoder"), None],
        [[Site("question_encoder")]],
        5,
        3.5,
    ],
)
def test_what_is_no_site_is_refused_and_the_message_shows_how_to_write_one(given):
    with pytest.raises(SiteError, match=r"is not a site: expected nnblip\.Site\(component, kind, layer=, token=\)"):
        as_cell(given)


# --- words, and layers from the end -----------------------------------------------------------

READ = ("[CLS]", "is", "the", "giz", "##mo", "on", "the", "light", "blue", "rect", "##ang", "##le", "[SEP]")
ASKED = Extent(6, len(READ), 1, 4, image_layers=4, side=8, texts=READ)


@pytest.mark.parametrize(
    ("word", "tokens"),
    [("light", [7]), ("Blue", [8]), ("gizmo", [3, 4]), ("rectangle", [9, 10, 11]), ("##ang", [10]), ("[SEP]", [12])],
)
def test_a_word_is_its_pieces(word, tokens):
    site = Site("question_encoder", "attention", 2, word)
    assert ASKED.resolve(site) == tuple(Site("question_encoder", "attention", 2, token) for token in tokens)
    (cell,) = gather([site], ASKED)
    assert cell == ASKED.resolve(site)
    together = gather([[site, Site("question_encoder", token=1)]], ASKED)
    assert together == [(*ASKED.resolve(site), Site("question_encoder", token=1))]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("the", "has it 2 times, at 2, 6; expected the position of one"),
        ("lihgt", "did you mean 'light'?"),
        ("giz", "is not in the question '[CLS] is the gizmo on the light blue rectangle [SEP]'"),
        ("##x", "It has: 0 '[CLS]', 1 'is', 2 'the', 3 'giz', 4 '##mo',"),
    ],
)
def test_a_word_that_is_not_there_or_not_alone_is_refused_with_positions(word, said):
    with pytest.raises(SiteError, match=re.escape(said)):
        ASKED.resolve(Site("question_encoder", token=word))


def test_one_site_of_a_word_of_pieces_is_refused_with_positions():
    with pytest.raises(SiteError, match=re.escape("the word has 2 pieces, 3 'giz', 4 '##mo'; expected the position")):
        ASKED.one(Site("question_encoder", token="gizmo"))
    two = pairs([Site("question_encoder", token="gizmo"), Site("question_encoder", token="light")])
    with pytest.raises(SiteError, match="2 pieces"):
        gather(two, ASKED)
    light, blue = (Site("question_encoder", "block", -1, word) for word in ("light", "blue"))
    seven, eight = (Site("question_encoder", "block", 5, token) for token in (7, 8))
    assert gather(pairs([light, blue]), ASKED) == [(seven,), (eight,), (seven, eight)]


def test_a_layer_from_the_end_is_of_its_component():
    assert ASKED.one(Site("question_encoder", layer=-1)).layer == 5
    assert ASKED.one(Site("answer_decoder", layer=-6)).layer == 0
    assert ASKED.one(Site("image_encoder", layer=-1)).layer == 3
    with pytest.raises(SiteError, match="layer -7 of question_encoder: there are 6, 0 to 5 or -6 to -1"):
        ASKED.one(Site("question_encoder", layer=-7))
    both = [Site("question_encoder", layer=-1, token=7), Site("question_encoder", layer=5, token="light")]
    with pytest.raises(SiteError, match="the same sites are given twice"):
        gather(both, ASKED)


@pytest.mark.parametrize("component", ["answer_decoder", "image_encoder"])
def test_only_the_question_has_words(component):
    with pytest.raises(SiteError, match="only question_encoder reads words"):
        Site(component, token="light")


def test_a_word_needs_a_question():
    with pytest.raises(SiteError, match="which is not known here; expected a position"):
        Extent(6, 9, 1, 4).resolve(Site("question_encoder", token="light"))


def test_an_edge_is_between_sites_that_are_resolved():
    receiver = Site("question_encoder", "attention_out", 2, 1)
    for sender in (Site("question_encoder", "mlp_out", 0, "light"), Site("question_encoder", "mlp_out", -6, 1)):
        with pytest.raises(SiteError, match=re.escape("expected clean.resolve(site), or numbers")):
            Edge([sender], receiver, "value")
