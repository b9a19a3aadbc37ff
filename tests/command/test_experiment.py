"""`nnblip experiment`: the list, what is refused, and files of one's own."""

from __future__ import annotations

import re

from nnblip import demo
from nnblip.command.cli import main
from nnblip.experiments import index

#: The shortest experiment there can be.
MINE = """
from matplotlib.figure import Figure
from nnblip.experiments import Defaults, Experiment
from nnblip.experiments.claims import OPEN, Verdict

def run(run):
    (group,) = run.choose(by_type=False)
    run.figure("none", Figure())
    run.section("Seen", f"{len(group.examples)} questions of {run.model.name}")
    run.claim("one", Verdict(OPEN, "nobody looked"))

EXPERIMENT = Experiment("mine", "Is it so?", {"one": "It is so"}, run, "none", Defaults(dataset=("scenes",), n=8))
"""


def refused(capsys, *given: str) -> str:
    assert main(["experiment", *given]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("nnblip: ") and told.err.count("\n") == 1 and not told.out
    return told.err


def test_without_a_name_it_lists_every_question(capsys):
    assert main(["experiment"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if not line.startswith(" ")] == index.names()
    assert all(len(line) <= 80 for line in told.splitlines())
    assert index.load("cross_dataset").question in " ".join(told.split())


def test_what_cannot_be_used_is_one_line_and_exit_code_2(capsys, tmp_path):
    out = tmp_path / "out"
    for given, message in (
        (["crossdataset"], "did you mean 'cross_dataset'"),
        (["cross_dataset", "--dataset", "scenes"], "expected at least 2"),
        (["question_types", "--n", "3"], "n 3: expected at least 8"),
        (["question_types", "--dataset", "scenes", "--types", "colour"], "did you mean 'color'"),
        (["question_types", "--nu", "1", "2"], "takes one"),
        (["--all", "--n", "9"], "--all with '--n'"),
        (["--n", "9"], "--n without the name of an experiment"),
        (["nowhere.py"], "there is no such file"),
    ):
        assert message in refused(capsys, *given, "--out", str(out))
    assert not out.exists()


def test_a_file_of_ones_own_runs_and_one_that_is_none_is_refused(capsys, tmp_path):
    mine, out = tmp_path / "mine.py", tmp_path / "deep" / "out"
    mine.write_text("x = 1")
    assert "expected EXPERIMENT = Experiment(...)" in refused(capsys, str(mine))
    mine.write_text("import nothing_that_is_there")
    assert "cannot be loaded: ModuleNotFoundError" in refused(capsys, str(mine))
    mine.write_text(MINE)
    assert main(["experiment", str(mine), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    summary = (out / "summary.md").read_text()
    assert summary in told and "8 questions of nnblip-demo" in summary
    assert summary.endswith("- **not established**: It is so (nobody looked)\n")
    mine.write_text(MINE.replace('run.claim("one"', 'run.claim("two"'))
    assert "claim 'two' is unknown" in refused(capsys, str(mine), "--out", str(tmp_path / "other"))
    assert "was made with n 8, asked is 9" in refused(capsys, str(mine), "--out", str(out), "--n", "9")
    assert (out / "summary.md").read_text() == summary


def test_a_model_that_answers_nothing_rightly_is_shown_with_its_answers_and_nothing_stays(capsys, tmp_path):
    rows = [f"{one.image},{one.question},zebra,{one.question_type}" for one in demo.examples()[:3]]
    (tmp_path / "asked.csv").write_text("\n".join(["image,question,answer,type", *rows]))
    data, out = f"table:{tmp_path / 'asked.csv'}", tmp_path / "out"
    told = refused(
        capsys, "question_types", "--dataset", data, "--images", str(demo.HERE / "scenes"), "--out", str(out)
    )
    assert "answers none of 3 questions correctly; such as" in told and "not 'zebra'" in told
    assert not out.exists()


def test_all_of_them_make_a_page_with_question_command_figure_answer_and_time(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(index, "folder", lambda: tmp_path)
    monkeypatch.setattr(index, "in_checkout", lambda: False)
    assert main(["experiment", "--all", "--out", str(tmp_path / "all")]) == 0
    page = (tmp_path / "all" / "README.md").read_text()
    assert "## mine: Is it so?\n\n```bash\nnnblip experiment mine\n```" in page
    assert "- **not established**: It is so (nobody looked)" in page and re.search(r"\d\.\d minutes", page)
    assert [(tmp_path / "all" / one).exists() for one in re.findall(r"\]\((\S+)\)", page)] == [True]
    told = capsys.readouterr().out
    assert "1 of 1: mine" in told and f"Wrote {tmp_path / 'all' / 'README.md'}" in told
