import json

import pytest

from falcon_cli.data.datasets import DATASETS
from falcon_cli.data.prompts import Question
from falcon_cli.data.sets import gsm8k, humaneval
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.sources import home
from falcon_cli.studies.quality import run as module
from falcon_cli.studies.quality.reading import read
from falcon_cli.studies.quality.run import QualityRecipe, run
from falcon_cli.studies.quality.sandbox import Sandbox, Walls

PROBLEM = humaneval.Problem(
    "def double(x):\n", "def check(candidate):\n    assert candidate(2) == 4\n", entry_point="double"
)


@pytest.fixture
def command(home, chat_target, tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"prompt": "in the end"}\n{"prompt": "the"}\n')
    settings = [f"target.model={chat_target}", f"dataset={tmp_path / 'questions.jsonl'}", "max_new_tokens=8"]
    return lambda *more: run(load_recipe(QualityRecipe, None, ["limit=20", *settings, *more]))


@pytest.fixture
def coding(command, monkeypatch):
    """The command on a HumanEval of two questions; fp32 answers the first right, int8 the second, others none."""
    questions = [Question("a", ("the",)), Question("b", ("in the end",))]
    monkeypatch.setitem(DATASETS, "humaneval", lambda keep_going: (questions, 0))
    monkeypatch.setattr(module, "problems", lambda: {"a": PROBLEM, "b": PROBLEM})
    right, wrong = "    return 2 * x\n", "    import os; os._exit(0)\n"
    told = iter([right, wrong, wrong, wrong, wrong, right, wrong, wrong])

    def answered(*about):
        reading = read(*about)
        return type(reading)(**{**vars(reading), "text": next(told)})

    monkeypatch.setattr(module, "read", answered)
    return lambda *more: command("dataset=humaneval", "methods=[ar]", *more)


def test_the_command_tells_each_kind_and_prints_a_table(command, capsys):
    command()
    told = capsys.readouterr().err
    assert all(word in told for word in ("fp32: perplexity", "bf16: ", "int8: ", "int4: ", "100.0 %", "2 questions"))
    lines, _, table = told.rpartition("2 questions")
    assert lines.index("fp32: ") < lines.index("int4: ")
    assert "weights" in table
    assert told.count("adaptive = plain 2 of 2") == 4
    assert "fp32: 2 answers were cut at 8 tokens (max_new_tokens)" in told
    assert "pass@1" not in told


def test_every_kind_of_weights_has_its_line(command, monkeypatch, capsys):
    monkeypatch.setattr(module, "_KINDS", ("none", "int8"))
    command("methods=[ar, lookahead, pld as copies]")
    told = capsys.readouterr().err
    assert ("bf16: " in told, told.count("int8: p"), told.count("none: ")) == (False, 1, 0)
    assert [told.count(f"{name} = plain 2 of 2") for name in ("ar", "lookahead", "copies")] == [0, 2, 2]


def test_a_files_own_blocks_are_read_where_there_is_a_file(chat_target, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    asked = {place: QualityRecipe(target=TargetRecipe(str(place))) for place in (chat_target, tmp_path / "m.gguf")}
    assert [("file" in module._kinds(recipe)) for recipe in asked.values()] == [False, True]


def test_what_cannot_be_is_said_before_a_target_is_loaded(command, monkeypatch):
    monkeypatch.setattr(module, "load_context", None)
    with pytest.raises(FalconError, match="run_code is for dataset humaneval, not "):
        command("run_code=true")
    with pytest.raises(UsageError, match="sps needs --draft-model"):
        command("methods=[sps]")


def test_no_code_is_run_unless_it_was_asked_for(coding, monkeypatch, capsys):
    monkeypatch.setattr(Sandbox, "run", None)
    monkeypatch.setattr(Sandbox, "open", None)
    coding()
    told = " ".join(capsys.readouterr().err.split())
    assert "No pass@1: run_code=true runs the answers' code in a sandbox" in told
    assert "pass@1 [" not in told


def test_code_that_is_run_gives_pass_at_1_and_the_questions_that_changed(coding, capsys):
    coding("run_code=true")
    told = capsys.readouterr().err
    assert "fp32: " in told
    lines = {line.partition(":")[0]: line for line in told.splitlines() if "pass@1 [95 %]" in line and ": perp" in line}
    cells = {name: line.rpartition("pass@1 ")[2] for name, line in lines.items()}
    half = "[95 %] 1 of 2: 50% [9%, 91%], against fp32 "
    assert cells["fp32"] == half + "+0 -0"
    assert cells["bf16"] == "[95 %] 0 of 2: 0% [0%, 66%], against fp32 +0 -1"
    assert cells["int8"] == half + "+1 -1"
    assert "No pass@1" not in told


def test_runs_are_kept_and_readings_serve_with_and_without(coding, monkeypatch, capsys):
    coding()
    ran = []
    once = Sandbox.run

    def counted(self, *task):
        ran.append(task)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return once(self, *task)

    monkeypatch.setattr(Sandbox, "open", lambda: Sandbox(Walls()))
    monkeypatch.setattr(Sandbox, "run", counted)
    monkeypatch.setattr(module, "read", None)  # every reading is there
    with pytest.raises(KeyboardInterrupt):
        coding("run_code=true")
    coding("run_code=true")
    assert len(ran) == 3  # the first is kept, the second was stopped; the others are these two programs again
    assert "1 of 2: 50%" in capsys.readouterr().err
    coding("run_code=true")
    assert len(ran) == 3


def test_gsm8k_is_marked_by_its_numbers(command, monkeypatch, capsys):
    questions = [Question("1", ("the",), reference="7"), Question("2", ("in the end",), reference="-1")]
    monkeypatch.setitem(DATASETS, "gsm8k", lambda keep_going: (questions, 0))
    monkeypatch.setattr(gsm8k, "solved", lambda answer, reference: bool(answer) and reference == "7")
    command("dataset=gsm8k")
    told = capsys.readouterr().err
    assert told.count("accuracy [95 %] 1 of 2: 50% [9%, 91%], against fp32 +0 -0") == 4


def test_a_stopped_command_goes_on_where_it_was(command, monkeypatch, capsys):
    command()
    whole = capsys.readouterr().err.rpartition("2 questions")[2]
    (log,) = (home() / "quality").iterdir()
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    log.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote the second answer in bf16

    asked = []
    monkeypatch.setattr(module, "read", lambda *about: asked.append(about[1]) or read(*about))
    command()
    assert len(asked) == 5
    assert capsys.readouterr().err.rpartition("2 questions")[2] == whole
    assert log.read_text() == "".join(lines)


def test_ctrl_c_says_where_the_readings_are(command, monkeypatch, capsys):
    done = []

    def interrupted(*about):
        if done:
            raise KeyboardInterrupt
        done.append(read(*about))
        return done[0]

    monkeypatch.setattr(module, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command()
    (log,) = (home() / "quality").iterdir()
    assert f"kept in {log}" in capsys.readouterr().err
    assert [json.loads(line)["weights"] for line in log.read_text().splitlines()] == ["none"]
