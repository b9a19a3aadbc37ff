"""Cells and knock-outs by name."""

from __future__ import annotations

import pytest

from nnblip import knock_out, sites
from nnblip.command import named
from nnblip.errors import SiteError
from nnblip.sites import Extent, gather

EXTENT = Extent(6, 5, 2, 4, 4, 8)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("windows:3", sites.windows(3)),
        (
            "windows:1+3,kind=attention,align=center,edges=cut",
            sites.windows((1, 3), "attention", align="center", edges="cut"),
        ),
        ("all_tokens", sites.all_tokens()),
        ("all_tokens:2,component=answer_decoder", sites.all_tokens(2, component="answer_decoder")),
        ("token_across_layers:token=1", sites.token_across_layers(1)),
        ("knock_outs", sites.knock_outs()),
        ("knock_outs:image_to_question,sources=2x4,widths=2", sites.knock_outs("image_to_question", (2, 4), widths=2)),
        (
            "edges:mlp_out,senders=attention_out+mlp_out,layer=3",
            sites.edges("mlp_out", senders=("attention_out", "mlp_out"), layer=3),
        ),
    ],
)  # fmt: skip
def test_a_text_is_the_call_in_python(text, family):
    assert gather(named.family(text), EXTENT) == gather(family, EXTENT)


def test_knock_outs_of_whole_runs():
    assert named.cut("image_to_question") == knock_out("image_to_question")
    assert named.cut("question_to_answer:layers=0+2,source=1") == knock_out("question_to_answer", [0, 2], 1)


@pytest.mark.parametrize(
    "text", ["", "window:3", "windows", "windows:3,5", "windows:3,width=3", "windows:3,of=4", "pairs"]
)
def test_another_text_is_refused(text):
    with pytest.raises(SiteError):
        named.family(text)
