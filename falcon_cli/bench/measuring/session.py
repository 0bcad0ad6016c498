"""The measured run: every method and peer answers every question, interleaved, in one process on the same weights.

Question by question, repeat by repeat, the methods take their turns in an order drawn again each time, so that a
machine that slows down slows them all. A question's records are written as soon as all its answers are in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.bench.measuring.memory import with_peak_memory
from falcon_cli.bench.measuring.peers import AnswerFunction
from falcon_cli.core import Drafter
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.prompts import Question
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.errors import FalconError
from falcon_cli.target.load import LoadedTarget


@dataclass(frozen=True)
class BenchmarkSession:
    """One benchmark run: what all methods share, and how each answers."""

    target: LoadedTarget
    chat: ChatTemplate
    answers: dict[str, AnswerFunction]
    """Method or peer → how it answers."""
    max_new_tokens: int
    repeats: int = 1
    seed: int = 0

    def prompt(self, question: Question, turn: int, earlier: Iterable[str]) -> list[int]:
        """Token ids of a question's turn, after the method's own earlier answers."""
        return self.chat.prompt(question.messages(turn, earlier), question.tools)

    def check(self, question: Question) -> None:
        """Refuse a question that may outgrow the context or has tokens of no embedding, before anything is run.

        Raises:
            FalconError: Names the question.
        """
        turns = len(question.turns)
        prompt = self.prompt(question, turns - 1, [""] * (turns - 1))
        longest = len(prompt) + self.max_new_tokens * (turns - 1)
        try:
            self.target.check_ids(prompt)
            self.target.model.check_room(longest, self.max_new_tokens)
        except FalconError as error:
            raise FalconError(f"question {question.id}: {error}") from error

    def warm_up(self, question: Question, tokens: int = 24) -> None:
        """Let every method answer once, uncounted, so that no shape is new while the clock runs."""
        prompt = self.prompt(question, 0, ())
        for answer in self.answers.values():
            answer(prompt, min(tokens, self.max_new_tokens))

    def ask(self, question: Question) -> Iterator[TurnRecord]:
        """All answers to one question: every repeat, every method in a drawn order, every turn."""
        order = list(self.answers)
        draw = Random(f"{self.seed}/{question.id}")
        for repeat in range(self.repeats):
            draw.shuffle(order)
            for method in order:
                yield from self._converse(question, method, repeat)

    def _converse(self, question: Question, method: str, repeat: int) -> Iterator[TurnRecord]:
        texts: list[str] = []
        for turn in range(len(question.turns)):
            prompt = self.prompt(question, turn, texts)
            answer = partial(self.answers[method], prompt, self.max_new_tokens)
            completion, peak = with_peak_memory(answer, self.target.model.device)
            texts.append(self.target.tokenizer.decode(completion.ids, skip_special_tokens=True))
            yield TurnRecord(
                question_id=question.id,
                category=question.category,
                turn=turn,
                method=method,
                repeat=repeat,
                prompt=tuple(prompt),
                completion=completion,
                text=texts[-1],
                peak_bytes=peak,
            )


def method_answer(target: LoadedTarget, drafter: Drafter) -> AnswerFunction:
    """How one of our methods answers."""
    return lambda prompt, limit: complete(target.model, drafter, prompt, Stop(target.stop_ids, limit))
