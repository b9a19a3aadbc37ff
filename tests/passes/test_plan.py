"""Plans, against two independent executors: a list of rows, and a toy network run one cell at a time."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnblip.errors import NnblipError
from nnblip.passes.plan import INPUT, Point, make_plans, points, restore_in_place
from nnblip.sites import COMPONENTS, HEAD_KINDS, TEXT_COMPONENTS, WHOLE_KINDS, Extent, Site, heatmap

TOKENS = 3
#: Of which a sublayer makes what it adds.
PARTS = ("attention_value_output", "mlp_activation")


@st.composite
def tasks(draw):
    """A number of layers, some cells, a bound on the rows."""
    layers = draw(st.integers(1, 4))
    site = st.builds(
        Site,
        st.sampled_from(TEXT_COMPONENTS),
        st.sampled_from(WHOLE_KINDS),
        st.integers(0, layers - 1),
        st.integers(0, TOKENS - 1),
    )
    cells = draw(st.lists(st.lists(site, min_size=1, max_size=4).map(tuple), max_size=14))
    return cells, layers, draw(st.none() | st.integers(2, 7))


def is_added(kind):
    """Whether it is what a sublayer adds, or a part of that, and not a state of the stream."""
    return kind.endswith("_out") or kind in PARTS


def walk(plan, layers):
    """A list of rows, walked through the pass: for each the point of its birth and what was written into it."""
    rows: list[tuple[Any, list[Site]]] = [(None, [])]
    pending = dict(plan.steps)
    for point in points(layers):
        step = pending.pop(point, None)
        if step is None:
            continue
        rows += [(point, list(rows[0][1])) for _ in range(step.births)]
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row][1].append(Site(*point, token=token))
    assert not pending, "steps at places that the model never reaches"
    return rows


def test_points_come_in_the_order_in_which_blip_computes_them():
    layer = ["block_input", "attention_head", "attention_value_output", "attention_out", "attention"]
    layer += ["crossattention_head", "crossattention_out", "crossattention", "mlp_activation", "mlp_out", "block"]
    expected = [
        (component, kind, number)
        for component in ("question_encoder", "answer_decoder")
        for number, kind in [(0, "input"), *((number, kind) for number in range(3) for kind in layer)]
    ]
    assert list(points(3)) == expected


@given(tasks())
@settings(deadline=None)
def test_every_cell_has_exactly_one_row_over_all_plans(task):
    cells, layers, max_rows = task
    plans = make_plans(cells, layers, max_rows)
    rows = [index for plan in plans for index in plan.cells[1:]]
    assert len(rows) == len(cells) and set(rows) == set(range(len(cells)))
    assert all(plan.cells[0] is None for plan in plans)


@given(tasks())
@settings(deadline=None)
def test_no_plan_has_more_rows_than_allowed_and_there_are_no_more_plans_than_needed(task):
    cells, layers, max_rows = task
    plans = make_plans(cells, layers, max_rows)
    for plan in plans:
        assert plan.rows == len(plan.cells) == len(walk(plan, layers))
        assert max_rows is None or plan.rows <= max_rows
    assert len(plans) == (1 if max_rows is None or not cells else math.ceil(len(cells) / (max_rows - 1)))


@given(tasks(), st.integers(2, 20), st.integers(1, 5))
@settings(deadline=None)
def test_where_rows_of_the_decoder_take_less_of_a_pass_more_of_them_share_it(task, most, times):
    cells, layers, _ = task
    filling = {name: Fraction(most) for name in COMPONENTS} | {"answer_decoder": Fraction(most * times)}
    plans = make_plans(cells, layers, filling)
    assert sorted(index for plan in plans for index in plan.cells[1:]) == list(range(len(cells)))
    for plan in plans:
        taken = 1 + plan.born_in("question_encoder") + Fraction(plan.born_in("answer_decoder"), times)
        assert taken <= most
    decoders = sum(plan.born_in("answer_decoder") for plan in plans)
    assert len(plans) == max(1, math.ceil((len(cells) - decoders + Fraction(decoders, times)) / (most - 1)))


@given(tasks())
@settings(deadline=None)
def test_walking_a_plan_writes_the_sites_of_each_cell_into_its_row_and_nothing_into_row_0(task):
    cells, layers, max_rows = task
    for plan in make_plans(cells, layers, max_rows):
        rows = walk(plan, layers)
        assert rows[0] == (None, [])
        for (_, written), index in zip(rows[1:], plan.cells[1:], strict=True):
            assert set(written) == set(cells[index])


@given(tasks())
@settings(deadline=None)
def test_a_row_is_born_at_the_last_state_of_the_stream_that_its_first_write_allows(task):
    cells, layers, max_rows = task
    order = list(points(layers))
    for plan in make_plans(cells, layers, max_rows):
        for (birth, written), index in zip(walk(plan, layers)[1:], plan.cells[1:], strict=True):
            wanted = [order.index(Point(site.component, site.kind, site.layer)) for site in cells[index]]
            first = min(wanted)
            at = order.index(birth)
            assert not is_added(birth.kind)
            # what a sublayer adds needs the row in the residual: strictly before
            assert at < first if is_added(order[first].kind) else at == first
            # and no earlier than it must: no other state of the stream in between
            assert all(is_added(point.kind) or point.kind in HEAD_KINDS for point in order[at + 1 : first])
            assert len(written) == len(cells[index])


# A toy network of whole numbers. Every number depends on all that it reads, so that a
# row born too late, too early, twice, or written at the wrong place ends differently.


def mix(*read):
    return tuple(hash((token, *read)) for token in range(TOKENS))


def clean_value(point, token):
    return hash(("clean", point, token))


def put(state, token, value):
    return (*state[:token], value, *state[token + 1 :])


def reach(row, point):
    """Compute a point in one row; returns which of its states the point is."""
    if point.kind == INPUT:
        # the answer decoder attends to what the question encoder handed over
        row["read"] = row.get("stream")
        row["stream"] = mix(point)
        return "stream"
    if point.kind in PARTS:
        row["part"] = mix(point, row["stream"], row["read"])
        return "part"
    if is_added(point.kind):
        row["added"] = mix(point, row["stream"], row["read"], row.pop("part", None))
        return "added"
    row["stream"] = mix(point, row["stream"], row.pop("added", None))
    return "stream"


def whole_points(layers):
    """Heads are left out: the cells here have none, and test_cells.py holds them against the oracle."""
    return [point for point in points(layers) if point.kind not in HEAD_KINDS]


def alone(cell, layers):
    """The end of a run of one row with a cell restored."""
    row: dict[str, Any] = {}
    for point in whole_points(layers):
        state = reach(row, point)
        for token in {site.token for site in cell if (site.component, site.kind, site.layer) == point}:
            row[state] = put(row[state], token, clean_value(point, token))
    return row["stream"]


def together(plan, layers):
    """The ends of all rows of a plan. Only the state at hand can be given more rows, as in the engine."""
    rows: list[dict[str, Any]] = [{}]
    for point in whole_points(layers):
        states = {reach(row, point) for row in rows}
        (state,) = states
        if point in plan.steps:
            step = plan.steps[point]
            rows += [{state: rows[0][state], "read": rows[0]["read"]} for _ in range(step.births)]
            for number, token in zip(step.rows, step.tokens, strict=True):
                rows[number][state] = put(rows[number][state], token, clean_value(point, token))
    return [row["stream"] for row in rows]


@given(tasks())
@settings(deadline=None)
def test_a_plan_ends_as_each_cell_does_when_it_is_run_alone(task):
    cells, layers, max_rows = task
    for plan in make_plans(cells, layers, max_rows):
        ends = together(plan, layers)
        assert ends == [alone(() if index is None else cells[index], layers) for index in plan.cells]


@given(tasks(), st.fixed_dictionaries({}, optional={component: st.integers(1, 6) for component in TEXT_COMPONENTS}))
@settings(deadline=None)
def test_rows_that_only_make_up_a_number_end_as_the_corrupted_run(task, least):
    cells, layers, max_rows = task
    for plan in make_plans(cells, layers, max_rows, least):
        ends = together(plan, layers)
        assert ends == [alone(() if index is None else cells[index], layers) for index in plan.cells]
        births = [(point, plan.steps[point].births) for point in points(layers) if point in plan.steps]
        for component in TEXT_COMPONENTS:
            start = [*points(layers)].index(Point(component, INPUT, 0))
            seen = 1 + sum(number for point, number in births if [*points(layers)].index(point) <= start)
            assert seen >= least.get(component, 1)
    without = make_plans(cells, layers, max_rows)
    assert [plan.cells for plan in make_plans(cells, layers, max_rows, dict.fromkeys(least, 1))] == [
        plan.cells for plan in without
    ]


@given(tasks())
@settings(deadline=None)
def test_restoring_in_place_ends_as_the_cell_does(task):
    cells, layers, _ = task
    for cell in cells:
        plan = restore_in_place(cell)
        assert plan.rows == 1 and sum(step.births for step in plan.steps.values()) == 0
        assert together(plan, layers) == [alone(cell, layers)]


def test_the_rows_of_a_heatmap_grow_layer_by_layer():
    extent = Extent(layers=3, question_tokens=4, answer_tokens=2, heads=4)
    cells = heatmap(extent, "answer_decoder") + heatmap(extent, "question_encoder")  # not in the model's order
    (plan,) = make_plans(cells, 3)
    births = {point: step.births for point, step in plan.steps.items()}
    assert births == {
        **{Point("question_encoder", "block", layer): 4 for layer in range(3)},
        **{Point("answer_decoder", "block", layer): 2 for layer in range(3)},
    }
    assert plan.rows == 1 + 3 * 4 + 3 * 2


def test_what_the_first_sublayer_adds_is_born_at_the_layers_input():
    cells = heatmap(Extent(2, 3, 1, 4), "question_encoder", ("attention_out",))
    (plan,) = make_plans(cells, 2)
    births = {point: step.births for point, step in plan.steps.items() if step.births}
    assert births == {Point("question_encoder", "block_input", layer): 3 for layer in (0, 1)}


def test_no_cells_still_give_the_corrupted_run():
    (plan,) = make_plans([], 4, 2)
    assert plan.cells == (None,) and plan.steps == {}


@pytest.mark.parametrize("max_rows", [1, 0, -1, True, False, 2.0, 2.5, "8", [8], float("inf")])
def test_a_bound_that_leaves_no_room_or_is_no_whole_number_is_refused(max_rows):
    cells = [(Site("question_encoder"),)]
    with pytest.raises(NnblipError) as caught:
        make_plans(cells, 1, max_rows)
    assert f"max_rows {max_rows!r}" in str(caught.value) and "at least 2" in str(caught.value)
