"""A contest interleaves its methods, feeds each its own answers, and draws the order from the seed."""

from types import SimpleNamespace

import pytest
import torch

from falcon_cli.bench.measuring.session import BenchmarkSession
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.prompts import Question
from falcon_cli.decode.stats import Completion
from falcon_cli.errors import FalconError

QUESTIONS = [Question(str(number), ("Say one.", "Say two."), "talk") for number in range(12)]


class Words:
    """A tokenizer of one id a character."""

    chat_template = "own"
    added_tokens_decoder = {}  # noqa: RUF012

    def apply_chat_template(self, messages, **_):
        return "|".join(f"{message['role'][0]}:{message['content']}" for message in messages)

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


@pytest.fixture
def session():
    """Methods that answer with their own name, and a note of who was asked what."""
    asked = []

    def answer(name):
        def run(prompt, limit):
            asked.append((name, Words().decode(prompt)))
            return Completion(len(prompt), [ord(letter) for letter in name][:limit])

        return run

    def check_room(prompt_tokens, new_tokens):
        if prompt_tokens + new_tokens > 200:
            raise FalconError("too long")

    def check_ids(ids):
        if ord("~") in ids:
            raise FalconError("no row")

    target = SimpleNamespace(
        check_ids=check_ids, tokenizer=Words(), model=SimpleNamespace(check_room=check_room, device=torch.device("cpu"))
    )
    session = BenchmarkSession(
        target,
        ChatTemplate(Words()),
        {name: answer(name) for name in ("ar", "pld", "la")},
        max_new_tokens=16,
        repeats=2,
        seed=3,
    )
    return session, asked


def test_a_second_turn_holds_the_methods_own_first_answer(session):
    session, asked = session
    records = list(session.ask(QUESTIONS[0]))
    assert {(name, prompt) for name, prompt in asked if prompt.count("|")} == {
        (name, f"u:Say one.|a:{name}|u:Say two.") for name in ("ar", "pld", "la")
    }
    assert [record.text for record in records] == [record.method for record in records]


def test_every_method_answers_every_turn_of_every_repeat_once(session):
    session, _ = session
    records = list(session.ask(QUESTIONS[0]))
    seen = sorted((record.method, record.repeat, record.turn) for record in records)
    assert seen == sorted((name, repeat, turn) for name in ("ar", "pld", "la") for repeat in (0, 1) for turn in (0, 1))


def test_the_order_changes_from_question_to_question_and_is_drawn_from_the_seed(session):
    session, _ = session
    orders = [[record.method for record in session.ask(question)] for question in QUESTIONS]
    assert len({tuple(order) for order in orders}) > 3
    assert orders == [[record.method for record in session.ask(question)] for question in QUESTIONS]


def test_methods_that_are_asked_the_same_have_the_same_prompt(session):
    session, _ = session
    first = [record for record in session.ask(QUESTIONS[0]) if record.turn == 0]
    assert len({record.prompt for record in first}) == 1


def test_a_question_that_may_outgrow_the_context_is_refused_by_name_before_it_is_asked(session):
    session, asked = session
    session.check(QUESTIONS[0])
    with pytest.raises(FalconError, match="question long: too long"):
        session.check(Question("long", ("x" * 150, "y" * 40)))
    with pytest.raises(FalconError, match="question far: no row"):
        session.check(Question("far", ("x", "~")))
    assert asked == []


def test_context_messages_come_before_the_first_turn(session):
    session, _ = session
    question = Question("q", ("Hi.",), context=({"role": "system", "content": "Be brief."},))
    assert Words().decode(session.prompt(question, 0, ())) == "s:Be brief.|u:Hi."


def test_warming_up_lets_every_method_answer_briefly_and_leaves_no_record(session):
    session, asked = session
    session.warm_up(QUESTIONS[0])
    assert [name for name, _ in asked] == ["ar", "pld", "la"]
