"""The page as a reader has it: in headless Chromium, by mouse, by keyboard, at the width of a phone.

One browser and two pages serve all tests.
"""

import numpy as np
import pytest
from helpers import browser as browsers
from helpers.pages import result

from nnblip import effects, report

pytestmark = pytest.mark.slow
DIGITS = {"probability": 4, "log_probability": 3, "logit_difference": 3}
NASTY = "<script>window.hacked = 1</script> is </script> dark"


def one_result():
    return result(draws=10, layers=3, words=5, nus=(1.0, 5.0, 10.0), grid=(2, 3))


def many_result():
    tree = result(examples=8, draws=3, layers=2, words=5, nus=(1.0, 5.0), grid=(2, 2))
    questions = [NASTY, *tree["question"].values.tolist()[1:]]
    tree.dataset = tree.to_dataset().assign_coords(question=("example", questions))
    return tree


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    trees = {"one": one_result(), "many": many_result()}
    return {name: (report.write(tree, folder / f"{name}.html"), tree) for name, tree in trees.items()}


@pytest.fixture(scope="module")
def _browser():
    found = browsers.opened()
    yield found
    found.close()


@pytest.fixture
def browser(_browser, pages):
    """Every test leaves a page that asked nobody for anything and said nothing on the console."""
    _browser.resize(1280)
    _browser.prefers()
    _browser.driver.get("about:blank")
    _browser.errors(), _browser.requests()
    yield _browser
    assert _browser.errors() == [] and _browser.requests() == []


def said(value, digits, sign=True):
    """As the page writes numbers."""
    whole = float(np.rint(float(value) * 10**digits)) / 10**digits
    text = f"{whole:{'+' if sign and whole else ''}.{digits}f}"
    return f"{0:.{digits}f}" if not whole else text.replace("-", "−")


def test_it_opens_from_disk_and_shows_texts_as_texts(browser, pages):
    seconds = browser.open(pages["many"][0])
    assert seconds < 20  # a machine may be busy: what it takes on a quiet one is in docs/report.md
    browser.find('[data-sheet="1"]').click()
    browser.settle()
    assert browser.text("#question") == NASTY
    assert NASTY in browser.text("#examples")
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.getElementById('picture').naturalWidth") > 0


@pytest.mark.parametrize("metric", ["effect", "relevance", "restored"])
@pytest.mark.parametrize("variable", DIGITS)
def test_tables_and_hover_say_the_stored_numbers(browser, pages, metric, variable):
    path, tree = pages["one"]
    browser.open(path)
    digits = 3 if metric == "relevance" else DIGITS[variable]
    value = {"effect": "indirect_effect", "relevance": "relevance", "restored": "indirect_effect"}[metric]
    found = effects.interval(tree, value, variable=variable, over="draws")
    browser.set("variable", variable)
    browser.set("metric", metric)
    for component in ("question_encoder", "answer_decoder", "image_encoder"):
        browser.set("component", component)
        node = found[component].to_dataset().isel(example=0, kind=0)
        mean = node["value"] if metric != "restored" else tree[component][variable].isel(example=0, kind=0).mean("draw")
        for place, nu in enumerate(tree["nu"].values):
            browser.set("nu", place)
            expected = []
            for token in node["token"].values:
                for layer in node["layer"].values:
                    at = dict(nu=nu, token=token, layer=layer)
                    low, high = (float(node[bound].sel(at)) for bound in ("low", "high"))
                    number = float(mean.sel(at))
                    expected.append([
                        "no value" if np.isnan(number) else said(number, digits, metric != "restored"),
                        "" if np.isnan(low) else f"{said(low, digits)} to {said(high, digits)}",
                    ])  # fmt: skip
            rows = browser.table("map")
            assert [row[2:4] for row in rows] == expected
    # the same under the mouse, with its layer and token
    browser.set("component", "question_encoder")
    cells = browser.run("return [...document.querySelectorAll('#map .mark-rect.role-mark path')].slice(0, 15)")
    assert len(cells) == 15
    rows = browser.table("map")
    for number in (0, 7, 14):
        tip = hovered(browser, cells[number])
        layer, token, value, interval, _ = rows[number]
        assert f"layer {layer}, token {token.split()[0]} “{token.split()[1]}”" in tip
        assert f": {value}" in tip and interval in tip
        assert variable.replace("_", "-") in tip and f"ν = {tree['nu'].values[-1]:g}" in tip


