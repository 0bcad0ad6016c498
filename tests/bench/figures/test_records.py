import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.bench.figures.records import RecordLog, TurnRecord, from_json, to_json
from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.errors import FalconError

seconds = st.floats(0, 100)
cycles = st.builds(Cycle, st.integers(1, 9), st.integers(1, 64), seconds, seconds, seconds)
completions = st.builds(
    Completion,
    st.integers(1, 5000),
    st.lists(st.integers(0, 200_000), max_size=9),
    seconds,
    st.lists(cycles, max_size=3),
    st.sampled_from(["stop", "length"]),
)
small = st.integers(0, 3)
words = st.text(max_size=8)
prompts = st.lists(st.integers(0, 200_000), min_size=1, max_size=5).map(tuple)
turns = st.builds(TurnRecord, words, words, small, words, small, prompts, completions, words)


def record(question: str, text: str = "hello", method: str = "ar") -> TurnRecord:
    completion = Completion(7, [1, 2, 3], 0.25, [Cycle(2, 5, 0.01, 0.02, 0.04)], "stop")
    return TurnRecord(question, "math", 0, method, 0, (5, 6, 7, 8, 9, 1, 2), completion, text)


@given(turns)
def test_json_keeps_everything_but_fractions_of_a_microsecond(original):
    (read,) = from_json(json.loads(json.dumps(to_json([original]))))
    assert to_json([read]) == to_json([original])
    assert (read.question_id, read.text, read.prompt, read.completion.ids) == (
        original.question_id,
        original.text,
        original.prompt,
        original.completion.ids,
    )
    assert read.completion.prefill_seconds == pytest.approx(original.completion.prefill_seconds, abs=1e-6)
    for mine, theirs in zip(read.completion.cycles, original.completion.cycles, strict=True):
        assert (mine.emitted, mine.nodes) == (theirs.emitted, theirs.nodes)
        assert mine.draft_seconds == pytest.approx(theirs.draft_seconds, abs=1e-6)
        assert mine.verify_seconds == pytest.approx(theirs.verify_seconds, abs=1e-6)
        assert mine.seconds == pytest.approx(theirs.seconds, abs=1e-6)


def test_microsecond_times_come_back_exactly():
    assert from_json(to_json([record("1")])) == [record("1")]


def test_a_cycle_is_five_numbers():
    line = to_json([TurnRecord("1", "c", 0, "m", 0, (4,), Completion(1, [1, 2], 0.1, [Cycle(1, 4, 1 / 3, 0, 2)]), "")])
    assert line["records"][0]["cycles"] == [[1, 4, 0.333333, 0, 2]]


def test_a_prompt_that_methods_share_is_written_once():
    shared = [record("1"), record("1", method="falcon")]
    other = TurnRecord("1", "math", 1, "falcon", 0, (5, 6), Completion(2, [1], 0.1, [], "stop"), "")
    line = to_json([*shared, other])
    assert line["prompts"] == [[5, 6, 7, 8, 9, 1, 2], [5, 6]]
    assert from_json(json.loads(json.dumps(line))) == [*shared, other]


def test_one_line_per_question_in_order(tmp_path):
    log = RecordLog(tmp_path / "log.jsonl")
    assert log.read() == []
    first = [record("1"), record("1", method="falcon")]
    log.append(first)
    log.append([record("2", text="line\nbreak \u2028 é")])
    assert log.path.read_bytes().count(b"\n") == 2
    assert log.read() == [first, [record("2", text="line\nbreak \u2028 é")]]


def test_every_torn_tail_is_dropped_and_cut_off(tmp_path):
    log = RecordLog(tmp_path / "log.jsonl")
    log.append([record("1")])
    whole = log.path.read_bytes()
    for kept in (1, len(whole) // 2, len(whole) - 1):
        log.path.write_bytes(whole + whole[:kept])
        assert log.read() == [[record("1")]]
        log.append([record("2")])
        assert log.read() == [[record("1")], [record("2")]]


def test_a_file_with_nothing_but_a_torn_line(tmp_path):
    log = RecordLog(tmp_path / "log.jsonl")
    log.path.write_bytes(b'[{"question_id": "\xc3')
    assert log.read() == []
    log.append([record("1")])
    assert log.read() == [[record("1")]]


@pytest.mark.parametrize(
    "damage",
    [
        b"not json\n",
        b"{}\n5\n",
        b'[{"question_id": "1"}]\n',
        b'{"prompts": [], "records": [{"prompt": 3}]}\n',
        b"\xff\n",
        b"\n",
    ],
)
def test_a_malformed_whole_line_names_file_and_line(tmp_path, damage):
    log = RecordLog(tmp_path / "log.jsonl")
    log.append([record("1")])
    log.path.write_bytes(log.path.read_bytes() + damage)
    with pytest.raises(FalconError, match=r"log\.jsonl, line [23]: ") as caught:
        log.read()
    assert "\n" not in str(caught.value)


def test_a_cycle_of_another_length_is_malformed(tmp_path):
    line = to_json([record("1")])
    line["records"][0]["cycles"] = [[1, 2, 3]]
    log = RecordLog(tmp_path / "log.jsonl")
    log.path.write_text(json.dumps(line) + "\n")
    with pytest.raises(FalconError, match="line 1"):
        log.read()


def test_a_line_is_one_question(tmp_path):
    log = RecordLog(tmp_path / "log.jsonl")
    for wrong in ([], [record("1"), record("2")]):
        with pytest.raises(ValueError, match="exactly one question"):
            log.append(wrong)
    assert not log.path.exists()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    log = RecordLog(tmp_path / "log.jsonl")
    log.append([record("1")])

    def full(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 10)  # what a full disk leaves behind
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FalconError, match="No space left on device") as caught:
            log.append([record("2")])
    assert "\n" not in str(caught.value)
    log.append([record("3")])
    assert log.read() == [[record("1")], [record("3")]]


def test_a_folder_in_the_files_place_is_one_line(tmp_path):
    with pytest.raises(FalconError, match="cannot read"):
        RecordLog(tmp_path).read()
    with pytest.raises(FalconError, match="cannot write"):
        RecordLog(tmp_path).append([record("1")])
