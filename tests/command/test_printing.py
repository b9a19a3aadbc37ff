"""What the command's tables say, held against the arrays."""

from __future__ import annotations

import re

import pytest
from helpers.trees import random_tree

from nnblip import effects
from nnblip.command import printing
from nnblip.diagnosis import diagnose

NUMBER = r"[+-]?\d\.\d{4}"


@pytest.fixture
def tree():
    return random_tree(examples=1, draws=12, kinds=("block", "crossattention"), layers=3)


def test_sentences_come_first_and_means_have_their_intervals(tree, capsys):
    printing.trace(tree, diagnose(tree), "scene.png", 5.0)
    printed = capsys.readouterr().out
    total = (tree["clean"].probability - tree["corrupted"].probability).isel(example=0).sel(nu=5.0)
    found = effects.interval(tree, "total_effect")["corrupted"].isel(example=0).sel(nu=5.0)
    low, high = float(found["low"]), float(found["high"])
    assert low < float(total.mean()) < high
    sentences = printed.split("\n\n")[1].splitlines()
    assert len(sentences) == 3 and f"{float(tree['clean'].probability[0]):.4f}" in sentences[0]
    assert f"{float(total.mean()):.4f} [{low:.4f}, {high:.4f}]" in sentences[1]
    assert "Means of 12 draws of the noise, in brackets 95 % intervals over draws." in printed
    assert printed.index(sentences[2]) < printed.index("Strongest states")


def test_cells_that_restore_by_construction_are_counted_and_not_listed(tree, capsys):
    printing.trace(tree, diagnose(tree), "scene.png", 5.0)
    rows = capsys.readouterr().out.partition("Strongest states")[2]
    # crossattention of a token is its block, and the decoder's last layer is the answer
    assert "not counting 43 cells that would restore by construction" in rows  # 3 x (13 + 1) and one
    assert " crossattention " not in rows and not re.search(r"answer_decoder +block +2 ", rows)
    given = tree["question_encoder"].probability.isel(example=0).sel(nu=5.0, kind="block").mean("draw")
    corrupted = tree["corrupted"].probability.isel(example=0).sel(nu=5.0).mean("draw")
    best = given.where(given == given.max(), drop=True)
    layer, token = int(best.layer[0]), int(best.token[0])
    most = re.escape(f"{float((given - corrupted).max()):+.3f}")
    assert re.search(rf"question_encoder +(block +)?{layer} +{token} .*{most}", rows)


def test_80_columns_are_enough(tree, capsys):
    words = ["a very-long-word-of-a-question"] * 13
    node = tree["question_encoder"].to_dataset(inherit=False)
    tree["question_encoder"].dataset = node.assign_coords(token_text=(("example", "token"), [words]))
    printing.trace(tree, diagnose(tree), "scene.png", 5.0)
    *_, rows = capsys.readouterr().out.partition("Strongest states")
    assert max(map(len, rows.splitlines()[1:])) <= 80
    assert "…" not in rows and "very-long-word-of-a-question" in "".join(rows.split())


def test_what_is_said_most_often_has_a_column(tree, capsys):
    said = [["red"] * 12, [*["blue"] * 3, *["red"] * 2, *["", ""] * 3, "blue"]]
    node = tree["corrupted"].to_dataset(inherit=False).assign_coords(said=(("example", "nu", "draw"), [said]))
    tree["corrupted"].dataset = node
    printing.trace(tree, diagnose(tree), "scene.png", 5.0)
    printed = capsys.readouterr().out
    assert "says when damaged" in printed and "red (12 of 12)" in printed and "blue (4 of 6)" in printed


def test_too_few_draws_have_no_interval_and_a_reason(capsys):
    tree = random_tree(examples=1, draws=2, layers=2)
    printing.trace(tree, diagnose(tree), "scene.png", 5.0)
    printed = capsys.readouterr().out
    assert "intervals over draws (none: too few draws: at least 10)." in printed
    assert not re.search(rf"\[{NUMBER}, {NUMBER}\]", printed)
