"""Findings as a list, a text and JSON; which results a diagnosis takes; what the documentation says of it."""

import json
import re
from html import escape
from pathlib import Path

import pytest
import xarray as xr
from helpers.faults import FAULTS, sound
from helpers.figures import all_inside, texts

import nnblip
from nnblip import plot
from nnblip.command.cli import main
from nnblip.diagnosis import ATTRIBUTE, CHECKS, Finding, Findings
from nnblip.errors import NnblipError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def faulty():
    return FAULTS["wrong answers"][2](FAULTS["nothing restores"][2](sound()))


def test_findings_are_a_list_the_gravest_first_and_a_line_each(faulty):
    findings = nnblip.diagnose(faulty)
    levels = [one.level for one in findings]
    assert levels == sorted(levels, key=["severe", "warning", "note"].index) and {"warning", "note"} <= {*levels}
    assert len(findings) == len(levels) and findings[0] in findings and isinstance(findings[:1], Findings)
    assert len(str(findings).splitlines()) == len(findings)
    assert all(one.name in str(findings) and one.remedy in str(findings) for one in findings)
    assert {one.level for one in findings.at_least("warning")} == {"warning"}
    assert "2 warning" in repr(findings) and str(Findings()) == "nothing found"
    with pytest.raises(NnblipError, match="level 'bad' is unknown"):
        findings.at_least("bad")


def test_findings_come_back_from_json(faulty):
    findings = nnblip.diagnose(faulty)
    again = Findings.from_json(findings.to_json())
    assert again == findings and str(again) == str(findings)
    assert json.loads(findings.to_json())[0]["name"] == findings[0].name and findings.to_json().isascii()
    for text in ("", "[1]", "{}x", '[{"name": "a"}]', "null"):
        with pytest.raises(NnblipError, match="no findings"):
            Findings.from_json(text)


def test_a_text_of_others_stays_in_its_line(faulty):
    names = [f"q{k}\n\x1b[31m" for k in range(10)]
    tree = faulty.map_over_datasets(lambda node: node.assign_coords(example=names) if "example" in node.dims else node)
    assert all("\n" not in str(one) and "\x1b" not in str(one) for one in nnblip.diagnose(tree))


def test_a_notebook_shows_all_of_them_escaped(faulty):
    findings = nnblip.diagnose(faulty)
    page = findings._repr_html_()
    assert page.count("<tr>") == 1 + len(findings) and "2 warning" in page
    assert all(escape(text) in page for one in findings for text in (one.name, one.measured, one.limit, one.remedy))
    evil = Finding("<script>", "note", "<b>", "", ("<i>",))
    assert not re.search("<(script|b|i)>", Findings([evil])._repr_html_().replace("<b>Findings", ""))
    assert "nothing found" in Findings()._repr_html_()


@pytest.mark.parametrize("given", [None, 5, xr.Dataset()])
def test_what_is_no_result_is_refused(given):
    with pytest.raises(NnblipError, match=r"expected a result of causal_trace|no node"):
        nnblip.diagnose(given)


@pytest.mark.parametrize("width", [0, -1, True, "wide", float("nan"), float("inf")])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(NnblipError, match="width is"):
        nnblip.diagnose(sound(2), width=width)


def test_an_effect_is_no_result():
    with pytest.raises(NnblipError, match="no node /c"):
        nnblip.diagnose(nnblip.indirect_effect(sound(2)))


def test_the_documentation_has_every_check_with_its_limits():
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/diagnostics.md").read_text(), re.M
    )
    said = [tuple(cell.replace("\\|", "|") for cell in row) for row in rows]
    assert said == [(one.name, f"{one.why} ({one.reference})", one.limits, one.remedy) for one in CHECKS]


def test_a_severe_finding_stands_on_every_figure_of_it():
    tree = FAULTS["beyond float32"][2](sound(2))
    one = {"nu": 1.0, "example": "q0"}
    for figure in (plot.heatmap(tree, "question_encoder", **one), plot.gamma(tree)):
        assert "Not to be relied on: edge of precision" in " ".join(texts(figure).split())
        all_inside(figure)
    assert "Not to be relied on" not in texts(plot.heatmap(sound(2), "question_encoder", **one))


def test_check_prints_the_findings_of_a_sound_file_and_a_damaged_one_has_none(faulty, tmp_path, capsys):
    path = nnblip.results.save(faulty, tmp_path / "r.zarr")
    assert main(["check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "all is well" in printed and printed.splitlines()[1:] == str(nnblip.diagnose(faulty)).splitlines()
    chunk = next((path / "question_encoder" / "probability").glob("0*"))
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert main(["check", str(path)]) == 1
    assert "warning:" not in capsys.readouterr().out


def test_what_is_too_large_is_said_and_not_read(tmp_path, capsys, monkeypatch):
    from nnblip.command import printing

    path = nnblip.results.save(sound(2), tmp_path / "r.zarr")
    monkeypatch.setattr(printing, "READ_BYTES", 1000)
    monkeypatch.setattr(printing, "diagnose", None)
    assert main(["check", str(path)]) == 0
    assert "Not diagnosed: 0.0 GiB" in capsys.readouterr().out


def test_a_finding_says_of_how_many_it_is_and_names_a_few():
    one = Finding("n", "note", "m", "l", tuple("abcdefg"), remedy="Try.")
    assert str(one) == "note: n: m; expected l [a, b, c, d and 3 more]. Try."


def test_what_a_result_was_stored_with(faulty):
    tree = faulty.copy()
    assert Findings.stored_in(tree) is None
    tree.attrs[ATTRIBUTE] = nnblip.diagnose(faulty).to_json()
    assert Findings.stored_in(tree) == nnblip.diagnose(faulty)
