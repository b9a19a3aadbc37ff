"""The page as a file: its numbers are those of the result and of nnblip.effects, and it holds what it says."""

import base64
import io
import json
import re

import jinja2
import numpy as np
import pytest
import xarray as xr
from helpers.pages import Page, result
from PIL import Image

from nnblip import effects
from nnblip.diagnosis import Findings, diagnose
from nnblip.errors import InputError, NnblipError, ResultError, SettingError
from nnblip.report import charts, content, numbers, page, pictures, write
from nnblip.results import VARIABLES

DIGITS = {"probability": 4, "log_probability": 3, "logit_difference": 3}


@pytest.fixture(autouse=True)
def without_vega(monkeypatch):
    """It takes seconds to be bundled, and only a browser reads it."""
    monkeypatch.setattr(charts, "script", lambda: "")


@pytest.fixture
def undiagnosed(monkeypatch):
    """Where findings are not what is looked at, for they too take their time."""
    monkeypatch.setattr(page, "diagnose", lambda tree: Findings())


def held(tree, **settings):
    return Page(page.page(tree, **settings))


@pytest.fixture(scope="module")
def several():
    return result(examples=8, draws=10, layers=2, words=5, nus=(1.0, 5.0), grid=(2, 2))


@pytest.fixture(scope="module")
def its_page(several):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "script", lambda: "")
        return held(several)


NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
NASTY += "&lt;b&gt; \u2028 \u202e {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def odd():
    """An example with heads, few draws, edges, and texts that are no texts of ours; and its page."""
    tree = result(draws=3, layers=2, words=5, nus=(5.0,))
    node = tree["question_encoder"].to_dataset().drop_vars("kind")
    heads = xr.concat([node.isel(kind=0), node.isel(kind=0) + 1], "head").expand_dims("kind")
    heads = heads.assign_coords(kind=["attention_head"], head=[0, 1], **{n: node[n] for n in ("token_text", "role")})
    heads = heads.transpose("example", "nu", "draw", "kind", "layer", "head", "token")
    tree["question_encoder_heads"] = xr.DataTree(heads)
    tree["edges"] = _list_alone(tree)["edges"]
    tree.dataset = tree.to_dataset().assign_coords(question=("example", [NASTY]), answer=("example", [NASTY]))
    tree["question_encoder"].coords["token_text"] = ("example", "token"), [[NASTY, *"abcd"]]
    tree.attrs["model"] = NASTY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "script", lambda: "")
        patch.setattr(page, "diagnose", lambda tree: Findings())
        return tree, held(tree)


def equal(given, values, digits, where=""):
    """Whole numbers of the last digit are these values, rounded."""
    values = np.asarray(values, float)
    given = np.asarray(given).reshape(values.shape)
    np.testing.assert_array_equal(np.isnan(given), np.isnan(values), where)
    np.testing.assert_allclose(given, values * 10.0**digits, atol=0.5 + 1e-3, err_msg=where)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("place", [0, 7])
def test_means_and_intervals_of_an_example_are_those_of_effects(several, its_page, place, variable):
    said, read = its_page.block(f"sheet-{place + 1}")
    for value, digits in (("indirect_effect", DIGITS[variable]), ("relevance", 3)):
        sure = effects.interval(several, value, variable=variable, over="draws")
        for name in ("question_encoder", "answer_decoder", "image_encoder"):
            node = sure[name].to_dataset().isel(example=place).transpose("nu", "kind", "layer", "token")
            rows = len(said["maps"][name]["rows"])
            own = said["maps"][name]["effect" if value == "indirect_effect" else "relevance"][variable]
            for part in ("value", "low", "high"):
                equal(read(own[part]), node[part].values[..., :rows], digits, f"{name} {part}")
            reasons = node["reason"].values[..., :rows].ravel()
            includes = ((node["low"] <= 0) & (node["high"] >= 0)).values[..., :rows].ravel()
            marks = np.array(its_page.index["marks"], object)[read(own["mark"]).astype(int)]
            expected = [r or its_page.index["marks"][int(i)] for r, i in zip(reasons, includes, strict=True)]
            assert marks.tolist() == expected
    assert (~np.isnan(read(said["maps"]["question_encoder"]["effect"][variable]["low"]))).sum() > 10


