import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from falcon_cli.bench.measuring import session as runner
from falcon_cli.core import Verdict
from falcon_cli.decode import loop
from falcon_cli.decode.verify import verify

FIGURES = {
    "tokens",
    "decode_seconds",
    "prefill_seconds",
    "draft_seconds",
    "verify_seconds",
    "tokens_per_second",
    "speedup",
    "speedup_ci95",
    "cycles",
    "accepted_length",
    "tokens_per_cycle",
    "acceptance_rate",
    "accepted_by_depth",
    "loop_free",
    "lossless",
}
FILES = {"recipe.yaml", "provenance.json", "records.jsonl", "results.json", "report.md", "speedup.png", "answers"}


@pytest.fixture
def bench(falcon, chat_target, questions):
    """`falcon bench` of pld on the tiny target and the three questions, twelve tokens each."""
    words = ["bench", "--target", chat_target, "--dataset", questions, "--method", "pld", "--max-new-tokens", 12]
    return lambda *more: falcon(*words, *more)


def ids_of(folder):
    """(question, turn, method) → ids."""
    records = [record for line in (folder / "records.jsonl").open() for record in json.loads(line)["records"]]
    return {(record["question_id"], record["turn"], record["method"]): record["ids"] for record in records}


def test_the_table_is_for_people_and_stdout_stays_empty(bench):
    outcome = bench()
    assert (outcome.code, outcome.out) == (0, "")
    assert "lossless" in outcome.err
    assert "exact" in outcome.err


def test_json_is_stdouts_last_line_and_holds_the_whole_schema(bench, chat_target, questions):
    words = ["--method", "lookahead", "--method", "sps", "--draft-model", chat_target, "--peer", "hf"]
    outcome = bench("--json", *words, "--peer", "hf-pld", "--repeats", 2)
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    document = outcome.document
    assert document["schema"] == 1
    assert (document["target"], document["dataset"], document["prompts"]) == (chat_target.name, questions.name, 3)
    assert document["settings"].keys() >= {"dtype", "device", "threads", "max_new_tokens", "repeats", "seed"}
    assert document["machine"]["bandwidth_bound_tokens_per_second"] > 0
    assert list(document["methods"]) == ["ar", "pld", "lookahead", "sps"]
    for figures in document["methods"].values():
        assert figures.keys() >= FIGURES
        assert figures["tokens"] == 2 * 4 * 11  # repeats × turns × tokens after prefill
        assert figures["loop_free"].keys() >= {"tokens", "tokens_per_cycle", "speedup", "acceptance_rate"}
        assert figures["lossless"]["verdict"] == "exact"
        assert (figures["lossless"]["prompts_exact"], figures["lossless"]["prompts"]) == (3, 3)
        assert figures["lossless"]["divergences"] == []
        assert len(figures["speedup_ci95"]) == 2
    assert document["methods"]["ar"]["speedup"] == 1
    assert list(document["peers"]) == ["hf", "hf-pld"]
    assert all(peer["prompts_equal"] == 3 for peer in document["peers"].values())


def test_out_holds_everything(bench, tmp_path):
    out = tmp_path / "run"
    outcome = bench("--json", "--out", out, "--method", "lookahead:window=3")
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "results.json").read_text()) == outcome.document
    assert {path.name for path in (out / "answers").iterdir()} == {"ar.jsonl", "pld.jsonl", "lookahead_window-3.jsonl"}
    answers = [json.loads(line) for line in (out / "answers" / "pld.jsonl").open()]
    assert [answer["question_id"] for answer in answers] == [7, 8, 9]
    assert [len(answer["choices"][0]["turns"]) for answer in answers] == [1, 2, 1]
    assert (out / "speedup.png").read_bytes().startswith(b"\x89PNG")
    assert "falcon bench" in (out / "report.md").read_text()
    assert str(tmp_path) not in (out / "provenance.json").read_text()


def test_a_label_is_the_methods_name_everywhere(bench, tmp_path):
    out = tmp_path / "run"
    outcome = bench("--json", "--out", out, "--method", "pld:length=3 as L=3", "--method", "pld:length=3 as L=3")
    assert list(outcome.document["methods"]) == ["ar", "pld", "L=3"]
    assert outcome.document["settings"]["methods"] == ["pld", "pld:length=3 as L=3", "pld:length=3 as L=3"]
    assert {path.name for path in (out / "answers").iterdir()} == {"ar.jsonl", "pld.jsonl", "L-3.jsonl"}
    assert {method for _, _, method in ids_of(out)} == {"ar", "pld", "L=3"}
    assert "L=3" in outcome.err
    assert "| `L=3` |" in (out / "report.md").read_text()


