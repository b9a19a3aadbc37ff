"""The result tree: built from hand-made numbers, stored, opened, checked."""

import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from nnblip.errors import ResultError
from nnblip.results import (
    COMPONENT_DIMS,
    DIMS,
    EXAMPLE_COORDS,
    SCHEMA_VERSION,
    VARIABLES,
    Traced,
    build,
    check,
    open_result,
    save,
)

NU = (0.0, 2.5, 10.0)
DRAWS = 4
KINDS = ("mlp_out", "block")
LAYERS = 5
ATTRS = {
    "model": "hand-made",
    "noise": "Scale(factor=0.5)",
    "seed": 7,
    "threshold": 0.25,
    "git_commit": "",
    "note": "ν ≥ 0",
}
LENGTHS = {"first": (4, 3), "second-example": (9, 1), "ν": (6, 2)}  # question and answer tokens


def hand_made(name):
    rng = np.random.default_rng(len(name))
    question, answer = LENGTHS[name]
    tokens = {
        "question_encoder": ("[CLS]", *(f"{name}-{i}" for i in range(question - 2)), "[SEP]"),
        "answer_decoder": ("[DEC]", *(f"a{i}" for i in range(answer - 1))),
    }

    def numbers(*shape):
        return rng.normal(size=(3, *shape)).astype(np.float32)

    return Traced(
        id=name,
        coords={label: f"{label} of {name}" if label != "question_type" else "" for label in EXAMPLE_COORDS},
        tokens=tokens,
        roles={node: tuple(f"role of {token}" for token in texts) for node, texts in tokens.items()},
        clean=numbers(),
        corrupted=numbers(len(NU), DRAWS),
        restored={node: numbers(len(NU), DRAWS, len(KINDS), LAYERS, len(texts)) for node, texts in tokens.items()},
    )


@pytest.fixture
def traced():
    return [hand_made(name) for name in LENGTHS]


@pytest.fixture
def tree(traced):
    return build(traced, NU, KINDS, dict(ATTRS))


# --- building -----------------------------------------------------------------------------


def test_the_tree_has_the_dimensions_and_coordinates_of_the_design(tree):
    assert set(tree.children) == {"clean", "corrupted", "question_encoder", "answer_decoder"}
    expected = {
        "clean": ("example",),
        "corrupted": ("example", "nu", "draw"),
        "question_encoder": ("example", "nu", "draw", "kind", "layer", "token"),
        "answer_decoder": ("example", "nu", "draw", "kind", "layer", "token"),
    }
    for node, dims in expected.items():
        assert set(tree[node].data_vars) == {"probability", "log_probability", "logit_difference"}
        for variable in tree[node].data_vars.values():
            assert variable.dims == dims and variable.dtype == np.float32
        # inherited from the root
        assert tree[node].example.values.tolist() == list(LENGTHS)
    assert tree["corrupted"].nu.values.tolist() == list(NU)
    assert tree["question_encoder"].draw.values.tolist() == list(range(DRAWS))
    assert tree["question_encoder"].sizes["token"] == 9 and tree["answer_decoder"].sizes["token"] == 3
    assert {name: tree.coords[name].dims for name in EXAMPLE_COORDS} == dict.fromkeys(EXAMPLE_COORDS, ("example",))
    assert tree.attrs == ATTRS | {"schema_version": SCHEMA_VERSION}
    assert check(tree) is tree


def test_every_number_stands_where_its_labels_say(tree, traced):
    for one in traced:
        at = {"example": one.id}
        for k, name in enumerate(VARIABLES):
            assert float(tree["clean"][name].sel(at)) == one.clean[k]
            for n, nu in enumerate(NU):
                for draw in range(DRAWS):
                    here = {**at, "nu": nu, "draw": draw}
                    assert float(tree["corrupted"][name].sel(here)) == one.corrupted[k, n, draw]
            for node, numbers in one.restored.items():
                for n, draw, kind, layer, token in [
                    (0, 0, 0, 0, 0),
                    (1, 3, 1, 2, 0),
                    (2, 1, 0, 4, -1),
                    (2, 2, 1, 3, -1),
                ]:
                    length = len(one.tokens[node])
                    here = {"nu": NU[n], "draw": draw, "kind": KINDS[kind], "layer": layer, "token": token % length}
                    assert float(tree[node][name].sel(at | here)) == numbers[k, n, draw, kind, layer, token]


