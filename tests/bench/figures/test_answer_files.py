import gzip
import json

import pytest

from falcon_cli.bench.figures.answer_files import FileAnswer, read_answers
from falcon_cli.bench.figures.answers import answers
from falcon_cli.errors import FalconError

CHOICE = {
    "index": 0,
    "turns": ["one", "two"],
    "decoding_steps": [3, 2],
    "new_tokens": [9, 4],
    "wall_time": [0.5, 0.25],
    "accept_lengths": [4, 3, 2, 3, 1],
}
ANSWER = FileAnswer("81", ("one", "two"), tokens=13, steps=5, seconds=0.75, accept_lengths=(4, 3, 2, 3, 1))


def line(question=81, **changes):
    """A line of an answer file; None leaves a key out."""
    choice = {key: value for key, value in {**CHOICE, **changes}.items() if value is not None}
    return {"question_id": question, "category": "writing", "model_id": "m", "choices": [choice], "tstamp": 1.5}


def write(path, *lines):
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def test_an_answer_is_summed_over_its_turns(tmp_path):
    assert read_answers(write(tmp_path / "a.jsonl", line(), "", line("HumanEval/0"))) == {
        "81": ANSWER,
        "HumanEval/0": FileAnswer("HumanEval/0", *list(vars(ANSWER).values())[1:]),
    }


@pytest.mark.parametrize("method", ["ar", "falcon"])
def test_what_our_bench_wrote_reads_back_as_the_records_say(records, tmp_path, method):
    mine = [r for r in records if (r.method, r.repeat) == (method, 0)]
    read = read_answers(write(tmp_path / "a.jsonl", *answers(records, method, "t")))
    assert list(read) == list(dict.fromkeys(r.question_id for r in mine))
    for question, answer in read.items():
        own = [r for r in mine if r.question_id == question]
        cycles = [cycle for r in own for cycle in r.completion.cycles]
        assert answer.texts == tuple(r.text for r in own)
        assert answer.tokens == sum(len(r.completion.ids) for r in own)
        assert answer.steps == len(cycles)
        assert answer.seconds == sum(r.completion.prefill_seconds + r.completion.decode_seconds for r in own)
        assert answer.accept_lengths == tuple(cycle.emitted for cycle in cycles)


def test_older_files_number_their_last_step_and_list_no_lengths(tmp_path):
    old = line(decoding_steps=None, idxs=[2, 1], accept_lengths=None)
    del old["category"]
    (answer,) = read_answers(write(tmp_path / "a.jsonl", old)).values()
    assert (answer.steps, answer.accept_lengths) == (5, None)


def test_decoding_steps_win_over_idxs(tmp_path):
    (answer,) = read_answers(write(tmp_path / "a.jsonl", line(idxs=[90, 90]))).values()
    assert answer.steps == 5


def test_the_first_of_several_choices_counts(tmp_path):
    several = line()
    several["choices"].append({"index": 1, "turns": "no matter what"})
    assert read_answers(write(tmp_path / "a.jsonl", several)) == {"81": ANSWER}


def test_of_a_question_that_stands_twice_the_last_line_counts(tmp_path):
    path = write(tmp_path / "a.jsonl", line(new_tokens=[1, 1]), line(82), line("81"))
    assert read_answers(path)["81"] == ANSWER
    assert list(read_answers(path)) == ["81", "82"]


def test_a_file_may_be_packed(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(line()).encode()))
    assert read_answers(path) == {"81": ANSWER}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON: "),
        ("[]", "it is not a JSON object"),
        ({"choices": [CHOICE]}, 'it has no "question_id"'),
        ({"question_id": True, "choices": [CHOICE]}, 'it has no "question_id"'),
        ({"question_id": 81}, '"choices" must be a list of objects'),
        ({"question_id": 81, "choices": []}, '"choices" must be a list of objects'),
        ({"question_id": 81, "choices": [["one"]]}, '"choices" must be a list of objects'),
        (line(turns="one"), '"turns" must be a list of texts'),
        (line(turns=[]), '"turns" must be a list of texts'),
        (line(turns=["one", None]), '"turns" must be a list of texts'),
        (line(turns=["one", "\ud800"]), '"turns" holds half a character'),
        (line(turns=["one"]), '"new_tokens" holds 2 numbers, "turns" 1 texts'),
        (line(new_tokens=[9]), '"new_tokens" holds 1 numbers, "turns" 2 texts'),
        (line(new_tokens=13), 'it has no "new_tokens", a list of numbers, one a turn'),
        (line(new_tokens=[9, -1]), '"new_tokens" must hold whole numbers from 0'),
        (line(new_tokens=[9, 4.0]), '"new_tokens" must hold whole numbers from 0'),
        (line(decoding_steps=None), 'it has no "decoding_steps"'),
        (line(decoding_steps=[True, 2]), '"decoding_steps" must hold whole numbers from 0'),
        (line(decoding_steps=None, idxs=[2]), '"idxs" holds 1 numbers, "turns" 2 texts'),
        (line(wall_time=[0.5]), '"wall_time" holds 1 numbers, "turns" 2 texts'),
        (line(wall_time=[0.5, 0]), '"wall_time" must hold positive seconds'),
        (line(wall_time=[0.5, -1]), '"wall_time" must hold positive seconds'),
        (line(wall_time=[0.5, float("nan")]), "NaN is no finite number"),
        (line(wall_time=[0.5, "1"]), '"wall_time" must hold positive seconds'),
        (line(accept_lengths=4), '"accept_lengths" must be a list of numbers'),
        (line(accept_lengths=[[4, 3]]), '"accept_lengths" must be a list of numbers'),
    ],
)
def test_a_bad_line_is_named_in_one_line(tmp_path, bad, message):
    path = write(tmp_path / "a.jsonl", line(), bad)
    with pytest.raises(FalconError) as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_without_answers_and_no_file_are_named(tmp_path):
    with pytest.raises(FalconError, match=r"a\.jsonl holds no answers"):
        read_answers(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(FalconError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        read_answers(tmp_path / "nowhere.jsonl")
