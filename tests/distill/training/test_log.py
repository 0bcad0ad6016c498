"""A log has each step once, also after a kill and a resumed run."""

import pytest

from falcon_cli.distill.training.log import JsonlLog, read_log


def lines(*steps):
    return [{"step": step, "loss": 1 / (step + 1)} for step in steps]


@pytest.fixture
def path(tmp_path):
    """A log of steps 0 to 4."""
    log = JsonlLog(tmp_path / "metrics.jsonl", 0)
    for line in lines(*range(5)):
        log.write(line)
    return tmp_path / "metrics.jsonl"


def test_lines_come_back_as_written(path):
    assert read_log(path) == lines(*range(5))


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_resumed_run_writes_its_steps_again(path):
    log = JsonlLog(path, 3)
    assert read_log(path) == lines(0, 1, 2)
    log.write({"step": 3, "loss": 9.0})
    assert read_log(path) == [*lines(0, 1, 2), {"step": 3, "loss": 9.0}]


def test_a_line_that_a_kill_cut_short_is_left_out_and_spoils_no_other(path):
    path.write_text(path.read_text()[:-9])
    assert read_log(path) == lines(0, 1, 2, 3)
    JsonlLog(path, 9).write({"step": 9})
    assert read_log(path) == [*lines(0, 1, 2, 3), {"step": 9}]


def test_every_line_is_on_disk_at_once(path):
    log = JsonlLog(path, 9)
    for step in (9, 10):
        log.write({"step": step})
        assert read_log(path)[-1] == {"step": step}


def test_a_number_that_is_not_finite_is_refused(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonlLog(path, 9).write({"step": 9, "loss": float("nan")})
    assert read_log(path) == lines(*range(5))