@pytest.fixture
def suite(falcon, chat_target, questions, tmp_path):
    """`falcon bench` by a recipe of two data sets and the paper's table 5."""
    more, recipe = tmp_path / "more.jsonl", tmp_path / "recipe.yaml"
    more.write_text('{"prompt": "the thin thing"}\n')
    lines = [f"target: {{model: {chat_target}}}", f"datasets: [{questions}, {more}]", "table: 5"]
    recipe.write_text("\n".join([*lines, "methods: [pld as k=2]", "max_new_tokens: 12"]))
    return lambda *words: falcon("bench", "--recipe", recipe, *words)


def test_several_data_sets_are_one_suite_and_the_papers_tables_its_views(suite, tmp_path):
    out = tmp_path / "suite"
    document = suite("--out", out, "--json").document
    methods = {name: list(results["methods"]) for name, results in document["datasets"].items()}
    assert (document["table"], methods) == (5, {"questions": ["ar", "k=2"], "more": ["ar", "k=2"]})
    assert {path.name for path in (out / "more").iterdir()} == FILES
    assert {path.name for path in out.iterdir()} == {"questions", "more", "results.json", "table.md"}
    again = suite("--out", out, "--json", "--resume", "--set", "table=1")
    assert (again.out.count("\n"), again.document) == (1, {**document, "table": 1})


def test_a_failure_on_any_data_set_is_the_suites(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "verify", gullible)
    outcome = suite("--out", tmp_path / "suite")
    assert (outcome.code, "k=2 on questions" in outcome.complaint) == (3, True)


def test_a_suite_needs_a_folder_and_a_data_set_of_ones_own_makes_it_an_ordinary_run(suite, questions):
    assert "several data sets need --out" in suite().complaint
    assert suite("--dataset", questions, "--json").document["dataset"] == questions.name


def test_limit_takes_questions_evenly(bench):
    assert bench("--json", "--limit", 2).document["prompts"] == 2


def test_a_folder_with_a_run_is_neither_overwritten_nor_mixed(bench, tmp_path):
    out = tmp_path / "run"
    assert bench("--out", out).code == 0
    before = (out / "records.jsonl").read_bytes()
    again = bench("--out", out)
    assert again.code == 2
    assert "already holds a run: add --resume" in again.complaint
    other = bench("--out", out, "--resume", "--seed", 3)
    assert other.code == 2
    assert "(seed changed)" in other.complaint
    assert bench("--out", out, "--resume").code == 0
    assert (out / "records.jsonl").read_bytes() == before


def test_a_folder_whose_run_failed_before_its_first_answer_is_free(bench, tmp_path):
    out = tmp_path / "run"
    assert bench("--out", out, "--dataset", "mt-bensh").code == 2
    assert bench("--out", out, "--limit", 1).code == 0


def test_a_torn_last_line_is_survived(bench, tmp_path):
    out = tmp_path / "run"
    bench("--out", out)
    whole, log = ids_of(out), out / "records.jsonl"
    first, second, _ = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second[: len(second) // 2])
    outcome = bench("--out", out, "--resume")
    assert outcome.code == 0
    assert "1 of 3 questions are already measured" in outcome.err
    assert log.read_bytes().startswith(first)
    assert ids_of(out) == whole


def test_ctrl_c_keeps_finished_questions_and_resume_goes_on(bench, tmp_path, monkeypatch):
    bench("--out", tmp_path / "whole")
    ask = runner.BenchmarkSession.ask

    def interrupted(contest, question):
        if question.id == "9":
            raise KeyboardInterrupt
        return ask(contest, question)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner.BenchmarkSession, "ask", interrupted)
        stopped = bench("--out", out)
    assert stopped.code == 130
    *_, kept, last = stopped.err.splitlines()
    assert kept == f"2 of 3 questions are kept in {out}; add --resume to go on"
    assert last == "falcon: stopped by Ctrl-C"
    assert {question for question, _, _ in ids_of(out)} == {"7", "8"}
    assert bench("--out", out, "--resume", "--json").document["prompts"] == 3
    assert ids_of(out) == ids_of(tmp_path / "whole")


