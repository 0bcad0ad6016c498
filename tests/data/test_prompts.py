import gzip
import json

import pytest

from falcon_cli.data.prompts import Question, parse_line, read_jsonl
from falcon_cli.errors import FalconError


def question(record) -> Question:
    return parse_line(json.dumps(record), 3, "set.jsonl")[0]


def test_the_three_forms():
    assert question({"question_id": 81, "category": "writing", "turns": ["a", "b"]}) == Question(
        "81", ("a", "b"), "writing"
    )
    assert question({"prompt": "a"}) == Question("3", ("a",))
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "a"}
    assert question({"id": "x", "messages": [system, user]}) == Question("x", ("a",), context=(system,))


def test_references_are_texts():
    assert question({"prompt": "a", "reference": "r"}).reference == "r"
    assert question({"prompt": "a", "reference": ["r", "s"]}).reference == "r\ns"
    assert question({"prompt": "a", "reference": None}).reference == ""


def test_the_whole_record_comes_along():
    record = {"prompt": "a", "mine": [1, {"deep": None}]}
    assert parse_line(json.dumps(record), 1, "-")[1] == record


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": ', "not JSON: Expecting value at column 12"),
        ("[1]", "not a JSON object"),
        ("{}", 'none of "turns", "prompt", "messages" and "conversations"'),
        ('{"prompt": "  "}', '"prompt" is empty'),
        ('{"prompt": 7}', '"prompt" must be text, not int'),
        ('{"prompt": "\\ud800"}', "lone surrogate"),
        ('{"turns": []}', '"turns" must be a list of texts'),
        ('{"turns": "one"}', '"turns" must be a list of texts'),
        ('{"turns": ["one", ""]}', 'turn 2 of "turns" is empty'),
        ('{"messages": []}', "it has no message"),
        ('{"messages": ["hi"]}', 'message 1 .* must have "role" and "content"'),
        ('{"messages": [{"role": "poet", "content": "x"}]}', "must be the user's or a tool's, not the poet's"),
        ('{"messages": [{"role": "user", "content": " "}]}', "content of message 1 is empty"),
        (
            '{"messages": [{"role": "user", "content": [1]}]}',
            "only text is read, and message 1 is a part of the type int",
        ),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "must be the user's"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8"),
        ('{"prompt": "a", "score": NaN}', "NaN is no finite number"),
        ('{"prompt": "a", "score": [-Infinity]}', "-Infinity is no finite number"),
        ('{"prompt": "a", "score": 1e999}', "1e999 is no finite number"),
        ('{"a":' * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_a_malformed_line_is_named(line, reason):
    with pytest.raises(FalconError, match=rf"^set\.jsonl:3: .*({reason})"):
        parse_line(line, 3, "set.jsonl")


def test_lines_are_counted_with_blank_ones_and_may_be_skipped(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"prompt": "one"}\n\n{"prompt": ""}\n{"prompt": "four"}\nnonsense\n')
    with pytest.raises(FalconError, match=r"set\.jsonl:3: "):
        read_jsonl(path)
    questions, skipped = read_jsonl(path, keep_going=True)
    assert [question.id for question in questions] == ["1", "4"]
    assert skipped == 2


def test_gzip_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"prompt": "\xc3\xa9\xe2\x80\xa8"}\r\n'))
    assert read_jsonl(path)[0] == [Question("1", ("é\u2028",))]


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b'{"prompt": "x"}' * 99, mtime=0)[:-20]])
def test_a_broken_archive_is_one_clear_line(tmp_path, content):
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(FalconError, match="cannot read"):
        read_jsonl(path)


def test_no_such_file(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read .*none\.jsonl: No such file"):
        read_jsonl(tmp_path / "none.jsonl")
