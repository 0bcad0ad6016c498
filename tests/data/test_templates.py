"""Which template a target gets, and the date that it is told."""

from datetime import datetime, timezone

import pytest

from falcon_cli.data.templates import TEMPLATES, dated, given_text, text_for
from falcon_cli.errors import FalconError, UsageError

DAY = datetime(2026, 3, 1, 9, 5, tzinfo=timezone.utc)


def test_one_of_ours_or_a_file(tmp_path):
    assert given_text("vicuna") == TEMPLATES["vicuna"]
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    assert given_text(str(tmp_path / "mine.jinja")) == "{{ messages[0].content }}"
    with pytest.raises(UsageError, match=r"no template or file .* \(did you mean llama-2\?\)"):
        given_text("lama-2")
    (tmp_path / "odd.jinja").write_bytes(b"\xff")
    with pytest.raises(FalconError, match="cannot read"):
        given_text(str(tmp_path / "odd.jinja"))


def test_of_several_templates_the_one_for_tools_or_the_default(speaking):
    tokenizer = speaking("chatml")
    tokenizer.chat_template = {"default": "plain", "tool_use": "with tools"}
    assert (text_for(tokenizer, with_tools=False), text_for(tokenizer, with_tools=True)) == ("plain", "with tools")
    tokenizer.chat_template = {"default": "plain", "rag": "other"}
    assert text_for(tokenizer, with_tools=True) == "plain"


def test_a_template_that_asks_for_no_date_stays_as_it_is():
    assert dated(TEMPLATES["vicuna"], DAY) == TEMPLATES["vicuna"]


@pytest.mark.parametrize(
    "code", ["%d %B %Y", "%-d/%-m", "%H:%M:%S %p", "%A %j %y", "%%d 100%", "%Y-%m-%dT%H:%M%z", "é"]
)
def test_every_format_is_that_of_the_date(speaking, code):
    text = dated("{{ strftime_now('" + code + "') }}|{% if strftime_now is defined %}x{% endif %}", DAY)
    said = speaking("chatml").apply_chat_template([{"role": "user", "content": ""}], chat_template=text, tokenize=False)
    assert said == DAY.strftime(code) + "|x"