def test_short_questions_are_padded_with_nan_and_only_they(tree, traced):
    for one in traced:
        for node, texts in one.tokens.items():
            part = tree[node].sel(example=one.id)
            for name in VARIABLES:
                missing = np.isnan(part[name].values)
                assert missing[..., len(texts) :].all() and not missing[..., : len(texts)].any()
            padding = [""] * (part.sizes["token"] - len(texts))
            assert part.token_text.values.tolist() == [*texts, *padding]
            assert part.role.values.tolist() == [*one.roles[node], *padding]
    # the mean over examples skips the padding
    mean = tree["question_encoder"].probability.mean("example").sel(token=8)
    longest = tree["question_encoder"].probability.sel(example="second-example", token=8)
    np.testing.assert_array_equal(mean.values, longest.values)


def test_coordinates_of_examples_stand_beside_them(tree):
    for name in LENGTHS:
        one = tree.to_dataset().sel(example=name)
        for label in ("question", "answer", "predicted", "image"):
            assert one[label].item() == f"{label} of {name}"
        assert one.question_type.item() == ""


def test_only_the_traced_components_get_a_node(traced):
    only = [
        Traced(
            t.id, t.coords, t.tokens, t.roles, t.clean, t.corrupted, {"answer_decoder": t.restored["answer_decoder"]}
        )
        for t in traced
    ]
    assert set(build(only, NU, KINDS, {}).children) == {"clean", "corrupted", "answer_decoder"}


# --- storing and opening ------------------------------------------------------------------


def test_a_stored_result_opens_with_xarray_alone_to_the_same_numbers_and_attributes(tree, tmp_path):
    path = save(tree, tmp_path / "new" / "folder" / "result.zarr")
    with xr.open_datatree(path) as opened:
        opened.load()
        xr.testing.assert_identical(opened, tree)
        assert opened.attrs == tree.attrs
        for node in tree.subtree:
            stored = opened[node.path].data_vars
            for name, variable in node.data_vars.items():
                assert stored[name].dtype == variable.dtype
                assert stored[name].values.tobytes() == variable.values.tobytes()  # bit for bit, NaN included
    xr.testing.assert_identical(open_result(str(path)).load(), tree)


