"""Data sets of an experiment: parted, and refused in one sentence where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnblip.errors import NnblipError
from nnblip.experiments import Defaults, Experiment
from nnblip.experiments.sources import image_of, opened, parts_of


def table(folder: Path, rows: list[dict[str, object]], name: str, images: str = "") -> str:
    """The name of a data set with a row for each; its images are in a folder, and nobody opens them."""
    usual = {"question": "what is it", "answer": "red", "type": "color", "image": "a.png"}
    whole = [{**usual, **row} for row in rows]
    for row in whole:
        (folder / images).mkdir(exist_ok=True)
        (folder / images / str(row["image"])).write_text("a picture")
    (folder / name).write_text("\n".join([",".join(whole[0]), *(",".join(map(str, row.values())) for row in whole)]))
    return f"table:{folder / name}"


def experiment(**more: object) -> Experiment:
    return Experiment("mine", "What?", {}, lambda run: None, "figure", Defaults(n=8), **more)  # type: ignore[arg-type]


def asked(spec: str | tuple[str, ...], **more: object):
    return experiment().options(dataset=(spec,) if isinstance(spec, str) else spec, **more)


def test_what_is_missing_is_said(tmp_path):
    untyped = table(tmp_path, [{"type": "", "image": f"{n}.png"} for n in range(3)], "untyped.csv")
    one = table(tmp_path, [{"question": f"what is {n}"} for n in range(3)], "one.csv")
    many = table(tmp_path, [{"type": f"t{n}", "image": f"{n}.png"} for n in range(17)], "many.csv")
    for spec, needs, message in (
        (untyped, ("types",), "no types of questions"),
        (one, ("images",), "all 3 questions of table are about one image, '.*a.png'"),
        (many, (), "17 types of questions, more than 16: name some with --types"),
        (one, ("boxes",), "does not say where the objects are"),
    ):
        with pytest.raises(NnblipError, match=message):
            opened(asked(spec), needs)
    assert len(opened(asked(one), ("types",))[0].examples) == 3
    with pytest.raises(NnblipError, match="did you mean 'color'"):
        opened(asked(one, types=("colour",)), ())
    with pytest.raises(NnblipError, match="the field by which to part 'question_typ' is unknown; did you mean"):
        opened(asked(one, by="question_typ"), ())


def test_many_types_are_parted_by_a_coarser_field_or_as_asked(tmp_path):
    rows = [{"type": f"what t{n}", "image": f"{n}.png", "answer_type": ("number", "other")[n % 2]} for n in range(17)]
    spec = table(tmp_path, rows, "many.csv")

    def names(**more: object) -> dict[str, int]:
        options = asked(spec, **more)
        return {part.name: len(part.examples) for part in parts_of(opened(options, ("types",)), options, True)}

    assert names() == {"number": 9, "other": 8}
    assert names(types=("what t1*", "early=what t0,what t2")) == {"early": 2, "what t1*": 8}
    assert names(by="answer_type", types=("number",)) == {"number": 9}
    for wrong in (("=a",), ("a=",), ("a=b", "a=c")):
        with pytest.raises(NnblipError, match="types"):
            names(types=wrong)


def test_types_of_two_data_sets_are_told_apart_and_pictures_are_where_each_has_them(tmp_path):
    spec = table(tmp_path, [{"image": f"{n}.png"} for n in range(2)], "asked.csv", "here")
    options = asked((spec, "scenes"), images=(f"table={tmp_path / 'here'}",))
    sources = opened(options, ("types", "images"))
    names = [part.name for part in parts_of(sources, options, True)]
    assert "color (table)" in names and "color (scenes)" in names
    both = asked((spec, "scenes"), by="objects", images=(f"table={tmp_path / 'here'}",))
    assert [one.by for one in opened(both, ())] == ["question_type", "objects"], "where there is the field"
    assert [part.name for part in parts_of(sources, options, False)] == ["table", "scenes"]
    assert "here" in image_of(sources[0].examples[0]), "the folder that was named"
    for images, message in (
        (("scenes=here",), "images of the data set 'scenes' is unknown"),
        (("here", "there"), "expected NAME=PLACE for each"),
    ):
        with pytest.raises(NnblipError, match=message):
            opened(asked((spec, "scenes"), images=images), ())
    with pytest.raises(NnblipError, match="scenes bring their own"):
        opened(asked("scenes", images=("here",)), ())


def test_what_cannot_be_used_is_refused_before_anything_is_read():
    one = experiment()
    for given, message in (
        ({"n": 7}, "n 7: expected at least 8 questions of each group"),
        ({"nu": (1.0, 2.0)}, "nu 1.0, 2.0: mine takes one"),
        ({"noise": ("mean", "scale")}, "noise mean, scale: mine takes one"),
        ({"noise": ("swap",)}, "noise 'swap' is unknown"),
        ({"draws": 0}, "draws 0: expected a whole number of at least 1"),
        ({"nu": (-1.0,)}, "nu"),
    ):
        with pytest.raises(NnblipError, match=message):
            one.options(**given)
    with pytest.raises(NnblipError, match="compares data sets, expected at least 2"):
        experiment(sets=2).options(dataset=("scenes",))
    assert experiment(ladder=True).options(nu=(1.0, 2.0)).nu == (1.0, 2.0)
    assert json.dumps(one.options().deciding)
