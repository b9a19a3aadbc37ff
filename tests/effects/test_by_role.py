"""Averages by role against plain loops."""

import math
from functools import partial

import numpy as np
import pytest
import xarray as xr
from helpers.trees import VARIABLES, random_tree
from helpers.words import QUESTIONS, SMALL, holes, padded, quick, result, trees
from hypothesis import given, settings
from hypothesis import strategies as st

import nnblip
from nnblip import effects, results
from nnblip.errors import NnblipError
from nnblip.roles import ROLES, Rules, roles


def mean(numbers):
    numbers = [x for x in numbers if not math.isnan(x)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def looped(values, texts, given, label):
    """The mean over the words of a role, of one row of tokens."""
    words = []
    for number, text, role in zip(values, texts, given, strict=True):
        if text.startswith("##") and words:
            words[-1][1].append(number)
        elif text:
            words.append((role, [number]))
    return mean([mean(pieces) for role, pieces in words if role == label])


# --- roles ----------------------------------------------------------------------------------


@quick
@given(tree=trees, seed=st.none() | st.integers(0, 99))
def test_by_role_is_a_plain_loop(tree, seed):
    tree = tree if seed is None else holes(tree, seed)
    found = effects.by_role(tree)
    assert set(found.children) == set(tree.children)
    for name in ("question_encoder", "answer_decoder"):
        node, before = found[name].to_dataset(), tree[name].to_dataset()
        present = set(before.role.values.ravel().tolist()) - {""}
        assert set(node.role.values.tolist()) == present
        for label, count in zip(node.role.values.tolist(), node["count"].values.tolist(), strict=True):
            assert count == sum(label in row for row in before.role.values.tolist())
            for variable in VARIABLES:
                values = before[variable].values
                wanted = np.full(values.shape[:-1], np.nan)
                for at in np.ndindex(wanted.shape):
                    texts, given = before.token_text.values[at[0]].tolist(), before.role.values[at[0]].tolist()
                    wanted[at] = looped(values[at].tolist(), texts, given, label)
                part = node[variable].sel(role=label)
                assert part.dims == results.COMPONENT_DIMS[:-1]
                np.testing.assert_allclose(part.values, wanted, rtol=1e-12)


def test_the_roles_of_a_result_stand_in_their_order_and_nothing_else_changes():
    tree = result()
    found = effects.by_role(tree)
    node = found["question_encoder"].to_dataset()
    assert node.probability.dims == (*results.COMPONENT_DIMS[:-1], "role")
    assert node.role.values.tolist() == [role for role in ROLES if role in tree["question_encoder"].role.values]
    assert not {"token", "token_text"} & set(node.coords)
    assert node.attrs == {"about": "a node"} and node.probability.attrs == {"units": "1"}
    assert found["answer_decoder"].role.values.tolist() == ["[DEC]", "answer word"]
    for name in ("clean", "corrupted"):
        xr.testing.assert_identical(found[name].to_dataset(), tree[name].to_dataset())
    assert found.attrs == tree.attrs and list(found.question_type.values) == list(tree.question_type.values)


def test_the_pieces_of_a_word_count_as_one_word():
    node = xr.Dataset(
        {"probability": (("example", "token"), [[0.0, 3.0, 6.0, 9.0, 1.0]])},
        {"role": padded([["a"] * 5]), "token_text": padded([["x", "##y", "##z", "w", "v"]])},
    )
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"example": ["e"]}), "/question_encoder": node})
    assert float(effects.by_role(tree)["question_encoder"].probability[0, 0]) == (3 + 9 + 1) / 3
    # without texts every token is a word
    tree["question_encoder"] = xr.DataTree(node.drop_vars("token_text"))
    assert float(effects.by_role(tree)["question_encoder"].probability[0, 0]) == 19 / 5


@pytest.mark.slow
@quick
@given(tree=trees)
def test_effects_of_the_averages_are_the_averages_of_the_effects(tree):
    for effect in (effects.indirect_effect, effects.relevance):
        xr.testing.assert_allclose(effect(effects.by_role(tree)), effects.by_role(effect(tree)).filter(restored))


