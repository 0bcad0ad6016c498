"""Answers in Spec-Bench's JSONL format, so that its scripts and others' read our runs."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from falcon_cli.bench.figures.records import TurnRecord


def answers(records: Iterable[TurnRecord], method: str, target: str) -> Iterator[dict[str, Any]]:
    """Yield one answer per question: the first repeat of `method`, its turns in order.

    As Spec-Bench counts (evaluation/eval.py, evaluation/speed.py): `wall_time` is in seconds and includes prefill,
    `new_tokens` includes prefill's own token, `accept_lengths` are tokens per cycle, all turns in one list. All are
    counted from ids. Question ids made of digits become numbers, as in its files.
    """
    turns_of: dict[str, list[TurnRecord]] = defaultdict(list)
    for record in records:
        if record.method == method and record.repeat == 0:
            turns_of[record.question_id].append(record)
    model = f"{target}-{method}"
    for question, records_of in turns_of.items():
        turns = sorted(records_of, key=lambda record: record.turn)
        yield {
            "question_id": int(question) if question.isdecimal() else question,
            "category": turns[0].category,
            "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, f"{model}/{question}").hex,
            "model_id": model,
            "choices": [_choice(turns)],
            "tstamp": time.time(),
        }


def _choice(turns: list[TurnRecord]) -> dict[str, Any]:
    completions = [record.completion for record in turns]
    return {
        "index": 0,
        "turns": [record.text for record in turns],
        "decoding_steps": [len(completion.cycles) for completion in completions],
        "new_tokens": [len(completion.ids) for completion in completions],
        "wall_time": [completion.prefill_seconds + completion.decode_seconds for completion in completions],
        "accept_lengths": [cycle.emitted for completion in completions for cycle in completion.cycles],
    }
