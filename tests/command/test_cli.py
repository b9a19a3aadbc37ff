"""The command: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import nnblip
from nnblip import demo, sites
from nnblip.command.cli import main
from nnblip.command.trace import SCENE
from nnblip.errors import NnblipError
from nnblip.results import open_result
from nnblip.sites import TEXT_COMPONENTS

WHERE = ["--no-where"]  # where it is looked for in tests of their own


def test_without_arguments_a_bundled_scene_is_traced(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["trace", "--out", str(out), "--nu", "3", "5", "--draws", "2"]) == 0
    printed = capsys.readouterr().out
    example = demo.examples()[SCENE]
    assert example.question in printed and "Strongest states" in printed
    assert "answer_decoder" in printed and "question_encoder" in printed
    assert (
        f"Wrote {out / 'summary.png'}" in printed
        and f"Open first:  {out / 'summary.png'}" in printed
        and f"{out / 'report.html'}" in printed
    )
    assert max(map(len, tables(printed))) <= 80
    tree = open_result(out / "result.zarr")
    model = nnblip.BlipVQA()
    again = nnblip.causal_trace(model, [example], nu=[3, 5], draws=2)
    np.testing.assert_array_equal(tree["question_encoder"].probability, again["question_encoder"].probability)
    clean, corrupted = float(again["clean"].probability[0]), again["corrupted"].probability[0].mean("draw")
    with model.clean(example) as run:
        pass
    for place, nu in enumerate((3, 5)):
        after = float(corrupted.sel(nu=nu))
        said = []
        for draw in range(2):
            with model.corrupt(run, nu, draw=draw) as damaged:
                pass
            said.append(damaged.answer)
        assert tree["corrupted"].said.values[0, place].tolist() == said
        often = max(said, key=said.count)
        row = rf"^ *{nu} +{clean:.4f} +{after:.4f} +\{clean - after:+.4f} +{often} \({said.count(often)} of 2\) *$"
        assert re.search(row, printed, re.MULTILINE)
    where = open_result(out / "where.zarr")
    np.testing.assert_array_equal(
        where["image_encoder"].logit_difference, nnblip.pointing(model, [example])["image_encoder"].logit_difference
    )
    assert open_result(out / "attention.zarr").attrs["reading"] == "attention"
    assert example.question in (out / "report.html").read_text()
    for name in ("summary", "where", "grad_cam", "question_encoder", "answer_decoder", "gamma"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 150 and len(set(picture.convert("L").resize((64, 64)).getdata())) > 10
            assert picture.info["Description"]


def tables(printed):
    """The lines of tables: those of several columns, behind the sentences and before what was written."""
    lines = printed.partition("\nMeans of")[2].partition("\nWrote ")[0].splitlines()
    return [line.rstrip() for line in lines if "  " in line.strip()]


@pytest.mark.slow
def test_heads_have_a_table_with_their_numbers_and_a_picture_and_every_kind_is_drawn(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["trace", "--draws", "1", "--nu", "5", "--out", str(out), *WHERE, "--kinds", "crossattention_head"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "head  token" in printed and "crossattention_head" in printed
    assert {path.name for path in out.iterdir()} == {
        "result.zarr", "question_encoder.png", "answer_decoder.png", "gamma.png"
    }  # fmt: skip
    assert main([*words, "block", "mlp_out", "--regions", "4", "--overwrite"]) == 0
    names = {path.name for path in out.iterdir()}
    kinds = ("", "_mlp_out", "_crossattention_head")  # of states before those of heads the first has no name
    assert {f"{part}{kind}.png" for part in TEXT_COMPONENTS for kind in kinds} <= names
    printed = capsys.readouterr().out
    assert "…" not in printed  # nothing is cut off
    assert "image_encoder.png" in printed and max(map(len, tables(printed))) <= 80


@pytest.mark.slow
def test_a_trace_takes_what_causal_trace_takes(tmp_path, capsys):
    """Cells by name, direction, freezing, knocking out, what is swapped."""
    out, example, partner = tmp_path / "out", demo.examples()[0], demo.examples()[1].image
    words = ["trace", example.image, example.question, "--nu", "1", "--draws", "1", "--noise", "swap"]
    words += ["--partner", partner, "--out", str(out), *WHERE, "--direction", "noising", "--kinds", "block"]
    cells = ["windows:2,component=answer_decoder", "knock_outs:image_to_question,targets=all"]
    assert main([*words, "--cells", *cells, "--knock-out", "question_to_question:layers=0"]) == 0
    tree = open_result(out / "result.zarr")
    again = nnblip.causal_trace(
        nnblip.BlipVQA(), [nnblip.Example(example.image, example.question, partner=partner)], nu=1, draws=1,
        noise="swap", direction="noising", kinds=["block"],
        cells=[sites.windows(2, component="answer_decoder"), sites.knock_outs("image_to_question", targets="all")],
        knock_out=nnblip.knock_out("question_to_question", layers=0),
    )  # fmt: skip
    for node in ("question_encoder", "cells", "knock_outs"):
        np.testing.assert_array_equal(tree[node].probability, again[node].probability)
    assert tree.attrs["direction"] == "noising" and tree.attrs["knock_out"] == again.attrs["knock_out"]
    assert (out / "knock_outs.png").exists()
    printed = capsys.readouterr().out
    assert re.search(r"Strongest of \d+ cells", printed) and re.search(r"Strongest of \d+ knock outs", printed)
    assert "alone takes" in printed and "gives" not in printed
    again = ["trace", example.image, example.question, "--nu", "5", "--draws", "1", "--freeze", "crossattention"]
    assert main([*again, "--noise-at", "patch_embeds", "--out", str(tmp_path / "other"), *WHERE]) == 0
    assert open_result(tmp_path / "other" / "result.zarr").attrs["freeze"] == "crossattention"


def test_the_noise_falls_where_it_is_asked_to(tmp_path, capsys):
    words = ["trace", "--nu", "0.5", "--draws", "1", *WHERE, "--noise", "shuffle", "--noise-at"]
    assert main([*words, "patch_embeds", "--out", str(tmp_path / "out")]) == 0
    tree = xr.open_datatree(tmp_path / "out" / "result.zarr")
    asked = dict(nu=0.5, draws=1, noise="shuffle", noise_at="patch_embeds")
    again = nnblip.causal_trace(nnblip.BlipVQA(), [demo.examples()[SCENE]], **asked)
    assert tree.attrs["noise_at"] == "patch_embeds"
    np.testing.assert_array_equal(tree["question_encoder"].probability, again["question_encoder"].probability)
    capsys.readouterr()
    assert main([*words, "patches", "--out", str(tmp_path / "none")]) == 2
    assert "did you mean 'patch_embeds'?" in capsys.readouterr().err


def test_a_refused_run_leaves_no_folder_and_a_failed_one_nothing_in_it(tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "folder"
    assert main(["trace", "--nu", "-1", "--out", str(out)]) == 2
    assert main(["trace", "none.png", "what is this", "--out", str(out)]) == 2
    assert not (tmp_path / "new").exists()

    def fails(*_, **__):
        raise NnblipError("no picture")

    monkeypatch.setattr(nnblip.plot, "summary", fails)
    assert main(["trace", "--nu", "5", "--draws", "1", *WHERE, "--out", str(out)]) == 2
    assert "no picture" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_existing_result_is_only_replaced_when_asked(tmp_path, capsys):
    arguments = ["trace", "--out", str(tmp_path), "--nu", "5", "--draws", "1", *WHERE]
    assert main(arguments) == 0
    before = (tmp_path / "gamma.png").stat().st_mtime_ns
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "gamma.png").stat().st_mtime_ns == before
    assert main([*arguments, "--overwrite"]) == 0


def test_answer_prints_answer_and_probability(capsys, model):
    example = demo.examples()[0]
    assert main(["answer", example.image, example.question]) == 0
    expected = model.answer(example.image, example.question)
    assert capsys.readouterr().out.strip() == f"{expected.text}  {expected.probability:.4f}"


def test_doctor_finds_all_well(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "all is well" in printed and "transformers" in printed and "self-check" in printed


def test_doctor_notices_a_wrong_engine(capsys, monkeypatch):
    import nnblip.passes.engine

    def forgets_a_layer(model, point, *rest):
        if point.layer != 3:
            write(model, point, *rest)

    write = nnblip.passes.engine.write_states
    monkeypatch.setattr(nnblip.passes.engine, "write_states", forgets_a_layer)
    assert main(["doctor"]) == 1
    assert "FAILED" in capsys.readouterr().out


PICTURE = str(demo.HERE / "scenes" / "scene00.png")
ASK = "what is the color of the circle"


@pytest.mark.parametrize(
    "arguments",
    [
        ["trace", "missing.png", ASK],
        ["trace", __file__, ASK],
        ["trace", PICTURE],
        ["trace", PICTURE, ""],
        ["trace", PICTURE, "what " * 40],
        ["trace", PICTURE, ASK, "--answer", "xylophone"],
        ["trace", PICTURE, ASK, "--nu", "-1"],
        ["trace", PICTURE, ASK, "--nu", "five"],
        ["trace", PICTURE, ASK, "--draws", "0"],
        ["trace", PICTURE, ASK, "--noise", "white"],
        ["trace", PICTURE, ASK, "--kinds", "blocks"],
        ["trace", PICTURE, ASK, "--model", "/no/such/model"],
        ["trace", PICTURE, ASK, "--dtype", "int8"],
        ["trace", PICTURE, ASK, "--device", "abacus"],
        ["trace", PICTURE, ASK, "--out", __file__],
        ["trace", "--no-such-option"],
        ["trac"],
        ["answer", "missing.png", ASK],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("nnblip: ") and said.count("\n") == 1 and "Traceback" not in said
    assert not list(tmp_path.glob("nnblip-out/*")), "nothing half-done is left"


#: What takes a second or more to load.
HEAVY = {"torch", "transformers", "nnsight", "xarray", "zarr", "matplotlib", "scipy", "pandas", "datasets"}


@pytest.mark.parametrize("words", [["--help"], ["trace", "--help"], ["trac"]], ids=" ".join)
def test_help_loads_nothing_that_takes_its_time(words):
    code = "import json, sys; from nnblip.command.cli import main; main({}); print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code.format(words)], capture_output=True, text=True, check=True)
    *_, loaded = done.stdout.splitlines()
    assert "trace" in done.stdout + done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in json.loads(loaded)}


@pytest.mark.slow
def test_no_progress_bar_where_there_is_no_terminal(tmp_path):
    command = [sys.executable, "-m", "nnblip", "trace", "--nu", "5", "--draws", "1", "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_bundled_scenes_have_all_four_types_and_the_model_answers_them(model):
    rows = json.loads((demo.HERE / "scenes" / "scenes.json").read_text())
    assert len(rows) == 12 and len({row["type"] for row in rows}) == 4
    right = [
        model.answer(example.image, example.question).text == row["answer"]
        for example, row in zip(demo.examples(), rows, strict=True)
    ]
    assert sum(right) >= 11


@pytest.mark.slow
def test_who_reads_no_further_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "nnblip", "doctor"], stdout=closed, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
