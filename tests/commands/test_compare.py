import json

import pytest


@pytest.fixture
def answer_file(tmp_path):
    """Write an answer file of one-turn answers: `answer_file("a", {7: ("the thin", 4, 0.5)})` id: text, tokens, s."""

    def write(name, answers):
        path = tmp_path / f"{name}.jsonl"
        lines = [
            {
                "question_id": question,
                "category": "writing",
                "choices": [
                    {
                        "turns": [text],
                        "decoding_steps": [2],
                        "new_tokens": [tokens],
                        "wall_time": [seconds],
                        "accept_lengths": [tokens / 2] * 2,
                    }
                ],
            }
            for question, (text, tokens, seconds) in answers.items()
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def base(answer_file):
    return answer_file("base", {7: ("abc", 8, 2.0), 8: ("abcde", 8, 1.0)})


@pytest.fixture
def fast(answer_file):
    return answer_file("fast", {8: ("abcde", 8, 0.5), 7: ("abd", 8, 0.5), 9: ("x", 1, 1.0)})


@pytest.fixture
def compare(falcon, chat_target):
    """`falcon bench --compare` of files, with the tiny target's tokenizer."""

    def call(*files, more=()):
        return falcon(
            "bench", "--target", chat_target, *(word for file in files for word in ("--compare", file)), *more
        )

    return call


def test_the_table_is_for_people_and_stdout_stays_empty(compare, base, fast):
    outcome = compare(base, fast)
    assert (outcome.code, outcome.out) == (0, "")
    assert "questions in every file: 2 (of 2, 3)" in outcome.err
    assert "falcon: warning: fast: 1 of 2 texts are not the baseline's" in outcome.err


def test_json_is_one_document_with_both_ways(compare, base, fast, chat_target):
    outcome = compare(base, fast, more=["--json"])
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    document = outcome.document
    assert (document["schema"], document["target"], document["questions"]) == (1, str(chat_target), 2)
    first, second = document["files"]
    assert [first["file"], second["file"]] == [str(base), str(fast)]
    assert (first["tokens_per_second"], second["tokens_per_second"]) == (16 / 3, 16)
    assert second["speedup"] == 3
    assert first["spec_bench"]["tokens_per_second"] == (2 / 2 + 4 / 1) / 2  # a letter is a token, and one is left out
    assert second["spec_bench"] == {"tokens_per_second": 16, "speedup": 6.4, "mean_accepted_tokens": 4}
    assert (second["tokens_per_cycle"], second["accepted_length"]) == (4, 3)
    assert (first["texts_equal"], second["texts_equal"]) == (2, 1)


def test_no_model_is_loaded(compare, base, chat_target, tmp_path):
    folder = tmp_path / "tokenizer-only"
    folder.mkdir()
    for file in chat_target.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    assert compare(base, more=["--target", folder]).code == 0


def test_out_holds_the_comparison(compare, base, fast, tmp_path):
    outcome = compare(base, fast, more=["--out", tmp_path / "made" / "here"])
    assert outcome.code == 0
    assert [path.name for path in (tmp_path / "made" / "here").iterdir()] == ["compare.md"]
    text = (tmp_path / "made" / "here" / "compare.md").read_text()
    assert "| `fast` | 3.00x | 16.0 |" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("more", "extra"),
    [
        (["--method", "ar"], "--method"),
        (["--peer", "hf"], "--peer"),
        (["--resume"], "--resume"),
        (["--resume", "--out", "somewhere", "--method", "pld"], "--method, --resume"),
        (["--seed", "0"], "--seed"),
        (["--dataset", "gsm8k", "--compile"], "--dataset, --compile"),
    ],
)
def test_what_measures_is_refused(compare, base, more, extra):
    outcome = compare(base, more=more)
    assert outcome.code == 2
    assert outcome.complaint == f"--compare reads answer files and runs nothing: leave out {extra}"


def test_files_without_a_common_question_are_refused(compare, base, answer_file):
    other = answer_file("other", {1: ("a", 1, 1.0)})
    outcome = compare(base, other)
    assert outcome.code == 1
    assert f"{other} shares no question with {base}" in outcome.complaint


def test_a_bad_line_and_a_missing_file_are_named(compare, base, tmp_path):
    with base.open("a") as file:
        file.write('{"question_id": 9, "choices": []}\n')
    outcome = compare(base)
    assert (outcome.code, outcome.complaint) == (1, f'{base}:3: "choices" must be a list of objects')
    outcome = compare(tmp_path / "nowhere.jsonl")
    assert (outcome.code, "nowhere.jsonl: No such file" in outcome.complaint) == (1, True)


def test_a_target_without_a_tokenizer_is_named(compare, base, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = compare(base, more=["--target", tmp_path / "empty"])
    assert outcome.code == 1
    assert "empty: cannot be loaded as a tokenizer" in outcome.complaint
