"""Tables for notebooks: every text is escaped, and no probability is shown as what it is not."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from nnblip.shown import code, facts, listed, number, table


class Texts(HTMLParser):
    """The tags of a page, and what is between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


EVIL = "<script>alert('x')</script>&amp;\x1b[31m"


@pytest.mark.parametrize(
    "page",
    [table(EVIL, [EVIL], [[EVIL]], EVIL), facts(EVIL, [(EVIL, EVIL)], EVIL), code(EVIL), listed([EVIL, EVIL], EVIL)],
)
def test_texts_stay_texts(page):
    seen = Texts(page)
    assert "script" not in seen.tags
    assert "<script>alert('x')</script>&amp;\\x1b[31m" in "".join(seen.texts)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "0.5000"), (1.0, "1.0000"), (0.0, "0.0000"), (0.99998, "0.99998"), (0.9999999, "0.99999990"),
        (1e-6, "1.0e-06"), (0.99996, "0.99996"), (0.99994, "0.9999"), (3.2e-5, "3.2e-05"),
    ],
)  # fmt: skip
def test_a_probability_is_0_or_1_only_if_it_is(value, said):
    assert number(value) == said
