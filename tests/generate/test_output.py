import json
from dataclasses import replace

import pytest

from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.generate.output import pick_output
from falcon_cli.generate.requests import Request, single
from falcon_cli.generate.run import Answer
from falcon_cli.generate.text import Piece


@pytest.fixture
def answer():
    completion = Completion(3, [5, 6, 7], 0.1, [Cycle(2, 4, 0.1, 0.2, 0.5)], "length")
    return Answer(Request(single("hi").question, {"id": 4, "é": "ü"}), "hé!", completion)


def played(output, answer):
    output.piece(Piece("h", False))
    output.piece(Piece("é!", True))
    output.answer(answer)


def test_a_pipe_gets_the_whole_text(capsys, answer):
    played(pick_output("pld", as_json=False, stream=None, show_draft=False), answer)
    assert capsys.readouterr() == ("hé!\n", "")


def test_a_program_gets_one_json_line(capsys, answer):
    played(pick_output("pld", as_json=True, stream=True, show_draft=False), answer)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == answer.to_json()
    assert "ü" in out
    assert err == ""
    assert list(json.loads(out))[:3] == ["id", "é", "text"]


def test_a_stream_ends_with_its_statistics_on_stderr(capsys, answer):
    played(pick_output("pld", as_json=False, stream=True, show_draft=False), answer)
    assert capsys.readouterr() == (
        "hé!\n",
        "3 tokens, 4.0 tokens/s, 2.00 tokens per cycle, 50% drafted (pld)\n",
    )


def test_adaptive_drafting_tells_what_it_chose(capsys, answer):
    chosen = replace(answer, chosen={"none": 1, "copy": 2, "tree": 3})
    played(pick_output("adaptive", as_json=False, stream=True, show_draft=False), chosen)
    assert capsys.readouterr().err.endswith("drafted (adaptive: 2 copies, 3 trees, 1 without a draft)\n")
    assert chosen.to_json()["stats"]["drafts"] == {"none": 1, "copy": 2, "tree": 3}
    assert "drafts" not in answer.to_json()["stats"]


def test_a_terminal_gets_a_stream_unless_told_otherwise(capsys, monkeypatch, answer):
    monkeypatch.setattr("falcon_cli.generate.output.stdout_is_terminal", lambda: True)
    played(pick_output("pld", as_json=False, stream=None, show_draft=False), answer)
    assert "tokens per cycle" in capsys.readouterr().err
    played(pick_output("pld", as_json=False, stream=False, show_draft=False), answer)
    assert capsys.readouterr() == ("hé!\n", "")


def test_drafted_text_is_green(capsys, answer):
    played(pick_output("pld", as_json=False, stream=None, show_draft=True), answer)
    assert capsys.readouterr().out == "h\x1b[32mé!\x1b[0m\n"


def test_an_answer_without_a_cycle_has_no_figures_to_show(capsys):
    answer = Answer(single("hi"), "h", Completion(3, [5], 0.1))
    played(pick_output("pld", as_json=False, stream=True, show_draft=False), answer)
    assert capsys.readouterr().err == ""
