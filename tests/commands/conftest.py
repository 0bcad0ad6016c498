"""The real command line, called in this process."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from falcon_cli.commands.app import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document in stdout's last line."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def complaint(self) -> str:
        """The one line of a failed command; nothing must be on stdout."""
        *notes, line = self.err.splitlines()
        assert line.startswith("falcon: error: "), self.err
        assert not any(note.startswith("falcon: error: ") for note in notes)
        assert "Traceback" not in self.err
        assert self.out == ""
        return line.removeprefix("falcon: error: ")


Falcon = Callable[..., Outcome]


@pytest.fixture
def falcon(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Falcon:
    """Run the command line: `falcon("bench", "--limit", 1)`; no cache, no data folder, no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("FALCON_DATA", raising=False)
    monkeypatch.setattr("falcon_cli.bench.figures.bandwidth.BUFFER_BYTES", 1 << 20)

    def call(*words: object, stdin: str | bytes = "") -> Outcome:
        piped = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["falcon", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        code = main()
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of three questions, the second of two turns."""
    path = tmp_path / "questions.jsonl"
    records = [
        {"question_id": 7, "category": "writing", "turns": ["the thin thing in the tin"]},
        {"question_id": 8, "category": "math", "turns": ["one and one", "and one more"]},
        {"question_id": 9, "category": "math", "turns": ["in the end the end"]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def far_target(chat_target: Path, tmp_path: Path) -> Path:
    """The tiny target with a token `<|far|>` in its tokenizer, of which the model's embedding has no row."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(chat_target, tmp_path / "far"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|far|>"])
    tokenizer.save_pretrained(folder)
    return folder
