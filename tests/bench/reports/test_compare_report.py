import io

import pytest
from rich.console import Console

from falcon_cli.bench.reports.compare_report import compare_markdown, compare_table


def row(name, equal=80, **figures):
    own = {
        "name": name,
        "file": f"answers/{name}.jsonl",
        "questions": 80,
        "tokens_per_second": 31.25,
        "speedup": 1.5,
        "tokens_per_cycle": 2.75,
        "accepted_length": 1.75,
        "spec_bench": {"tokens_per_second": 33.5, "speedup": 1.625, "mean_accepted_tokens": 2.6},
        "texts_equal": equal,
    }
    return {**own, **figures}


@pytest.fixture
def comparison():
    theirs = {"tokens_per_second": 20.0, "speedup": 1.0, "mean_accepted_tokens": None}
    nothing = dict.fromkeys(("tokens_per_second", "speedup", "tokens_per_cycle", "accepted_length"))
    return {
        "schema": 1,
        "target": "vicuna",
        "questions": 80,
        "files": [row("base", spec_bench=theirs, **nothing), row("eagle", 77)],
        "warnings": ["eagle: 3 of 80 texts are not the baseline's"],
    }


def draw(comparison, colour=False):
    out = io.StringIO()
    Console(file=out, width=110, force_terminal=colour, color_system="standard" if colour else None).print(
        compare_table(comparison)
    )
    return out.getvalue()


def cells(drawn, name):
    return next(line.split() for line in drawn.splitlines() if line.split()[:1] == [name])


def test_a_row_shows_both_ways(comparison):
    drawn = draw(comparison)
    assert cells(drawn, "eagle") == ["eagle", "1.50x", "31.2", "2.75", "1.75", "1.62x", "33.5", "2.60", "77/80"]
    assert cells(drawn, "base") == ["base", "–", "–", "–", "–", "1.00x", "20.0", "–", "80/80"]
    assert "questions in every file: 80 (of 80, 80) · tokenizer of vicuna" in drawn


def test_long_names_fold_and_nothing_is_cut(comparison):
    comparison["files"].append(row("vicuna-7b-v1.3-eagle-float16-temperature-0.0-[bold]"))
    drawn = draw(comparison)
    assert max(map(len, drawn.splitlines())) <= 110
    assert "…" not in drawn
    assert "[bold]" in drawn.replace("\n", "")


def test_texts_that_differ_have_another_colour(comparison):
    drawn = draw(comparison, colour=True)
    assert "\x1b[32m80/80" in drawn
    assert "\x1b[33m77/80" in drawn


def test_markdown_holds_table_warnings_and_how_things_are_counted(comparison):
    text = compare_markdown(comparison, "falcon bench --compare base.jsonl")
    assert "```sh\nfalcon bench --compare base.jsonl\n```" in text
    assert "| `eagle` | 1.50x | 31.2 | 2.75 | 1.75 | 1.62x | 33.5 | 2.60 | 77/80 |" in text
    assert "## Warnings\n\n- eagle: 3 of 80 texts are not the baseline's\n" in text
    assert "evaluation/speed.py" in text


def test_markdown_without_warnings_has_no_such_section(comparison):
    assert "Warnings" not in compare_markdown({**comparison, "warnings": []}, "falcon")