@pytest.mark.parametrize("direction", ["restoring", "noising"])
def test_runs_and_draws_are_those_of_the_result(direction, undiagnosed):
    tree = result(examples=2, draws=4, layers=2, words=5, nus=(1.0, 5.0))
    tree.attrs["direction"] = direction
    found = held(tree)
    assert found.index["noising"] == (direction == "noising")
    said, read = found.block("sheet-1")
    sign = -1 if direction == "noising" else 1
    for variable in VARIABLES:
        digits, scale = DIGITS[variable], 10 ** DIGITS[variable]
        draws, read_draws = found.block(f"units-1-{variable}")
        clean, corrupted = (tree[n][variable].isel(example=0).values for n in ("clean", "corrupted"))
        equal(read(said["numbers"][variable]["clean"]), [clean], digits)
        equal(read(said["numbers"][variable]["corrupted"]), corrupted.mean(1), digits)
        for name, map_ in said["maps"].items():
            rows = len(map_["rows"])
            runs = tree[name][variable].isel(example=0).transpose("draw", "nu", "kind", "layer", "token").values
            runs = runs[..., :rows].astype(float)
            effect = sign * (runs - (clean if sign < 0 else corrupted.T[:, :, None, None, None]))
            equal(read_draws(draws["maps"][name]["effect"]), effect, digits, name)
            # as page.js puts them together
            moved = read_draws(draws["maps"][name]["effect"]).reshape(runs.shape) * sign
            end = read_draws(draws["clean"])[:, None] if sign < 0 else read_draws(draws["corrupted"]).reshape(-1, 2)
            together = (
                end[..., None, None, None] + moved + read_draws(draws["maps"][name]["restored"]).reshape(runs.shape)
            )
            equal(together, runs, digits, name)
            moved = read(map_["effect"][variable]["value"]).reshape(runs.shape[1:]) * sign
            end = (
                np.rint(clean * scale)
                if sign < 0
                else read(said["numbers"][variable]["corrupted"])[:, None, None, None]
            )
            equal(end + moved + read(map_["restored"][variable]).reshape(moved.shape), runs.mean(0), digits, name)


def test_of_all_examples_together_there_are_means_by_role_over_examples(several, its_page):
    said, read = its_page.block("sheet-0")
    assert its_page.index["sheets"][0]["example"] is None and len(said["units"]) == 8
    sure = effects.interval(effects.by_role(several), "indirect_effect", over="examples")[
        "question_encoder"
    ].to_dataset()
    map_ = said["maps"]["question_encoder"]
    assert map_["rows"] == sure["role"].values.tolist() and "attribute word" in map_["rows"]
    own = map_["effect"]["probability"]
    for part in ("value", "low", "high"):
        equal(read(own[part]), sure[part].transpose("nu", "kind", "layer", "role").values, 4, part)
    assert np.isfinite(read(own["low"])).any()
    total = effects.interval(several, "total_effect", over="examples")["corrupted"].to_dataset()
    equal(read(said["numbers"]["probability"]["total"]["high"]), total["high"].values, 4)
    # its units are the examples
    units, read_units = its_page.block("units-0-probability")
    one = effects.by_role(effects.indirect_effect(several))["question_encoder"].probability.mean("draw")
    equal(
        read_units(units["maps"]["question_encoder"]["effect"]),
        one.transpose("example", "nu", "kind", "layer", "role").values, 4,
    )  # fmt: skip


def test_gamma_is_that_of_effects(several, its_page):
    said, read = its_page.block("sheet-2")
    sure = effects.interval(several, "gamma", over="draws")["answer_decoder"].to_dataset().isel(example=1)
    equal(read(said["maps"]["answer_decoder"]["gamma"]["value"]), sure["value"].values, 3)
    equal(read(said["maps"]["answer_decoder"]["gamma"]["high"]), sure["high"].values, 3)


@pytest.mark.parametrize("answer_tokens", [1, 2])
def test_what_restores_by_construction_is_marked(answer_tokens):
    tree = result(examples=2, draws=1, layers=3, words=5, nus=(5.0,), answer_tokens=answer_tokens, grid=None)
    for sheet in numbers.sheets(tree):
        marked = sheet.maps["answer_decoder"].structural
        assert marked.shape == (1, 3, answer_tokens) and marked.any() == (answer_tokens == 1)
        if answer_tokens == 1:
            assert marked[0, :, 0].tolist() == [False, False, True]
        assert not sheet.maps["question_encoder"].structural.any()


def test_what_restores_by_construction_is_on_the_page(odd):
    said, read = odd[1].block("sheet-0")
    assert read(said["maps"]["answer_decoder"]["structural"]).tolist() == [0, 1]


