import json

import pytest

from falcon_cli.data.messages import Messages
from falcon_cli.data.sets import sharegpt
from falcon_cli.data.sets.sharegpt import read_conversations
from falcon_cli.errors import FalconError

RECORDS = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "hé [1]"}, {"from": "gpt", "value": 'so "}]" it is'}]},
    {"id": "b_3", "conversations": [{"from": "gpt", "value": "late"}, {"from": "user", "value": "first"}]},
    {"id": "c_0", "conversations": []},
    {"id": "d_0", "conversations": [{"from": "human", "value": " "}, {"from": "tool", "value": "x"}]},
]


def write(tmp_path, text):
    path = tmp_path / "share.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(params=[1, 7, 1 << 20], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(sharegpt, "_CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_file(tmp_path, capsys, indent):
    conversations = list(read_conversations(write(tmp_path, json.dumps(RECORDS, indent=indent, ensure_ascii=False))))
    assert [name for name, _ in conversations] == ["a_0", "b_3", "c_0", "d_0"]
    assert conversations[1][1] == Messages(
        ({"role": "assistant", "content": "late"}, {"role": "user", "content": "first"})
    )
    assert conversations[3][1].messages == ({"role": "user", "content": " "}, {"role": "tool", "content": "x"})
    assert capsys.readouterr().err == ""


def test_a_file_cut_off_anywhere_keeps_what_is_whole(tmp_path, capsys):
    text = json.dumps(RECORDS)
    ends = [text.index('{"id": "b'), text.index('{"id": "c'), text.index('{"id": "d'), len(text) - 1]
    for length in range(1, len(text), 5):
        conversations = list(read_conversations(write(tmp_path, text[:length])))
        whole = sum(length >= end - (2 if end != ends[-1] else 0) for end in ends)
        assert len(conversations) == whole
        err = capsys.readouterr().err
        assert err == f"falcon: warning: share.json is cut off: its {whole} whole conversations are used\n"


def test_a_cut_in_the_middle_of_a_character(tmp_path):
    path = tmp_path / "share.json"
    path.write_bytes(json.dumps(RECORDS[:1]).encode()[:-1] + ', {"id": "é'.encode()[:-1])
    assert len(list(read_conversations(path))) == 1


@pytest.mark.parametrize("text", ["", '{"id": 1}', "nonsense"])
def test_something_else_is_refused(tmp_path, text):
    with pytest.raises(FalconError, match="no ShareGPT file"):
        list(read_conversations(write(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[7 ]", " is no object"),
        ('[{"id": "x"}]', ' has neither "conversations" nor "messages"'),
        ('[{"conversations": "none"}]', ': "conversations" must be a list of messages'),
    ],
)
def test_an_element_that_is_no_conversation_is_named(tmp_path, text, reason):
    with pytest.raises(FalconError, match=f"conversation 1{reason}"):
        list(read_conversations(write(tmp_path, text)))


def test_questions_are_first_human_turns(tmp_path, monkeypatch):
    monkeypatch.setenv("FALCON_DATA", str(tmp_path))
    write(tmp_path, json.dumps(RECORDS)).rename(tmp_path / "ShareGPT_V3_unfiltered_cleaned_split.json")
    questions, skipped = sharegpt.load()
    assert [(question.id, question.turns) for question in questions] == [("a_0", ("hé [1]",)), ("b_3", ("first",))]
    assert skipped == 0


def test_no_such_file(tmp_path):
    with pytest.raises(FalconError, match="cannot read"):
        list(read_conversations(tmp_path / "none.json"))
