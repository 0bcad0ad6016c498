"""The small readers: MT-Bench, HumanEval, GSM8K, MATH, MBPP and Spec-Bench."""

import gzip
import json
import sys
import types

import pytest

from falcon_cli.data.sets import gsm8k, humaneval, math, mbpp, mt_bench, olmo, sharegpt, spec_bench
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


@pytest.fixture
def wheel(folder, monkeypatch):
    """The files of the wheel that holds mathematics and tasks, each as small as can be."""
    for task in ("gsm8k", "math-500", *(f"math-{subject}" for subject in olmo.SUBJECTS)):
        write_requests(folder, task)
    monkeypatch.setattr(olmo, "fetch_wheel_folder", lambda wheel: folder if wheel is olmo.WHEEL else None)
    return folder


def write_requests(folder, task, *records):
    lines = (json.dumps({"doc": record, "request": {"context": "other problems before it"}}) for record in records)
    (folder / f"{task}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def said(dialogues):
    return [(name, *(message["content"] for message in talk.messages)) for name, talk in dialogues]


def test_gsm8k_out_of_the_wheel(wheel):
    write_requests(wheel, "gsm8k", {"question": "How many?", "answer": "#### 3", "short_answer": "3"})
    ((question,), _) = gsm8k.load()
    assert (question.id, question.turns, question.reference) == ("1", ("How many?",), "3")


def test_math_500_out_of_the_wheel(wheel):
    solution = r"First \boxed{no}, then \boxed{\left( 3, \frac{\pi}{2} \right)}."
    write_requests(wheel, "math-500", {"index": 7, "problem": "Convert.", "solution": solution, "answer": "mangled"})
    ((question,), _) = math.load()
    assert (question.id, question.turns, question.category) == ("7", ("Convert.",), "math")
    assert question.reference == r"\left( 3, \frac{\pi}{2} \right)"


def test_math_500_as_the_hub_has_it(folder):
    record = {"unique_id": "test/algebra/1.json", "problem": "Add.", "solution": r"\boxed{2}", "answer": "2"}
    write(folder / "math_500.jsonl", record)
    ((question,), _) = math.load()
    assert (question.id, question.turns, question.reference) == ("test/algebra/1.json", ("Add.",), "2")


@pytest.mark.parametrize(("solution", "held"), [("no box", ""), (r"\boxed{open", ""), (r"\boxed{}", "")])
def test_a_solution_without_a_whole_box_has_no_reference(solution, held):
    assert math.boxed(solution) == held


def test_math_as_a_corpus_leaves_the_500_out(wheel):
    write_requests(wheel, "math-500", {"index": 0, "problem": "Kept apart.", "solution": "a"})
    apart, other = ({"index": n, "problem": text, "solution": "s"} for n, text in enumerate(("Kept apart.", "Other.")))
    write_requests(wheel, "math-geometry", apart, other)
    assert said(math.read_corpus()) == [("math-geometry-1", "Other.", "s")]


def test_mbpp_is_asked_in_every_language(wheel):
    for language in olmo.LANGUAGES:
        write_requests(wheel, f"mbpp-{language}", {"task_id": 11, "text": "Add.\n", "code": "a\r\nb\n"})
    dialogues = said(mbpp.read_corpus())
    assert len(dialogues) == 17
    assert ("mbpp-cpp-11", "Add. Answer in C++.", "```cpp\na\nb\n```") in dialogues


def test_a_request_without_a_record_is_named(wheel):
    write_requests(wheel, "mbpp-bash", "no record")
    with pytest.raises(FalconError, match=r'mbpp-bash\.jsonl\.gz:1: its "doc" is no object'):
        next(mbpp.read_corpus())


def test_every_file_of_the_wheel_is_pinned_once():
    members = olmo.WHEEL.members
    assert len(members) == len(set(members.values())) == 2 + 7 + 17
    assert len(bytes.fromhex(olmo.WHEEL.sha256)) == 32


GSM8K = {"question": "How many?", "answer": "2 + 1 = <<2+1=3>>3 apples.\n#### 3"}
AS_DIALOGUE = [("gsm8k-train-1", "How many?", "2 + 1 = 3 apples.\n#### 3")]


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "gsm8k_train.jsonl.gz"])
def test_gsm8k_s_training_split_from_a_file(folder, name):
    text = json.dumps(GSM8K).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert said(gsm8k.read_corpus()) == AS_DIALOGUE


def test_gsm8k_s_training_split_from_the_hub(folder, monkeypatch):
    def load_dataset(*arguments, split):
        assert (arguments, split) == (("openai/gsm8k", "main"), "train")
        return [GSM8K]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert said(gsm8k.read_corpus()) == AS_DIALOGUE


def test_gsm8k_s_training_split_out_of_reach(folder, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("down")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(FalconError, match=r"\(ConnectionError\): set FALCON_DATA .* gsm8k_train\.jsonl"):
        next(gsm8k.read_corpus())


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