def test_heads_are_kinds(odd):
    tree, found = odd
    said, read = found.block("sheet-0")
    map_ = said["maps"]["question_encoder_heads"]
    assert map_["kinds"] == ["attention_head 0", "attention_head 1"]
    value = read(map_["effect"]["probability"]["value"]).reshape(1, 2, 2, 5)
    own = effects.indirect_effect(tree)["question_encoder_heads"].probability.mean("draw").isel(example=0)
    equal(value, own.squeeze("kind").transpose("nu", "head", "layer", "token").values, 4)


def test_too_few_draws_are_called_too_few(odd):
    said, read = odd[1].block("sheet-0")
    marks = read(said["maps"]["question_encoder"]["effect"]["probability"]["mark"])
    assert {odd[1].index["marks"][int(mark)] for mark in marks} == {"too few draws: at least 10"}


def test_draws_are_left_out_where_they_take_too_much_and_the_page_says_so(several, its_page, monkeypatch, undiagnosed):
    blocks = [
        content.Held("m" * 10, dict(zip(VARIABLES, ("p" * 5, "l" * 6, "d" * 7), strict=True))),
        content.Held("m" * 10, dict(zip(VARIABLES, ("p" * 5, "l" * 6, "d" * 7), strict=True))),
    ]
    for most, kept in ((156, list(VARIABLES)), (155, ["probability"]), (130, ["probability"]), (129, [])):
        monkeypatch.setattr(page, "MOST", most)
        assert page._kept(blocks, others=100) == kept
    assert its_page.has("units-1-logit_difference") and "are left out, as the page" not in its_page.text
    found = held(several.isel(example=[0, 1]))
    assert not found.has("units-1-probability") and found.has("units-0-logit_difference")
    assert "single draws by probability, log-probability, logit-difference are left out" in found.text


def test_what_others_wrote_is_text(odd):
    found = odd[1]
    assert "<script>window" not in found.text and "<img src=x" not in found.text and "\u202e" not in found.text
    scripts = re.sub(r"(?s)<script.*?</script>", "<script>", found.text)
    assert found.text.count("<script") == len(re.findall(r"<script[ >]", scripts))
    assert found.index["sheets"][0]["question"].startswith("</script><script>window.hacked = 1</script>")
    assert "{{ 7 * 7 }}" in found.index["sheets"][0]["question"]
    assert found.block("sheet-0")[0]["maps"]["question_encoder"]["rows"][0].startswith("</script>")


def test_what_is_found_stands_on_the_page(several, its_page):
    found = diagnose(several)
    assert len(found) > 1
    for one in found:
        assert f"{one.level}: {one.name}." in its_page.text
        assert str(jinja2.filters.escape(one.remedy)) in its_page.text


def test_nothing_of_the_page_is_elsewhere(its_page):
    own = re.sub(r"(?s)<script.*?</script>", "", its_page.text)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", own) and "url(" not in own and "@import" not in own
    assert "default-src 'none'" in own


# ---- pictures ------------------------------------------------------------------------------------


RED = Image.new("RGB", (2000, 1000), "red")


def test_pictures_of_the_result_are_found_and_what_is_not_found_is_said(tmp_path):
    RED.save(tmp_path / "red.png")
    red = str(tmp_path / "red.png")
    texts, reasons = pictures.embedded([red, str(tmp_path / "gone.png"), None], lambda number: False)
    assert texts[1:] == ["", ""] and reasons[0] == "" and "gone.png" in reasons[1] and "does not say" in reasons[2]
    small = Image.open(io.BytesIO(base64.b64decode(texts[0])))
    assert small.format == "WEBP" and small.size == (512, 256) and small.convert("RGB").getpixel((9, 9))[0] > 240


def test_pictures_are_given_by_name_in_order_or_alone():
    names, paths = ["a", "b"], ["a.png", ""]
    assert pictures.given(None, names, paths) == ["a.png", None]
    assert pictures.given({"b": RED}, names, paths) == ["a.png", RED]
    assert pictures.given([RED, "c.png"], names, paths) == [RED, "c.png"]
    for one in (RED, "c.png", np.zeros((2, 2, 3))):
        assert pictures.given(one, ["a"], ["a.png"]) == [one]


def test_many_pictures_are_small(monkeypatch):
    monkeypatch.setattr(pictures, "MOST", 130_000)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    texts, _ = pictures.embedded([noise] * 2, lambda number: True)
    assert sum(map(len, texts)) <= pictures.MOST
    assert Image.open(io.BytesIO(base64.b64decode(texts[0]))).size in [(256, 256), (192, 192)]


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        ({"nobody": "x.png"}, SettingError, "nobody"),
        (["a.png"], SettingError, "1 given of 2 examples"),
        ({"0 scene10.png object": "nowhere.png"}, InputError, "nowhere.png"),
    ],
)
def test_pictures_that_are_given_wrongly_are_refused_and_nothing_is_written(tmp_path, images, error, says):
    tree = result(examples=2, draws=2, layers=2, words=5, nus=(5.0,))
    with pytest.raises(error, match=says):
        write(tree, tmp_path / "new" / "page.html", images=images)
    assert list(tmp_path.iterdir()) == []


