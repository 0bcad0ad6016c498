"""Dialogues from every kind of file: complete ones are read, wrong ones reported."""

import gzip
import json

import pytest

from falcon_cli.data.messages import Messages
from falcon_cli.distill.corpus import dialogues
from falcon_cli.distill.corpus.dialogues import Dialogue, read_dialogues
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe

HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
SHAREGPT = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]


def read(*sources):
    return list(read_dialogues(CorpusRecipe(sources=tuple(map(str, sources)))))


def lines(path, *records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_hold_messages_conversations_or_token_ids(tmp_path, name):
    path = lines(
        tmp_path / name,
        {"id": "m", "messages": HELLO},
        {"conversations": SHAREGPT},
        {"id": 7, "prompt_ids": [1, 2], "response_ids": [3]},
    )
    messages, conversation, ids = read(path)
    assert messages == Dialogue("m", Messages(tuple(HELLO)))
    assert (conversation.id, conversation.talk.messages) == (f"{name}-2", tuple(HELLO))
    assert ids == Dialogue("7", Messages(()), (1, 2), (3,))


def test_sharegpt_s_json_is_read_and_kept_as_far_as_it_is_whole(tmp_path, capsys):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"id": "a", "conversations": SHAREGPT}, {"id": "b", "conversations": SHAREGPT}])[:-30])
    assert [dialogue.id for dialogue in read(path)] == ["a"]
    assert "cut off" in capsys.readouterr().err


def test_parquet_is_read_by_datasets(tmp_path):
    from datasets import Dataset

    path = tmp_path / "a.parquet"
    Dataset.from_list([{"id": "p", "messages": HELLO}]).to_parquet(str(path))
    assert read(path) == [Dialogue("p", Messages(tuple(HELLO)))]


def test_rows_that_cannot_be_read_end_in_one_line(tmp_path):
    from datasets import Dataset

    path = tmp_path / "a.parquet"
    Dataset.from_list([{"id": str(n), "messages": HELLO} for n in range(3000)]).to_parquet(str(path))
    raw = bytearray(path.read_bytes())
    raw[300 : len(raw) // 2] = b"\xaa" * (len(raw) // 2 - 300)  # the footer is whole, the rows are not
    path.write_bytes(bytes(raw))
    with pytest.raises(FalconError, match=r"cannot be read beyond row 0"):
        read(path)


def test_a_slash_in_a_name_is_no_turn_s(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": "HumanEval/12", "messages": HELLO})
    assert [dialogue.id for dialogue in read(path)] == ["HumanEval_12"]


def test_a_line_nested_too_deeply_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages":' + "[" * 100_000 + "\n" + json.dumps({"messages": HELLO}) + "\n")
    with pytest.raises(FalconError, match=r"a.jsonl:1: not JSON"):
        read(path)


def test_a_last_line_cut_short_is_left_out_with_a_warning(tmp_path, capsys):
    path = lines(tmp_path / "a.jsonl", {"messages": HELLO}, {"messages": HELLO})
    path.write_text(path.read_text()[:-9])
    assert len(read(path)) == 1
    assert "a.jsonl is cut off in its last line" in capsys.readouterr().err


def test_a_compressed_file_cut_short_gives_its_whole_lines(tmp_path, capsys):
    path = lines(tmp_path / "a.jsonl.gz", *[{"id": str(n), "messages": HELLO, "x": str(n) * 99} for n in range(500)])
    path.write_bytes(path.read_bytes()[:-200])
    assert 0 < len(read(path)) < 500
    assert "is cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "hello", "n": 1}, r'a.jsonl:2: it has the fields "text", "n"; a dialogue needs "messages"'),
        ({"messages": "hello"}, r'a.jsonl:2: "messages" must be a list'),
        ({"messages": [{"name": "x"}]}, r'a.jsonl:2: message 1 of "messages" must have "role" and "content"'),
        (
            {"conversations": [{"from": "human"}]},
            r'a.jsonl:2: message 1 of "conversations" must have "role" and "content", or "from" and "value"',
        ),
        ({"prompt_ids": [1], "response_ids": ["x"]}, r"a.jsonl:2: .* must be lists of token ids"),
        ([1], r"a.jsonl:2: a dialogue is an object"),
    ],
)
def test_a_record_without_the_fields_is_named_with_its_line(tmp_path, record, message):
    path = lines(tmp_path / "a.jsonl", {"messages": HELLO}, record, {"messages": HELLO})
    with pytest.raises(FalconError, match=message):
        read(path)


def test_a_broken_line_that_is_not_the_last_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": \n' + json.dumps({"messages": HELLO}) + "\n")
    with pytest.raises(FalconError, match=r"a.jsonl:1: not JSON"):
        read(path)


@pytest.mark.parametrize(("name", "message"), [("no.jsonl", "no such file"), ("./no", "no such file")])
def test_a_file_that_is_not_there_is_named(name, message):
    with pytest.raises(FalconError, match=message):
        read(name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(FalconError, match=r"a corpus is a \.json file"):
        read(tmp_path / "a.txt")


def test_dialogues_of_the_same_name_are_numbered(tmp_path):
    first = lines(tmp_path / "a.jsonl", {"id": "x", "messages": HELLO})
    second = lines(tmp_path / "b.jsonl", {"id": "x", "messages": HELLO})
    assert [dialogue.id for dialogue in read(first, second)] == ["x", "x#2"]


@pytest.mark.parametrize("name", ["sharegpt", "gsm8k-train", "math", "mbpp"])
def test_a_named_corpus_is_no_file_and_no_hub_data_set(name, monkeypatch):
    talk = Messages(tuple(HELLO))
    assert name in dialogues.CORPORA
    monkeypatch.setitem(dialogues.CORPORA, name, lambda: iter([(f"{name}/1", talk)]))
    assert read(name) == [Dialogue(f"{name}_1", talk)]
