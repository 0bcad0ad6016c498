import re
from pathlib import Path

import pytest
import transformers

from falcon_cli.errors import FalconError
from falcon_cli.native.build import load_kernels
from falcon_cli.studies import families
from falcon_cli.studies.__main__ import main
from falcon_cli.studies.families import FamiliesRecipe, FamilyOutcome, few_words, outcome_of, page_of, registered, tried

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
RECURRENT = "it has recurrent layers, whose state cannot go back when a draft is refused"
OUTCOMES = [
    FamilyOutcome("llama", "kernels"),
    FamilyOutcome("gpt_oss", "torch"),
    FamilyOutcome("hunyuan_v1_moe", "alone"),
    FamilyOutcome("bloom", "branches"),
    FamilyOutcome("deepseek_v32", "branches alone"),
    FamilyOutcome("mamba", "refused", RECURRENT),
    FamilyOutcome("granitemoehybrid", "refused", RECURRENT),
    FamilyOutcome("openai-gpt", "refused", "its forward keeps no keys and values"),
    FamilyOutcome("hrm_text", "untried", "list index out of range"),
    FamilyOutcome("musicgen", "untried", "'MusicgenConfig' object has no attribute 'dropout'"),
]
"""One or two of each."""


def told(page):
    """The outcomes that a page tells."""
    found = []
    for head, count, names in re.findall(r"^\| (.+?) \| (\d+) \| (.+) \|$", page, re.MULTILINE):
        listed = re.findall(r"`([^`]+)`", names)
        assert int(count) == len(listed)
        ((way, words),) = [
            (way, head.removeprefix(start))
            for way, start in families.WAYS.items()
            if head == start or (start.endswith(": ") and head.startswith(start))
        ]
        found += [FamilyOutcome(family, way, words) for family in listed]
    return found


def version(page):
    return re.search(r"transformers (\d[\w.]*)", page.replace("\n", " "))[1]


@pytest.mark.parametrize("expected", OUTCOMES, ids=lambda outcome: outcome.family)
def test_one_family_of_each_outcome(expected):
    load_kernels()
    assert tried(expected.family) == expected


@pytest.mark.skipif(version(PAGE.read_text()) != transformers.__version__, reason="the page is of another transformers")
def test_the_page_tells_every_family_once_and_what_the_study_finds():
    found = told(PAGE.read_text())
    assert sorted(outcome.family for outcome in found) == registered()
    assert set(OUTCOMES) <= set(found)


def test_the_page_is_as_the_study_writes_it():
    page = PAGE.read_text()
    assert page_of(told(page), version(page)) == page


def test_a_page_groups_families_by_outcome_and_reason():
    page = page_of([*OUTCOMES, FamilyOutcome("a", "refused", "b | c")], "5.0")
    assert f"| refused: {RECURRENT} | 2 | `granitemoehybrid`, `mamba` |" in page
    assert "| refused: b \\| c | 1 | `a` |" in page
    assert page.index("`llama`") < page.index("`gpt_oss`") < page.index("`bloom`") < page.index("`openai-gpt`")


def test_a_process_that_hangs_or_dies_hides_no_other(monkeypatch):
    def trouble(family):
        if family == "slow":
            while True:
                pass
        if family == "greedy":
            bytearray(1 << 45)
        if family == "dead":
            raise SystemExit(1)
        return FamilyOutcome(family, "torch")

    monkeypatch.setattr(families, "tried", trouble)
    recipe = FamiliesRecipe(seconds=1, gigabytes=64)
    assert outcome_of("slow", recipe) == FamilyOutcome("slow", "untried", "it took longer than 1 s")
    assert outcome_of("dead", recipe).words == "its process ended (memory is limited to 64 GB)"
    assert outcome_of("greedy", recipe).way == "untried"
    assert outcome_of("fine", FamiliesRecipe(seconds=30, gigabytes=64)) == FamilyOutcome("fine", "torch")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n  b", "a b"),
        ("Class validation error for validator 'validate_x':\n    ValueError: sizes differ", "sizes differ"),
        ("falcon cannot read it as its own class does (why)", "why"),
        ("word " * 40, "word " * 20 + "…"),
    ],
)
def test_reasons_are_short(text, expected):
    assert few_words(text) == expected


def test_all_families_make_a_page(monkeypatch, tmp_path):
    monkeypatch.setattr(families, "registered", lambda: ["mamba", "llama"])
    page = tmp_path / "families.md"
    assert main(["families", f"page={page}"]) == 0
    assert set(told(page.read_text())) == {OUTCOMES[0], OUTCOMES[5]}


def test_some_families_are_shown_and_no_page_is_written(capsys, tmp_path):
    page = tmp_path / "families.md"
    assert main(["families", "only=[mamba]", f"page={page}"]) == 0
    assert capsys.readouterr().out == f"mamba: refused: {RECURRENT}\n"
    assert not page.exists()


def test_an_unknown_family_is_one_line():
    with pytest.raises(FalconError, match=r"^only: transformers knows no causal LM lama \(did you mean llama\?\)$"):
        families.run(FamiliesRecipe(only=("lama",)))