def restored(node):
    return node.name not in ("clean", "corrupted")


@settings(quick, max_examples=10)
@given(tree=trees, data=st.data())
def test_examples_may_stand_in_any_order(tree, data):
    order = data.draw(st.permutations(range(tree.sizes["example"])))
    xr.testing.assert_identical(
        effects.by_role(tree.isel(example=order)).sel(example=tree.example.values), effects.by_role(tree)
    )
    xr.testing.assert_allclose(effects.by_type(tree.isel(example=order)), effects.by_type(tree))


def test_one_example_and_float32_and_heads():
    tree = result(dtype="float32")
    heads = tree["question_encoder"].to_dataset(inherit=False)
    tree["question_encoder_heads"] = xr.DataTree(heads.expand_dims(head=3, axis=5).assign_coords(head=[0, 1, 2]))
    every = effects.by_role(tree)
    assert every["question_encoder_heads"].probability.dims == (*results.HEADS_DIMS[:-1], "role")
    assert every["answer_decoder"].probability.dtype == np.float32
    one = effects.by_role(tree.isel(example=1))
    for name in ("question_encoder", "question_encoder_heads"):
        wanted = every[name].to_dataset().isel(example=1).sel(role=one[name].role.values)
        xr.testing.assert_equal(one[name].to_dataset().drop_vars("count"), wanted.drop_vars(("count", "example")))
        assert (one[name]["count"] == 1).all()


def halves(tokens, first="first"):
    return [first if i < len(tokens) / 2 else "" if token == "[SEP]" else "second" for i, token in enumerate(tokens)]


def test_other_roles_for_a_finished_result():
    tree = result(4)
    found = effects.with_roles(tree, halves)
    for row, texts in zip(
        found["question_encoder"].role.values, tree["question_encoder"].token_text.values, strict=True
    ):
        tokens = [text for text in texts.tolist() if text]
        assert row.tolist() == [*halves(tokens), *[""] * (len(row) - len(tokens))]
    assert found.attrs == tree.attrs | {"roles": f"{__name__}.halves"}
    assert "roles" not in tree.attrs and tree["question_encoder"].role.values[0, 0] == "[CLS]"
    xr.testing.assert_identical(found["answer_decoder"].to_dataset(), tree["answer_decoder"].to_dataset())
    xr.testing.assert_identical(effects.by_role(tree, halves), effects.by_role(found))
    # by mean position: the one that is alphabetically last stands first
    late = effects.by_role(tree, roles=partial(halves, first="zero"))
    assert late["question_encoder"].role.values.tolist() == ["zero", "second"]
    back = effects.with_roles(found)
    xr.testing.assert_identical(back["question_encoder"].to_dataset(), tree["question_encoder"].to_dataset())
    assert back.attrs["roles"] == "nnblip.roles.roles"


def test_a_function_is_called_once_for_each_question():
    asked = []

    def listening(tokens):
        asked.append(tokens)
        return roles(tokens)

    effects.with_roles(result(9), listening)
    assert sorted(asked) == sorted(tuple(question.split()) for question in QUESTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nouns", "roles 'nouns': expected a function"),
        (lambda tokens: ["a"], r"<lambda> returned 1 roles for 10 tokens: \['a'\] for \['\[CLS\]', 'what'"),
        (lambda tokens: "a" * len(tokens), "returned 'aaaaaaaaaa' for .* expected a list of texts"),
        (lambda tokens: None, "returned None for .* expected a list of texts"),
        (lambda tokens: [1] * len(tokens), "returned the role 1 for .* expected texts"),
    ],
)
def test_roles_that_cannot_be_used(model, given, message):
    for function in (effects.by_role, effects.with_roles):
        with pytest.raises(NnblipError, match=message):
            function(result(), given)


