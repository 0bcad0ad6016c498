"""Files that grow line by line."""

from falcon_cli.sources import append_line, json_lines, whole_lines


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "log.jsonl"
    assert whole_lines(path) == []
    for line in ("one", "zwei ä", "3"):
        append_line(path, line)
    assert whole_lines(path) == [b"one", "zwei ä".encode(), b"3"]


def test_a_torn_line_is_passed_over_and_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, "whole")
    with path.open("ab") as stream:
        stream.write(b"tor")
    assert whole_lines(path) == [b"whole"]
    append_line(path, "next")
    assert path.read_bytes() == b"whole\nnext\n"


def test_json_lines_pass_over_what_a_kill_cut_short(tmp_path):
    (tmp_path / "log").write_text('{"a": 1}\n\n{"a": 2\n[3]\n{"a":')
    assert list(json_lines(tmp_path / "log")) == [{"a": 1}, [3]]
    assert list(json_lines(tmp_path / "none")) == []