def hovered(browser, element):
    from selenium.webdriver import ActionChains

    browser.run("document.getElementById('tip').textContent = ''")
    browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    # beside the middle, where a hatching may lie
    ActionChains(browser.driver).move_to_element_with_offset(element, 0, -9).perform()
    return browser.wait(lambda: browser.text("#tip"))


def test_a_draw_is_shown_as_it_is_stored(browser, pages):
    path, tree = pages["one"]
    browser.open(path)
    effect = effects.indirect_effect(tree)["question_encoder"].probability.isel(example=0, kind=0)
    own = tree["question_encoder"].probability.isel(example=0, kind=0)
    for metric, numbers in (("effect", effect), ("restored", own)):
        browser.set("metric", metric)
        for draw in (0, 9):
            browser.set("unit", draw)
            there = numbers.sel(draw=draw, nu=5.0).transpose("token", "layer").values.ravel()
            assert [row[2] for row in browser.table("map")] == [said(one, 4, metric == "effect") for one in there]
        browser.set("unit", -1)
        browser.run("Object.assign(state, {layer: 2, row: 3}); show()")
        browser.settle()
        there = numbers.sel(nu=5.0, layer=2, token=3).values
        assert [row[1] for row in browser.table("spread")] == [said(one, 4, metric == "effect") for one in there]
        assert len(browser.table("curve")) == 3


def test_every_control_moves_what_is_drawn(browser, pages):
    browser.open(pages["one"][0])
    for name, value in (
        ("nu", 0), ("component", "answer_decoder"), ("metric", "relevance"), ("nu", 2), ("metric", "restored"),
        ("variable", "logit_difference"), ("unit", 2), ("component", "image_encoder"), ("metric", "effect"),
    ):  # fmt: skip
        before = browser.picture()
        browser.set(name, value)
        after = browser.picture()
        assert before[0] != after[0], f"the map does not move by {name}"
        assert before[1:] != after[1:], f"nothing else moves by {name}"


def test_examples_are_filtered_found_and_sorted(browser, pages):
    path, tree = pages["many"]
    browser.open(path)
    shown = (
        "return [...document.querySelectorAll('#examples button')].slice(1).map((one) => Number(one.dataset.sheet) - 1)"
    )
    assert browser.run(shown) == list(range(8))
    kinds = tree["question_type"].values
    browser.set("type", kinds[1])
    assert browser.run(shown) == np.flatnonzero(kinds == kinds[1]).tolist()
    browser.set("type", "")
    total = effects.total_effect(tree)["corrupted"].probability.sel(nu=5.0).mean("draw").values
    browser.set("sort", "down")
    assert browser.run(shown) == np.argsort(-total, kind="stable").tolist()
    browser.set("sort", "order")
    browser.set("find", "IS </SCRIPT> dark")
    assert browser.run(shown) == [0] and browser.text("#listed") == "1 of 8"
    before = browser.picture()
    browser.find('[data-sheet="1"]').click()
    browser.settle()
    assert browser.picture()[0] != before[0]


def test_picture_and_map_are_linked_both_ways(browser, pages):
    browser.open(pages["one"][0])
    region = browser.run("return document.querySelector('#regions [data-row=\"4\"]')")
    assert "region 4 “row 1 column 0”" in hovered(browser, region)
    region.click()
    browser.settle()
    assert browser.run("return [state.component, state.row]") == ["image_encoder", 4]
    assert "region 4" in browser.text("#cell")
    picked = "const one = document.querySelector('#regions .picked');"
    picked += "return one && [one.getAttribute('x'), one.getAttribute('y')]"
    assert browser.run(picked) == ["0", "1"]
    cells = browser.run("return [...document.querySelectorAll('#map .mark-rect.role-mark path')]")
    cells[2].click()
    browser.settle()
    assert browser.run(picked) == ["1", "0"] and browser.run("return state.row") == 2


