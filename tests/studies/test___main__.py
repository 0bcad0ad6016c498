"""The studies' command line: help, keys, and what goes wrong."""

import subprocess
import sys
from dataclasses import replace

import pytest

from falcon_cli.studies import __main__ as cli
from falcon_cli.studies.__main__ import STUDIES, main


@pytest.fixture
def complaint(capsys):
    """Run what must fail; returns the code and the one line on stderr."""

    def run(*words):
        code = main(words)
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return code, err.removeprefix("falcon: error: ").strip()

    return run


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help_lists_the_studies(capsys, words, code):
    assert main(words) == code
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in STUDIES)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cost", ["nodes=[1,2,4,", "rounds=9", "Rounds that count", "shape=null", "target.threads=null"]),
        ("profile", ["limit=2 ", "max_new_tokens=48", "target.model=smollm2-135m-instruct", "Questions to take"]),
        (
            "quality",
            ["limit=20 ", "max_new_tokens=128", "target.trust_remote_code=false", "run_code=false", "programs run"],
        ),
        ("roofline", ["folder=…", "MACHINE-SHAPE.json"]),
    ],
)
def test_the_help_of_a_study_lists_its_keys_with_defaults_and_docs(capsys, name, parts):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: python -m falcon_cli.studies {name} [KEY=VALUE ...]")
    assert [part for part in parts if part not in out] == []


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["cots"], 2, 'no study "cots" (did you mean cost?); python -m falcon_cli.studies --help lists them'),
        (["cost", "7b"], 2, '"7b" is no KEY=VALUE; python -m falcon_cli.studies cost --help lists the keys'),
        (["cost", "shap=7b"], 1, "shap: unknown key (did you mean shape?); python -m falcon_cli.studies cost --help"),
        (["cost", "rounds=many"], 1, "rounds: must be a whole number, not many; python -m"),
        (["cost", "shape=8b"], 1, "shape must be one of 7b, tiny, not 8b; python -m"),
        (["roofline"], 1, "folder: must be given; python -m falcon_cli.studies roofline --help lists the keys"),
    ],
)
def test_what_is_wrong_is_one_line(complaint, words, code, line):
    found = complaint(*words)
    assert found[0] == code
    assert found[1].startswith(line)


def test_keys_of_the_user_win_over_those_of_the_study(monkeypatch):
    seen = []
    monkeypatch.setitem(STUDIES, "profile", replace(STUDIES["profile"], run=seen.append))
    assert main(["profile", "limit=5"]) == 0
    assert (seen[0].limit, seen[0].max_new_tokens) == (5, 48)


def test_ctrl_c_and_bugs_leave_as_codes(monkeypatch, complaint):
    def raising(problem):
        def run(recipe):
            raise problem

        return replace(STUDIES["cost"], run=run)

    monkeypatch.setitem(STUDIES, "cost", raising(KeyboardInterrupt()))
    assert complaint("cost") == (130, "falcon: stopped by Ctrl-C")
    monkeypatch.setitem(STUDIES, "cost", raising(ZeroDivisionError("oops")))
    assert complaint("cost")[0] == 1
    with pytest.raises(ZeroDivisionError):
        main(["cost", "--debug"])


def test_it_runs_as_a_module():
    words = [sys.executable, "-m", "falcon_cli.studies", "nothing"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('falcon: error: no study "nothing"; ')
    assert cli.COMMAND in done.stderr
