import pytest

from falcon_cli.data import datasets
from falcon_cli.data.prompts import Question
from falcon_cli.errors import FalconError, UsageError


@pytest.fixture
def ten(monkeypatch):
    questions = [Question(str(number), ("turn",)) for number in range(10)]
    monkeypatch.setitem(datasets.DATASETS, "ten", lambda keep_going: (questions, 2 if keep_going else 0))


def ids(loaded):
    return "".join(question.id for question in loaded.questions)


@pytest.mark.parametrize(
    ("limit", "taken"), [(None, "0123456789"), (1, "0"), (5, "02468"), (3, "036"), (99, "0123456789")]
)
def test_a_limit_takes_evenly_spaced_questions(ten, limit, taken):
    assert ids(datasets.load("ten", limit)) == taken


def test_skipped_lines_are_told(ten):
    assert datasets.load("ten", keep_going=True).skipped == 2


def test_a_file_is_a_data_set(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a"}\n')
    loaded = datasets.load(str(path))
    assert (loaded.name, ids(loaded)) == ("mine", "1")


@pytest.mark.parametrize("name", ["mt-bnech", "MT_Bench", "mtbench"])
def test_an_unknown_name_lists_the_known(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean mt-bench\?.*humaneval, gsm8k, math-500, sharegpt, spec-bench"):
        datasets.load(name)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_wrong_usage(ten, limit):
    with pytest.raises(UsageError, match="at least 1"):
        datasets.load("ten", limit)


def test_an_empty_set_is_an_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\nnonsense\n")
    with pytest.raises(FalconError, match=r"holds no question \(1 lines skipped\)"):
        datasets.load(str(path), keep_going=True)


def test_questions_that_share_an_id_are_told_apart(tmp_path):
    path = tmp_path / "doubled.jsonl"
    path.write_text('{"id": "a", "prompt": "one"}\n{"id": "a", "prompt": "two"}\n{"id": "b", "prompt": "three"}\n')
    assert [question.id for question in datasets.load(str(path)).questions] == ["a", "a#2", "b"]
