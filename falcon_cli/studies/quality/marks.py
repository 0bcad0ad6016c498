"""Which answers are right: GSM8K's by their last number, HumanEval's by running them, where that is asked for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from falcon_cli.console import progress
from falcon_cli.data.prompts import Question
from falcon_cli.data.sets import gsm8k
from falcon_cli.data.sets.humaneval import Problem
from falcon_cli.sources import append_line, disk_errors, whole_lines
from falcon_cli.studies.quality.extract import program_of
from falcon_cli.studies.quality.sandbox import Outcome, Sandbox


def numbers_right(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """Whether each answer to GSM8K ends in the right number."""
    pairs = zip(questions, answers, strict=True)
    return [gsm8k.solved(answer, question.reference) for question, answer in pairs]


class CodeMarks:
    """Runs answers' code, each program once: what came of it is kept in a log.

    Args:
        problems: Question id → its problem.
        sandbox: Where programs run.
        log: JSON lines, appended to.
    """

    def __init__(self, problems: Mapping[str, Problem], sandbox: Sandbox, log: Path):
        self._problems, self._sandbox, self._log = problems, sandbox, log
        entries = map(json.loads, whole_lines(log))
        self._kept = {entry.pop("program"): Outcome(**entry) for entry in entries}

    def outcomes(self, name: str, questions: Sequence[Question], answers: Sequence[str]) -> list[Outcome]:
        """What came of each answer; `name` is what the progress bar says they are.

        Raises:
            FalconError: The log cannot be written.
        """
        with progress(f"running {name}", len(questions), "answers") as bar, disk_errors(self._log.parent):
            found = []
            for question, answer in zip(questions, answers, strict=True):
                found.append(self._outcome(self._problems[question.id], answer))
                bar.advance()
        return found

    def _outcome(self, problem: Problem, answer: str) -> Outcome:
        program = program_of(answer, problem.prompt, problem.entry_point)
        key = hashlib.sha256(json.dumps([program, problem.test, problem.entry_point]).encode()).hexdigest()
        if key not in self._kept:
            self._kept[key] = self._sandbox.run(program, problem.test, problem.entry_point)
            self._log.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._log, json.dumps({"program": key, **asdict(self._kept[key])}))
        return self._kept[key]