def test_a_real_sigint(chat_target, falcon, tmp_path):
    asked, out = tmp_path / "many.jsonl", tmp_path / "run"
    asked.write_text("".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(24)))
    words = ["bench", "--target", chat_target, "--dataset", asked, "--method", "pld", "--max-new-tokens", 160]
    words = [str(word) for word in [*words, "--threads", 1, "--kernels", "torch", "--out", out]]
    process = subprocess.Popen([sys.executable, "-m", "falcon_cli", *words], stderr=subprocess.PIPE, text=True)
    wait_for_lines(out / "records.jsonl", 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read().splitlines()[-1] == "falcon: stopped by Ctrl-C"
    kept = (out / "records.jsonl").read_bytes()
    assert 2 <= kept.count(b"\n") < 24
    document = falcon(*words, "--resume", "--json").document
    assert document["methods"]["pld"]["lossless"]["prompts_exact"] == 24
    assert (out / "records.jsonl").read_bytes().startswith(kept)


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def gullible(draft, scores):
    """Takes the first drafted token whatever the target says."""
    verdict = verify(draft, scores)
    if len(draft) == 1 or verdict.accepted:
        return verdict
    tokens = (int(draft.tokens_T[1]),)
    return Verdict((0, 1), tokens, verdict.choices[1], verdict.choices)


def test_output_that_is_not_the_targets_own_is_a_failure(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "verify", gullible)
    outcome = bench("--json", "--out", tmp_path / "run")
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("falcon: error: not the target's own output: pld")
    lossless = outcome.document["methods"]["pld"]["lossless"]
    assert lossless["verdict"] == "FAILED"
    assert lossless["prompts_exact"] < lossless["prompts"]
    assert lossless["divergences"][0].keys() >= {"prompt", "position", "margin"}
    assert max(divergence["margin"] for divergence in lossless["divergences"]) > lossless["tolerance"]
    assert outcome.document["methods"]["ar"]["lossless"]["verdict"] == "exact"
    assert "FAILED" in (tmp_path / "run" / "report.md").read_text()


def test_other_words_than_the_models_own_are_a_failure(bench, misread):
    misread()
    outcome = bench("--limit", 1)
    assert (outcome.code, "not the target's own output: ar (reference: FAILED" in outcome.complaint) == (3, True)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--method", "pdl"], 2, "unknown method pdl (did you mean pld?)"),
        (["--method", "ar:speed=9"], 2, "method ar has no option speed: it has none"),
        (["--dataset", "mt-bensh"], 2, 'no data set or file "mt-bensh" (did you mean mt-bench?)'),
        (["--peer", "hff"], 2, "unknown peer hff (did you mean hf?)"),
        (["--method", "sps"], 2, "sps needs --draft-model"),
        (["--resume"], 2, "name it with --out"),
        (["--method", "ar as plain"], 2, "ar is the baseline of every table and keeps its name"),
        (["--method", "lookahead as pld"], 2, "two methods are called pld"),
        (["--method", "lookahead as ar"], 2, "two methods are called ar"),
        (["--method", "lookahead as hf", "--peer", "hf"], 2, "two methods are called hf"),
        (["--limit", "0"], 2, "limit must be at least 1, not 0"),
        (["--set", "limit"], 2, "--set takes key=value"),
        (["--set", "target.dtipe=fp32"], 1, "--set target.dtipe: unknown key (did you mean dtype?)"),
        (["--max-new-tokens", "400"], 1, "question 8: a prompt of"),
        (["--out", "/dev/null/run"], 1, "/dev/null/run should be a folder and is not one"),
    ],
)
def test_bad_input_is_one_clear_line(bench, words, code, part):
    outcome = bench(*words)
    assert part in outcome.complaint
    assert outcome.code == code


def test_a_malformed_line_is_named_and_keep_going_skips_and_counts(bench, questions):
    with questions.open("a") as file:
        file.write('{"turns": []}\n{"prompt": "the last"}\n')
    stopped = bench()
    assert stopped.code == 1
    assert f"{questions}:4: " in stopped.complaint
    went_on = bench("--keep-going", "--json")
    assert (went_on.code, went_on.document["prompts"]) == (0, 4)
    assert "1 malformed lines skipped" in went_on.err


def test_a_question_too_long_for_the_context(bench, questions):
    with questions.open("a") as file:
        file.write(json.dumps({"prompt": "word " * 200}) + "\n")
    stopped = bench()
    assert stopped.code == 1
    assert "question 4: the prompt has" in stopped.complaint
    assert bench("--keep-going", "--json").document["prompts"] == 3


def test_an_unknown_key_in_a_recipe(falcon, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: mt-bench\nmethds: [pld]\n")
    outcome = falcon("bench", "--recipe", recipe)
    assert (outcome.code, outcome.complaint) == (1, f"{recipe}: methds: unknown key (did you mean methods?)")