# ---- files ---------------------------------------------------------------------------------------


def test_a_page_is_written_whole_and_nothing_is_overwritten(tmp_path, its_page, monkeypatch):
    monkeypatch.setattr(page, "page", lambda tree, images: its_page.text)
    path = tmp_path / "new" / "page.html"
    assert write(xr.DataTree(), path) == path and path.read_text() == its_page.text
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]
    with pytest.raises(ResultError, match="exists already"):
        write(xr.DataTree(), path)
    monkeypatch.setattr(page, "page", lambda tree, images: "new")
    write(xr.DataTree(), str(path), overwrite=True)
    assert path.read_text() == "new"


@pytest.mark.parametrize("path", ["page", "page.zarr", 3, "a\0.html", "x" * 300 + ".html", "nowhere.png/page.html"])
def test_names_that_cannot_be_a_page_are_refused_before_any_work(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere.png").write_text("a file")
    monkeypatch.setattr(page, "page", lambda tree, images: "text")
    with pytest.raises(NnblipError):
        write(xr.DataTree(), path)


def _list_alone(tree):
    """The result with a list of cells in the place of maps."""
    cells = tree["question_encoder"].to_dataset().isel(kind=0, layer=0).rename(token="edge")
    nodes = {name: tree[name].to_dataset(inherit=False) for name in ("clean", "corrupted")}
    return xr.DataTree.from_dict({"/": tree.to_dataset(), **nodes, "/edges": cells.drop_vars(["kind", "layer"])})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: "result.zarr", "expected a result of causal_trace"),
        (lambda tree: tree.isel(example=0), r"isel\(example=\[0\]\)"),
        (lambda tree: tree.sel(nu=5.0), r"sel\(nu=\[5\]\)"),
        (lambda tree: tree.mean("draw"), "give the result itself"),
        (lambda tree: effects.indirect_effect(tree), "no node /clean"),
        (_list_alone, "no map, only /edges"),
        (lambda tree: tree.map_over_datasets(lambda node: node.expand_dims(noise=["a", "b"])), "dimension 'noise'"),
    ],
    ids=["a path", "an example", "a nu", "no draws", "effects", "a list", "another dimension"],
)
def test_what_is_no_result_with_maps_is_refused(change, says):
    tree = change(result(draws=2, layers=2, words=5, nus=(5.0,)))
    with pytest.raises(NnblipError, match=says):
        page.page(tree)


def test_lists_of_cells_are_said_to_be_left_out(odd):
    assert "/edges, which this page does not show" in odd[1].text


def test_examples_without_numbers_are_left_out_and_named(undiagnosed):
    tree = result(examples=3, draws=2, layers=2, words=5, nus=(5.0,), grid=None)
    names = tree["example"].values.tolist()
    for name in ("clean", "corrupted", "question_encoder", "answer_decoder"):
        for variable in VARIABLES:
            tree[name][variable].values[1] = np.nan
        tree[name] = xr.DataTree(tree[name].to_dataset(inherit=False).drop_vars("role", errors="ignore"))
    found = held(tree, images={names[1]: "nowhere.png", names[2]: RED})
    assert [one["name"] for one in found.index["sheets"]] == [names[0], names[2]]
    assert found.has("picture-1") and f"not here: {names[1]}." in " ".join(found.text.split())
    assert "no mean over all examples" in found.text
    equal(found.block("sheet-1")[1](found.block("sheet-1")[0]["numbers"]["probability"]["clean"]),
          [tree["clean"].probability.values[2]], 4)  # fmt: skip
    for variable in VARIABLES:
        tree["clean"][variable].values[:] = np.nan
    with pytest.raises(ResultError, match="no example of the result has numbers"):
        held(tree)


def test_digits_are_of_every_variable():
    assert tuple(content.DIGITS) == tuple(content.UNITS) == VARIABLES
    assert json.loads(json.dumps(charts.specifications(("question_encoder",), True)))["map"]
