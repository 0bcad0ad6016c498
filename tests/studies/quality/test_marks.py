"""Which answers are right."""

import json

import pytest

from falcon_cli.data.prompts import Question
from falcon_cli.data.sets import humaneval
from falcon_cli.studies.quality.marks import CodeMarks, numbers_right
from falcon_cli.studies.quality.sandbox import Outcome, Sandbox

SOME = ["HumanEval/0", "HumanEval/32", "HumanEval/38", "HumanEval/50", "HumanEval/115", "HumanEval/163"]


@pytest.fixture(scope="module")
def problems():
    return humaneval.problems()


@pytest.fixture(scope="module")
def questions():
    return [question for question in humaneval.load()[0] if question.id in SOME]


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox.open()


def test_humanevals_own_solutions_pass_and_an_early_return_fails(problems, questions, sandbox, tmp_path):
    code = CodeMarks(problems, sandbox, tmp_path / "home" / "log.jsonl")
    bodies = [question.reference for question in questions]
    fenced = [f"Sure:\n```python\n{problems[it.id].prompt}{it.reference}```\nIt works." for it in questions]
    assert [it.mark for it in code.outcomes("bodies", questions, bodies)] == ["passed"] * len(SOME)
    assert [it.mark for it in code.outcomes("blocks", questions, fenced)] == ["passed"] * len(SOME)
    wrong = ["    return None\n" + body for body in bodies]
    assert [it.mark for it in code.outcomes("wrong", questions, wrong)] == ["failed"] * len(SOME)


def test_each_program_is_run_once_and_kept(problems, questions, sandbox, tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    first, answers = questions[:1], [questions[0].reference]
    assert CodeMarks(problems, sandbox, log).outcomes("it", first, answers) == [Outcome("passed")]
    assert json.loads(log.read_text())["mark"] == "passed"
    log.write_text(log.read_text() + '{"program": "half a li')
    monkeypatch.setattr(Sandbox, "run", lambda *task: Outcome("failed", "asked again"))
    again = CodeMarks(problems, sandbox, log)
    assert again.outcomes("it", first, answers) == [Outcome("passed")]
    assert again.outcomes("another", first, ["    pass\n"]) == [Outcome("failed", "asked again")]


def test_numbers_are_marked_by_the_last_one():
    questions = [Question("1", ("how many?",), reference="12"), Question("2", ("how many?",), reference="5")]
    assert numbers_right(questions, ["3 + 9 = 12", "5, or 6"]) == [True, False]