def test_saving_and_opening_warn_of_nothing(tree, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save(tree, tmp_path / "result.zarr")
    assert {f"saving: {w.category.__name__}" for w in caught} == set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        xr.open_datatree(tmp_path / "result.zarr").load()
    assert {f"opening: {w.category.__name__}" for w in caught} == set()


def test_an_opened_result_can_be_stored_again(tree, tmp_path):
    opened = open_result(save(tree, tmp_path / "one.zarr"))
    again = save(opened, tmp_path / "two.zarr")
    xr.testing.assert_identical(xr.open_datatree(again).load(), tree)


def test_an_existing_result_is_kept_unless_overwriting_is_asked_for(tree, tmp_path):
    path = save(tree, tmp_path / "result.zarr")
    other = tree.copy(deep=True)
    other["clean"]["probability"].values[:] = 0.5
    with pytest.raises(ResultError, match=r"result\.zarr' exists already"):
        save(other, path)
    xr.testing.assert_identical(xr.open_datatree(path).load(), tree)
    assert save(other, path, overwrite=True) == path
    xr.testing.assert_identical(xr.open_datatree(path).load(), other)


def test_overwriting_leaves_nothing_of_the_old_result(tree, tmp_path):
    path = save(tree, tmp_path / "result.zarr")
    smaller = xr.DataTree.from_dict({node: tree[node].to_dataset() for node in ("/", "/clean", "/corrupted")})
    save(smaller, path, overwrite=True)
    assert set(xr.open_datatree(path).children) == {"clean", "corrupted"}


def test_a_file_in_the_way_is_kept_or_replaced_likewise(tree, tmp_path):
    path = tmp_path / "result.zarr"
    path.write_text("mine")
    with pytest.raises(ResultError, match="exists already"):
        save(tree, path)
    assert path.read_text() == "mine"
    save(tree, path, overwrite=True)
    xr.testing.assert_identical(xr.open_datatree(path).load(), tree)


def test_a_result_opened_lazily_can_overwrite_itself(tree, tmp_path):
    path = save(tree, tmp_path / "result.zarr")
    opened = open_result(path)  # its numbers are read from the folder when they are needed
    save(opened, path, overwrite=True)
    xr.testing.assert_identical(xr.open_datatree(path).load(), tree)


def test_the_old_result_survives_an_overwriting_that_fails(tree, tmp_path):
    path = save(tree, tmp_path / "result.zarr")
    broken = tree.copy()
    broken.attrs = {"model": object()}  # not JSON
    with pytest.raises((TypeError, ResultError)):
        save(broken, path, overwrite=True)
    xr.testing.assert_identical(xr.open_datatree(path).load(), tree)


@pytest.mark.parametrize("name", ["result", "result.nc", "result.zarr.zip"])
def test_a_name_that_xarray_would_not_recognise_is_refused(name, tree, tmp_path):
    with pytest.raises(ResultError, match=r"ends in \.zarr"):
        save(tree, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_that_cannot_be_written_is_named(tree, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    for path in (tmp_path / "file" / "result.zarr", tmp_path / "file" / "deeper" / "result.zarr"):
        with pytest.raises(ResultError) as caught:
            save(tree, path)
        assert str(path) in str(caught.value) and "cannot be written" in str(caught.value)


def test_a_name_too_long_for_the_disk_is_a_result_error(tree, tmp_path):
    path = tmp_path / ("a" * 300 + ".zarr")
    with pytest.raises(ResultError):
        save(tree, path)
    with pytest.raises(ResultError):
        open_result(path)


# --- what is no result --------------------------------------------------------------------


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(ResultError) as caught:
        open_result(tmp_path / "none.zarr")
    assert str(tmp_path / "none.zarr") in str(caught.value) and "nothing there" in str(caught.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # xarray on stores without consolidated metadata
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_text("text"),
        lambda path: (path.mkdir(), (path / "zarr.json").write_text("{")),
        lambda path: (path.mkdir(), (path / "zarr.json").write_text("[]")),
        lambda path: (path.mkdir(), (path / ".zgroup").write_text("nonsense")),
        lambda path: zarr.open_group(path, mode="w"),
        lambda path: zarr.create_array(path, shape=(3,), dtype="f4"),
        lambda path: xr.Dataset({"x": ("y", [1, 2])}).to_zarr(path, zarr_format=2),
    ],
    ids=["empty folder", "text file", "cut metadata", "other metadata", "no JSON", "empty group", "array", "data set"],
)
def test_a_foreign_folder_is_refused_and_named(make, tmp_path):
    path = tmp_path / "foreign.zarr"
    make(path)
    with pytest.raises(ResultError) as caught:
        open_result(path)
    assert str(path) in str(caught.value)


def test_a_file_or_folder_of_another_name_is_refused_and_named(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    for name in ("notes.txt", "folder"):
        with pytest.raises(ResultError) as caught:
            open_result(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def nodes_of(tree):
    return {part.path: part.to_dataset(inherit=False) for part in tree.subtree}


@pytest.mark.parametrize("node", DIMS)
def test_a_missing_node_is_named_in_memory_and_on_disk(node, tree, tmp_path):
    rest = xr.DataTree.from_dict({path: part for path, part in nodes_of(tree).items() if path != f"/{node}"})
    with pytest.raises(ResultError, match=f"no node /{node}"):
        check(rest)
    rest.to_zarr(tmp_path / "result.zarr", zarr_format=2)
    with pytest.raises(ResultError, match=f"no node /{node}"):
        open_result(tmp_path / "result.zarr")


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("node", [*DIMS, "question_encoder", "answer_decoder"])
def test_check_names_a_missing_variable(node, name, tree):
    nodes = nodes_of(tree)
    nodes[f"/{node}"] = nodes[f"/{node}"].drop_vars(name)
    with pytest.raises(ResultError) as caught:
        check(xr.DataTree.from_dict(nodes))
    assert f"/{node}" in str(caught.value) and repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("node", "dims"), [*DIMS.items(), ("question_encoder", COMPONENT_DIMS), ("answer_decoder", COMPONENT_DIMS)]
)
def test_check_names_wrong_dimensions_and_the_expected_ones(node, dims, tree):
    nodes = nodes_of(tree)
    nodes[f"/{node}"] = nodes[f"/{node}"].expand_dims("model", axis=-1)
    with pytest.raises(ResultError) as caught:
        check(xr.DataTree.from_dict(nodes))
    message = str(caught.value)
    assert f"/{node}/probability" in message and str(dims) in message and str((*dims, "model")) in message


def test_check_accepts_what_is_selected_from_a_result(tree):
    part = tree.isel(example=[0, 2])
    assert check(part) is part


# --- versions -----------------------------------------------------------------------------


def test_a_result_of_an_earlier_version_opens_and_one_of_a_later_is_refused_by_name(tree, tmp_path):
    assert tree.attrs["schema_version"] == SCHEMA_VERSION
    del tree.attrs["schema_version"]  # as before versions were written
    assert "schema_version" not in open_result(save(tree, tmp_path / "old.zarr")).attrs
    for version in (SCHEMA_VERSION + 1, "two"):
        tree.attrs["schema_version"] = version
        with pytest.raises(ResultError, match=rf"later\.zarr.*schema_version is {version!r}, this nnblip knows 1 to"):
            open_result(save(tree, tmp_path / "later.zarr", overwrite=True))