def test_a_click_on_a_cell_shows_its_curve_and_draws(browser, pages):
    browser.open(pages["one"][0])
    before = browser.picture()
    cells = browser.run("return [...document.querySelectorAll('#map .mark-rect.role-mark path')]")
    cells[4].click()
    browser.settle()
    assert browser.run("return [state.layer, state.row]") == [1, 1]
    after = browser.picture()
    assert before[1] != after[1] and before[2] != after[2]
    assert browser.text("#cell").startswith("question encoder, block, layer 1, token 1")


def test_the_keyboard_alone_reaches_and_moves_everything(browser, pages):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        for key in keys:
            ActionChains(browser.driver).send_keys(key).perform()
        browser.settle()

    browser.open(pages["many"][0])
    browser.find('[data-sheet="2"]').click()
    browser.settle()
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0); document.querySelector('.skip').focus()")
    reached, unseen = [], []
    for _ in range(90):
        place = browser.run(
            "const one = document.activeElement, style = getComputedStyle(one);"
            "return [one.id || one.parentElement.id || one.getAttribute('aria-label') || one.textContent.trim(),"
            "style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1]"
        )
        if reached and place[0] == reached[0]:
            break
        reached.append(place[0])
        unseen += [] if place[1] else [place[0]]
        press(Keys.TAB)
    wanted = {
        "type", "sort", "find", "nu", "component", "kind", "metric", "variable", "unit", "regions", "map",
        "map-table", "curve-table", "spread-table", "gamma-table", "list", "What the numbers mean",
    }  # fmt: skip
    assert wanted <= set(reached), wanted - set(reached)
    assert unseen == []
    for control, key in (
        ("map", Keys.ARROW_RIGHT),
        ("map", Keys.ARROW_DOWN),
        ("regions", Keys.ARROW_DOWN),
        ("nu", Keys.ARROW_LEFT),
    ):
        before = browser.text("#cell"), browser.picture()
        browser.run("document.getElementById(arguments[0]).focus()", control)
        press(key)
        assert browser.text("#cell") != before[0] and browser.picture() != before[1], control
    browser.run("document.querySelector('#examples button').focus()")
    press(Keys.TAB, Keys.ENTER)
    assert browser.run("return state.sheet") == 1
    assert browser.run("return document.activeElement.dataset.sheet") == "1"
    for name in ("component", "metric"):
        before = browser.picture()
        browser.find(f"#{name}").send_keys(Keys.ARROW_DOWN)
        browser.settle()
        assert browser.picture() != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("one", 1280), ("many", 1280), ("many", 375)])
def test_no_barrier_is_found_and_nothing_is_wider_than_the_window(browser, pages, name, width, scheme):
    from axe_selenium_python import Axe

    browser.resize(width)
    browser.prefers(prefers_color_scheme=scheme)
    browser.open(pages[name][0])
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    browser.settle()
    browser.run("Object.values(twins).forEach((make) => make())")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    axe = Axe(browser.driver)
    axe.inject()
    found = axe.run()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_who_wants_no_motion_has_none(browser, pages):
    browser.prefers(prefers_reduced_motion="reduce")
    browser.open(pages["one"][0])
    moving = "return [...document.querySelectorAll('*')].filter((one) => { const s = getComputedStyle(one);"
    moving += "return s.animationName !== 'none' || s.scrollBehavior === 'smooth' || s.transitionDuration !== '0s' })"
    assert browser.run(moving + ".length") == 0


def test_too_few_draws_and_frames_are_said(browser, pages):
    browser.open(pages["many"][0])
    browser.find('[data-sheet="2"]').click()
    browser.settle()
    assert "No intervals: too few draws: at least 10." in browser.text("#marks")
    browser.set("component", "answer_decoder")
    assert "restores by construction: no finding" in browser.text("#marks")
    assert "restores by construction" in browser.table("map")[1][4]
