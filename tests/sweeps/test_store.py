"""The growing store from hand-made trees: room, order of writing, and what a chunk's damage costs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

from nnblip.errors import ResultError
from nnblip.results import DAMAGE, Traced, build
from nnblip.storage import checksums
from nnblip.sweeps import store as store_module
from nnblip.sweeps.store import DONE, FAILED, PENDING, Store, block_size, create, fingerprint_of
from nnblip.sweeps.verify import damages, holes

NU, DRAWS, LAYERS = (1.0, 5.0), 2, 3
IDS = [f"e{i}" for i in range(10)]


def traced(number, tokens=None):
    rng = np.random.default_rng(number)
    tokens = tokens or 3 + number % 4
    texts = {"question_encoder": tuple(f"w{i}" for i in range(tokens)), "answer_decoder": ("[DEC]",)}
    shape = (3, len(NU), DRAWS)
    return Traced(
        id=IDS[number],
        coords={"question": f"question {number}", "answer": "ν" * number, "note": ""},
        tokens=texts,
        roles=texts,
        clean=rng.random(3, np.float32),
        corrupted=rng.random(shape, np.float32),
        restored={node: rng.random((*shape, 1, LAYERS, len(text)), np.float32) for node, text in texts.items()},
    )


def tree_of(*numbers):
    return build([traced(number) for number in numbers], NU, ["block"], {})


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LEAST_CHUNKS", 3)  # blocks of three, the last of one
    fixed = {"example": np.array(IDS, object), "question_encoder/token": np.arange(8)}
    create(tmp_path / "s.zarr", tree_of(0), fixed, {"model": "hand-made"}, json.dumps({"a": 1}))
    return tmp_path / "s.zarr"


def test_what_results_did_not_have_when_a_store_was_begun_is_left_out_of_it(path):
    store, damage = Store(path), np.ones((2, len(NU), DRAWS), np.float32)
    later = build(
        [replace(traced(1), damage=damage, reliability={"answer_decoder": np.ones((3, len(NU), 1))})], NU, ["block"], {}
    )
    assert {*DAMAGE} < {*later["corrupted"].coords} and "reliability" in later["answer_decoder"].coords
    assert {*store.row(later)} == {*store.row(tree_of(1))}
    with pytest.raises(ResultError, match="the store has no variable /corrupted/strange"):
        store.row(tree_with(later, "strange"))


def tree_with(tree, name):
    tree = tree.copy()
    tree["corrupted"] = xr.DataTree(tree["corrupted"].to_dataset().assign({name: ("example", [1.0])}))
    return tree


def fill(path, numbers):
    store = Store(path)
    for number in numbers:
        store.write(number, store.row(tree_of(number)))
    return store


@pytest.mark.parametrize(
    ("examples", "size", "block"),
    [(10, 100, 1), (1000, 100, 15), (10**4, 100, 64), (10**4, 2**19, 2), (10**4, 2**30, 1)],
)
def test_blocks_are_small_enough_for_many_processes_and_large_enough_for_few_files(examples, size, block):
    assert block_size(examples, size) == block


def test_a_new_store_opens_and_is_all_pending(path):
    tree = xr.open_datatree(path)
    assert tree.status.values.tolist() == [PENDING] * 10 and tree.example.values.tolist() == IDS
    assert tree["question_encoder"].sizes["token"] == 8 and np.isnan(tree["clean"].probability).all()
    assert tree.attrs["model"] == "hand-made" and fingerprint_of(path) == {"a": 1}
    assert zarr.open_group(path)["question_encoder/probability"].chunks == (3, 2, 2, 1, 3, 8)
    assert not list(damages(path)), "what is pending is no damage"


def test_in_whatever_order_it_is_filled_it_is_what_build_gives(path):
    fill(path, [7, 2, 0, 9, 1, 5, 3, 4, 8, 6]).finish()
    tree, whole = xr.open_datatree(path), tree_of(*range(10))
    for node in whole.subtree:
        mine = tree[node.path].to_dataset()
        for name, variable in node.to_dataset(inherit=False).variables.items():
            assert mine[name].dims == variable.dims and mine[name].shape == variable.shape, name
            assert np.array_equal(
                np.array(mine[name].values.tolist()),
                np.array(variable.values.tolist()),
                equal_nan=variable.dtype.kind == "f",
            ), name
    assert tree.status.values.tolist() == [DONE] * 10


def test_room_is_cut_off_at_the_end_and_comes_back_when_there_is_more_to_do(path):
    store = fill(path, [0, 1, 4])  # 3, 4 and 3 tokens
    store.finish()
    assert xr.open_datatree(path)["question_encoder"].sizes["token"] == 4
    before = xr.open_datatree(path)["question_encoder"].probability.values[:2]
    store = Store(path)
    store.grow()
    store.write(3, store.row(tree_of(3)))  # 6 tokens
    store.finish()
    tree = xr.open_datatree(path)
    assert tree["question_encoder"].sizes["token"] == 6
    assert tree["question_encoder"].token.values.tolist() == list(range(6))
    np.testing.assert_array_equal(tree["question_encoder"].probability.values[:2, ..., :4], before)
    assert not list(damages(path))


def test_what_has_no_room_is_refused_and_nothing_is_written(path):
    store, more = Store(path), tree_of(0)
    more.coords["surprise"] = ("example", ["boo"])
    with pytest.raises(ResultError, match=r"/question_encoder/\w+ of the store has room for .*, and got"):
        store.row(build([traced(0, tokens=9)], NU, ["block"], {}))
    with pytest.raises(ResultError, match="no variable /surprise"):
        store.row(more)
    assert store.status() == [PENDING] * 10


@pytest.mark.slow
def test_the_status_is_written_last_so_that_a_kill_leaves_no_half_example(path, monkeypatch):
    store, order, write = Store(path), [], checksums.write_whole
    row = store.row(tree_of(4))
    monkeypatch.setattr(checksums, "write_whole", lambda file, data: (order.append(file), write(file, data)))
    store.write(4, row)
    assert order[0] == order[-1] == path / ".checksums" / "1", "listed first, and settled after all"
    assert order[-2] == path / "status" / "1", "of the numbers the status is last"
    assert {file.parent for file in order[1:-1]} == {path / key for key in store.growing}
    settled = len(order) - 1
    for stop in range(settled + 1):  # killed after every single file
        order.clear()

        def until(file, data, stop=stop):
            if len(order) == stop:
                raise KeyboardInterrupt
            order.append(file)
            write(file, data)

        monkeypatch.setattr(checksums, "write_whole", until)
        with pytest.raises(KeyboardInterrupt):
            store.write(5, store.row(tree_of(5)))
        monkeypatch.undo()
        again = Store(path)
        assert [again.status()[i] for i in (3, 4, 5)] == [PENDING, DONE, DONE if stop == settled else PENDING]
        assert not list(damages(path)), "the neighbour in the block is whole, and no kill is called damage"


def test_chunks_swapped_while_a_sweep_grows_are_noticed(path):
    fill(path, [0, 4])
    one, other = (path / "clean" / "probability" / name for name in ("0", "1"))
    bytes_of = one.read_bytes(), other.read_bytes()
    other.write_bytes(bytes_of[0])
    one.write_bytes(bytes_of[1])
    assert [damage.examples for damage in damages(path)] == [range(3), range(3, 6)]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "back"), [("grow", "finish"), ("finish", "grow")])
def test_a_kill_while_room_is_cut_off_or_given_back_is_no_damage(path, monkeypatch, step, back):
    fill(path, range(10)).finish()
    same, write, written = json.dumps(tree_values(path)), checksums.write_whole, []

    def until(stop):
        def limited(file, data):
            if len(written) == stop:
                raise KeyboardInterrupt
            written.append(file)
            write(file, data)

        written.clear()
        monkeypatch.setattr(checksums, "write_whole", limited)

    getattr(Store(path), back)()
    until(-1)
    getattr(Store(path), step)()
    assert len(written) > 20
    for stop in [*range(0, len(written), 3), len(written) - 1]:
        monkeypatch.undo()
        getattr(Store(path), back)()
        until(stop)
        with pytest.raises(KeyboardInterrupt):
            getattr(Store(path), step)()
        monkeypatch.undo()
        assert not list(damages(path)), stop
        Store(path).finish()
        assert checksums.read(path).settled and not list(damages(path))
        assert json.dumps(tree_values(path)) == same


def tree_values(path):
    return {
        f"{node.path}/{name}": variable.values.tolist()
        for node in xr.open_datatree(path).subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }


def test_a_failure_leaves_nan_and_the_error(path):
    store = fill(path, [0, 1, 2])
    store.fail(1, "no \ud800 picture", {"question": "what"})
    tree = xr.open_datatree(path)
    assert tree.status.values.tolist()[:3] == [DONE, FAILED, DONE]
    assert tree.error.values[1] == "no \\ud800 picture" and tree.question.values[1] == "what"
    assert np.isnan(tree["clean"].probability.values).tolist()[:3] == [False, True, False]
    assert not list(damages(path))


def test_a_lost_chunk_costs_its_block_and_reset_makes_it_pending(path):
    fill(path, range(10))
    (path / "corrupted" / "logit_difference" / "1.0.0").write_bytes(b"\x00" * 30)
    found = list(damages(path))
    assert [(damage.place, list(damage.examples)) for damage in found] == [("corrupted/logit_difference", [3, 4, 5])]
    store = Store(path)
    store.reset(IDS, [3, 4, 5], [("corrupted/logit_difference", 1)])
    assert Store(path).status() == [DONE] * 3 + [PENDING] * 3 + [DONE] * 4
    assert not list(damages(path))


def test_a_number_that_is_nan_where_a_token_is_counts_as_damage(path):
    store = fill(path, range(3))
    shutil.rmtree(path / ".checksums")  # as stores were before there were lists
    array = zarr.open_array(path, path="question_encoder/probability", mode="r+")
    array[1, 0, 0, 0, 2, 2] = np.nan
    (damage,) = damages(path)
    assert damage.place == "question_encoder/probability" and damage.examples == (1,) and "missing" in str(damage)
    assert store.status()[1] == DONE


def test_holes_tells_padding_from_loss():
    numbers = np.array([[[1.0, np.nan]], [[np.nan, 1.0]], [[1.0, 1.0]]])
    texts = np.array([["a", ""], ["a", "b"], ["", ""]])
    assert holes("question_encoder", numbers, texts).tolist() == [False, True, True]
    assert holes("corrupted", numbers, None).tolist() == [True, True, False]
    assert holes("cells", np.array([[1.0, np.nan], [np.nan, np.nan]]), None).tolist() == [False, True]


def test_damaged_metadata_are_an_error_that_says_so(path):
    (path / "clean" / "probability" / ".zarray").write_text("{")
    with pytest.raises(ResultError, match="metadata are damaged"):
        Store(path)