def test_nodes_without_roles_or_tokens():
    with pytest.raises(NnblipError, match=r"/question_encoder has no coordinate role .*roles=nnblip\.roles\.roles"):
        effects.by_role(random_tree(**SMALL))
    with pytest.raises(NnblipError, match=r"/question_encoder has no coordinate role .*before averaging over examples"):
        effects.by_role(result().mean("example"))
    with pytest.raises(NnblipError, match=r"no node has the dimension token; found .*/question_encoder \("):
        effects.by_role(effects.by_role(result()))
    with pytest.raises(NnblipError, match="no tokens to give roles to"):
        effects.by_role(effects.by_role(result()), roles)
    with pytest.raises(NnblipError, match="expected a result of causal_trace"):
        effects.by_role(result()["clean"].to_dataset())


# --- stored and traced ----------------------------------------------------------------------


def test_a_stored_result_is_read_in_blocks_and_not_kept(tmp_path, monkeypatch):
    tree = result(7)
    stored = xr.open_datatree(results.save(tree, tmp_path / "result.zarr"))
    monkeypatch.setattr("nnblip.effects.averages.READ_BYTES", 1)
    for node in stored.subtree:  # of two examples each
        for values in node.data_vars.values():
            values.encoding["chunks"] = (2, *values.shape[1:])
    xr.testing.assert_allclose(effects.by_type(stored), effects.by_type(tree))
    xr.testing.assert_allclose(effects.by_role(stored, halves), effects.by_role(tree, halves))
    assert not any(values.variable._in_memory for node in stored.subtree for values in node.data_vars.values())


def colors(tokens):
    return ["color" if token == "color" else "other" for token in tokens]


def test_a_trace_has_the_roles_that_it_is_given(model, tmp_path):
    examples = nnblip.demo.examples()[:2]
    tree = nnblip.causal_trace(model, examples, draws=1, components=nnblip.sites.COMPONENTS, regions=2, roles=colors)
    plain = nnblip.causal_trace(model, examples, draws=1, components=nnblip.sites.COMPONENTS, regions=2)
    assert tree.attrs["roles"] == f"{__name__}.colors" and plain.attrs["roles"] == "nnblip.roles.roles"
    assert set(tree["question_encoder"].role.values.ravel()) - {""} <= {"color", "other"}
    again = effects.with_roles(plain, colors)
    xr.testing.assert_identical(again["question_encoder"].to_dataset(), tree["question_encoder"].to_dataset())
    found = effects.by_role(plain)
    assert found["answer_decoder"].role.values[0] == "[DEC]"
    assert found["image_encoder"].role.values.tolist() == ["[CLS]", "image"]
    image = plain["image_encoder"].probability
    np.testing.assert_allclose(found["image_encoder"].probability[..., 1], image[..., 1:].mean("token"), rtol=1e-6)
    swept = nnblip.sweep(model, examples, tmp_path / "results.zarr", draws=1, roles=colors)
    assert swept.attrs["roles"] == f"{__name__}.colors"
    assert set(swept["question_encoder"].role.values.ravel()) - {""} <= {"color", "other"}
    nnblip.sweep(model, examples, tmp_path / "results.zarr", draws=1, roles=colors)
    with pytest.raises(NnblipError, match="roles"):
        nnblip.sweep(model, examples, tmp_path / "results.zarr", draws=1)


def test_a_trace_with_roles_that_cannot_be_used(model):
    examples = nnblip.demo.examples()[:1]
    with pytest.raises(NnblipError, match="roles 3: expected a function"):
        nnblip.causal_trace(model, examples, draws=1, roles=3)
    with pytest.raises(NnblipError, match=r"example 0: roles: .*<lambda> returned 0 roles for \d+ tokens"):
        nnblip.causal_trace(model, examples, draws=1, roles=lambda tokens: [])


def test_rules_are_shown_by_their_name():
    class Tagger:
        def __call__(self, tokens):
            return tokens

    assert repr(Rules.of(None)) == "nnblip.roles.roles" == repr(Rules.of(roles))
    assert repr(Rules.of(partial(partial(halves, first="x")))) == f"{__name__}.halves"
    assert repr(Rules.of(Tagger())).endswith("Tagger") and Rules.of(Tagger())(["a", "b"]) == ("a", "b")
    assert Rules.of(Rules.of(halves)) == Rules.of(halves)
