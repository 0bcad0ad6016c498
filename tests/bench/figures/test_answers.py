import json
from dataclasses import replace

from falcon_cli.bench.figures.answers import answers


def test_one_answer_per_question_in_spec_bench_shape(records):
    found = list(answers(records, "falcon", "SmolLM2"))
    assert [answer["question_id"] for answer in found] == list(range(81, 93))
    for answer in found:
        assert set(answer) == {"question_id", "category", "answer_id", "model_id", "choices", "tstamp"}
        assert answer["model_id"] == "SmolLM2-falcon"
        assert [choice["index"] for choice in answer["choices"]] == [0]
    assert len({answer["answer_id"] for answer in found}) == len(found)
    json.dumps(found)


def test_counts_are_those_of_the_first_repeat(records):
    mine = [r for r in records if (r.method, r.repeat, r.question_id) == ("falcon", 0, "84")]
    choice = next(answer for answer in answers(records, "falcon", "t") if answer["question_id"] == 84)["choices"][0]
    assert choice["turns"] == ["answer 3.0", "answer 3.1"]
    assert choice["new_tokens"] == [len(r.completion.ids) for r in mine]
    assert choice["decoding_steps"] == [len(r.completion.cycles) for r in mine]
    assert choice["wall_time"] == [r.completion.prefill_seconds + r.completion.decode_seconds for r in mine]
    assert len(choice["accept_lengths"]) == sum(choice["decoding_steps"])
    assert sum(choice["accept_lengths"]) == sum(count - 1 for count in choice["new_tokens"])


def test_turns_come_in_order_and_names_stay_names(records):
    shuffled = [replace(r, question_id="HumanEval/0") for r in records if r.question_id == "81"][::-1]
    (answer,) = answers(shuffled, "pld", "t")
    assert answer["question_id"] == "HumanEval/0"
    assert answer["choices"][0]["turns"] == ["answer 0.0", "answer 0.1"]


def test_a_method_that_was_not_run_has_no_answers(records):
    assert list(answers(records, "medusa", "t")) == []
