"""One dialogue as the target reads it: token ids, and which of them belong to answers; or a prompt to be answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A tokenised dialogue of L tokens.

    tokens   <user> hello </s> <assistant> hi there </s>
    answer     .      .    .       .        1   1    1      the end-of-turn token included
    """

    id: str
    tokens: tuple[int, ...]
    answer: tuple[bool, ...]

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def answer_tokens(self) -> int:
        """Number of answer tokens."""
        return sum(self.answer)

    def to_json(self) -> dict[str, Any]:
        """The sample as JSON types; of its answers the places where each begins and ends."""
        answers, place = [], 0
        for said, run in groupby(self.answer):
            begin, place = place, place + len(list(run))
            if said:
                answers.append([begin, place])
        return {"id": self.id, "tokens": self.tokens, "answers": answers}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Sample":
        """Undo `to_json`; KeyError, TypeError or ValueError where it is something else."""
        answer = [False] * len(entry["tokens"])
        for begin, end in entry["answers"]:
            answer[begin:end] = [True] * (end - begin)
        return cls(entry["id"], tuple(entry["tokens"]), tuple(answer))


@dataclass(frozen=True)
class CorpusPrompt:
    """A prompt for the target to answer."""

    id: str
    """Dialogue and turn: `dialogue/0`."""
    tokens: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The prompt as JSON types."""
        return {"id": self.id, "tokens": self.tokens}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "CorpusPrompt":
        """Undo `to_json`; KeyError, TypeError or ValueError where it is something else."""
        return cls(entry["id"], tuple(entry["tokens"]))
