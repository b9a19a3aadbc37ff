"""Averages by role and type against plain loops and pandas."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from trees import VARIABLES, random_tree

import nnblip
from nnblip import effects, results
from nnblip.effects.numbers import group_intervals, half_width, mean_groups, mean_known
from nnblip.errors import NnblipError
from nnblip.roles import ROLES, Rules, answer_roles, roles

SMALL = {"layers": 2, "draws": 2, "kinds": ("block",)}
#: The word of six pieces and the one of two have to count once.
QUESTIONS = (
    "[CLS] what color is the gi ##raf ##fe ? [SEP]",
    "[CLS] how many sk ##ate ##board ##s are left of the dog [SEP]",
    "[CLS] is there a num ##ber [SEP]",
    "[CLS] the cat [SEP]",
)
TYPES = ("color", "number", "", "color", "object")
ENDINGS = ("_low", "_high", "_count")
quick = settings(max_examples=25, deadline=None)


def padded(rows):
    width = max(map(len, rows))
    return ("example", "token"), [[*row, *[""] * (width - len(row))] for row in rows]


def typed(tree, types=TYPES):
    tree = tree.copy()
    types = [types[i % len(types)] for i in range(tree.sizes["example"])]
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", types))
    return tree


def result(examples=3, seed=0, **changes):
    """A random result with question tokens of several pieces, roles and types, as `causal_trace` makes it."""
    tree = typed(random_tree(seed=seed, examples=examples, **(SMALL | changes)))
    questions = [QUESTIONS[i % len(QUESTIONS)].split() for i in range(examples)]
    rng, sizes = np.random.default_rng(seed), tree["question_encoder"].probability.sizes
    dims = results.COMPONENT_DIMS
    shape = [sizes[dim] for dim in dims[:-1]] + [max(map(len, questions))]
    numbers = {name: rng.uniform(0.1, 0.9, shape) for name in VARIABLES}
    for i, tokens in enumerate(questions):
        for values in numbers.values():
            values[i, ..., len(tokens) :] = np.nan
    tree["question_encoder"] = xr.DataTree(
        xr.Dataset(
            {name: (dims, values, {"units": "1"}) for name, values in numbers.items()},
            {
                "kind": ["block"],
                "layer": np.arange(SMALL["layers"]),
                "token": np.arange(shape[-1]),
                "token_text": padded(questions),
                "role": padded([roles(tokens) for tokens in questions]),
            },
            {"about": "a node"},
        )
    )
    answer = tree["answer_decoder"].to_dataset(inherit=False)
    texts = [[text for text in row if text] for row in answer.token_text.values.tolist()]
    tree["answer_decoder"] = xr.DataTree(answer.assign_coords(role=padded([answer_roles(row) for row in texts])))
    return tree


trees = st.builds(
    result, examples=st.integers(1, 5), seed=st.integers(0, 1000), nus=st.sampled_from([(5.0,), (1.0, 5.0)])
)


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


def holes(tree, seed):
    """NaN in single tokens, as an undefined relevance has."""
    rng = np.random.default_rng(seed)
    for name in ("question_encoder", "answer_decoder"):
        values = tree[name]["probability"].values
        values[rng.random(values.shape) < 0.3] = np.nan
    return tree


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
    assert found.attrs == tree.attrs | {"roles": "test_averages.halves"}
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


# --- types ----------------------------------------------------------------------------------


def by_pandas(values, labels):
    """Mean, bounds and count of each type for a (example, draw) table."""
    units = pd.DataFrame({"type": labels, "unit": pd.DataFrame(values).mean(axis=1)})
    rows = {}
    for label, group in units.groupby("type")["unit"]:
        known = group.dropna()
        low, high = math.nan, math.nan
        if len(known) > 1:
            low, high = stats.t.interval(0.95, len(known) - 1, known.mean(), stats.sem(known))
        rows[label] = (known.mean(), low, high, len(known))
    return rows


@settings(quick, max_examples=8)  # pandas is slow
@given(tree=trees, seed=st.none() | st.integers(0, 99), role=st.booleans())
def test_by_type_is_the_groupby_of_pandas(tree, seed, role):
    tree = tree if seed is None else holes(tree, seed)
    tree = effects.by_role(tree) if role else tree
    found, labels = effects.by_type(tree), tree.question_type.values.tolist()
    assert set(found.children) == set(tree.children)
    counts = pd.Series(labels).value_counts()
    assert {str(t): int(n) for t, n in zip(found.question_type.values, found["count"].values, strict=True)} == dict(
        counts
    )
    assert found.question_type.values.tolist() == sorted(set(labels), key=lambda label: (label == "", label))
    for name in tree.children:
        node, before = found[name].to_dataset(), tree[name].to_dataset()
        inner = [dim for dim in before.probability.dims if dim not in ("example", "draw")]
        values = before.probability.expand_dims([dim for dim in ["draw"] if dim not in before.probability.dims])
        values = values.transpose("example", "draw", *inner).values
        means = [node[f"probability{end}"].transpose("question_type", *inner).values for end in ("", *ENDINGS)]
        for at in np.ndindex(values.shape[2:]):
            wanted = by_pandas(values[(..., *at)], labels)
            for number, label in enumerate(found.question_type.values.tolist()):
                here = [mean[(number, *at)] for mean in means]
                np.testing.assert_allclose(here, wanted[label], rtol=1e-9, atol=1e-9)


def test_a_type_of_several_examples_has_the_interval_of_mean_interval():
    tree = holes(result(10), 3)
    node, of = effects.by_type(tree)["question_encoder"], tree["question_encoder"].probability
    at = {"nu": 1.0, "kind": "block", "layer": 1, "token": 4}
    wanted = effects.mean_interval(
        of.sel(at)[(tree.question_type == "color").values].transpose("example", "draw").values
    )
    here = node.to_dataset().sel({**at, "question_type": "color"})
    found = [float(here[name]) for name in ("probability", "probability_low", "probability_high")]
    np.testing.assert_allclose(found, wanted)
    # one example alone has no interval: its draws do not say how others would be
    alone = effects.by_type(result(2))["corrupted"]
    assert alone.probability.notnull().all() and alone.probability_low.isnull().all()


def test_dimensions_coordinates_and_attributes():
    tree = result(5)
    found = effects.by_type(effects.relevance(tree), level=0.9)
    node = found["question_encoder"].to_dataset()
    assert node.probability.dims == ("question_type", "nu", "kind", "layer", "token")
    assert set(found.coords) == {"question_type", "count", "nu"}
    assert set(node.data_vars) == {f"{name}{end}" for name in VARIABLES for end in ("", *ENDINGS)}
    assert node.probability.attrs["units"] == "1" and node.probability.attrs["threshold"] == 0.01
    assert node.probability.attrs["long_name"] == "mean of relevance by probability"
    assert "90 %" in node.probability_low.attrs["long_name"]
    assert node.probability_count.dtype.kind == "i"
    assert found.attrs == tree.attrs | {"level": 0.9}
    wide = effects.by_type(effects.relevance(tree), level=0.99)["question_encoder"]
    width, wider = (x.probability_high - x.probability_low for x in (node, wide.to_dataset()))
    assert (wider > width).where(width.notnull(), True).all()
    assert "count" not in effects.by_type(effects.by_role(tree))["question_encoder"].to_dataset(inherit=False).coords


def test_any_coordinate_on_example():
    tree = result(5)
    numbers = [2.0, math.nan, 2.0, 1.0, math.nan]
    tree.dataset = tree.to_dataset().assign_coords(
        words=("example", numbers), mixed=("example", np.array(["b", None, math.nan, "b", "a"], object))
    )
    found = effects.by_type(tree, "words")
    np.testing.assert_array_equal(found.words.values, [1.0, 2.0, math.nan])
    assert found["count"].values.tolist() == [1, 2, 2]
    np.testing.assert_allclose(found["clean"].probability.values[2], tree["clean"].probability.values[[1, 4]].mean())
    found = effects.by_type(tree, by="mixed")
    assert found.mixed.values.tolist() == ["a", "b", ""] and found["count"].values.tolist() == [1, 2, 2]
    found = effects.by_type(tree, by="example")
    np.testing.assert_allclose(found["clean"].probability, tree["clean"].probability)
    np.testing.assert_allclose(found["corrupted"].probability, tree["corrupted"].probability.mean("draw"))


def test_the_dataset_of_gamma():
    tree = result(5)
    curve = effects.gamma(tree)
    found = effects.by_type(curve)
    assert found.question_encoder.dims == ("question_type", "nu", "kind")
    wanted = curve.question_encoder.mean("draw")[[0, 3]].mean("example")
    np.testing.assert_allclose(found.question_encoder.sel(question_type="color"), wanted)
    assert found["count"].values.tolist() == [2, 1, 1, 1] and found.attrs == curve.attrs | {"level": 0.95}


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan, "0.95", None, True])
def test_the_level_lies_between_0_and_1(level):
    with pytest.raises(NnblipError, match=r"level is .* expected a number between 0 and 1"):
        effects.by_type(result(), level=level)


def test_an_unknown_coordinate_is_named():
    with pytest.raises(
        NnblipError, match="coordinate on example 'question_typ' is unknown; did you mean 'question_type'"
    ):
        effects.by_type(result(), by="question_typ")
    with pytest.raises(NnblipError, match="no coordinate on example"):
        effects.by_type(result().isel(example=0))


# --- numbers --------------------------------------------------------------------------------


def test_infinite_numbers_spoil_only_their_own_mean():
    values = np.array([[[-np.inf]], [[1.0]], [[3.0]]])
    found = mean_groups(values, np.array([[0], [1], [1]]), 3)[:, 0, 0]
    np.testing.assert_array_equal(found, [-np.inf, 2, np.nan])
    np.testing.assert_array_equal(mean_known(np.array([[1, np.nan], [np.nan, np.nan], [1, 3]]), 1), [1, np.nan, 2])


def test_half_width_is_students():
    assert np.isnan(half_width(1.0, [0, 1])).all()
    np.testing.assert_allclose(half_width(2.0, [2, 9], 0.9), stats.t.ppf(0.95, [1, 8]) * 2 / np.sqrt([2, 9]))


def test_groups_without_any_known_unit():
    mean, low, high, count = group_intervals(np.array([[np.nan], [1.0], [np.nan]]), np.array([1, 0, 1]), 2)
    np.testing.assert_array_equal(mean, [[1], [np.nan]])
    assert np.isnan(low).all() and np.isnan(high).all() and count.tolist() == [[1], [0]]


# --- stored and traced ----------------------------------------------------------------------


def test_a_stored_result_is_read_in_blocks_and_not_kept(tmp_path, monkeypatch):
    tree = result(7)
    stored = xr.open_datatree(results.save(tree, tmp_path / "result.zarr"))
    monkeypatch.setattr("nnblip.averages.READ_BYTES", 1)
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
    assert tree.attrs["roles"] == "test_averages.colors" and plain.attrs["roles"] == "nnblip.roles.roles"
    assert set(tree["question_encoder"].role.values.ravel()) - {""} <= {"color", "other"}
    again = effects.with_roles(plain, colors)
    xr.testing.assert_identical(again["question_encoder"].to_dataset(), tree["question_encoder"].to_dataset())
    found = effects.by_role(plain)
    assert found["answer_decoder"].role.values[0] == "[DEC]"
    assert found["image_encoder"].role.values.tolist() == ["[CLS]", "image"]
    image = plain["image_encoder"].probability
    np.testing.assert_allclose(found["image_encoder"].probability[..., 1], image[..., 1:].mean("token"), rtol=1e-6)
    swept = nnblip.sweep(model, examples, tmp_path / "results.zarr", draws=1, roles=colors)
    assert swept.attrs["roles"] == "test_averages.colors"
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
    assert repr(Rules.of(partial(partial(halves, first="x")))) == "test_averages.halves"
    assert repr(Rules.of(Tagger())).endswith("Tagger") and Rules.of(Tagger())(["a", "b"]) == ("a", "b")
    assert Rules.of(Rules.of(halves)) == Rules.of(halves)
