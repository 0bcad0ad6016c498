"""`falcon distill` from dialogues to a benchmarked drafter on a tiny target, and what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from falcon_cli.distill.training.log import read_log

SMALL = [
    "corpus.held_out=2",
    "corpus.min_answer_tokens=4",
    "corpus.exclude=[]",
    "network.draft_vocab_size=64",
    "training.steps=6",
    "training.batch_tokens=256",
    "training.learning_rate=0.01",
    "training.measure_steps=6",
    "training.decode_prompts=1",
    "cache.shard_tokens=200",
]
COLOURS = ("red", "green", "blue", "grey", "black", "white", "pink", "gold", "brown", "teal")


@pytest.fixture
def dialogues(tmp_path) -> Path:
    """Ten dialogues, some of two turns."""
    path = tmp_path / "dialogues.jsonl"
    lines = []
    for number, colour in enumerate(COLOURS):
        said = ["Name a colour, and say why.", f"It is {colour}, the colour of thing {number}, in the end."]
        said += ["And another one?", f"Then {COLOURS[-number]} in the thing."] * (number % 2)
        roles = ("user", "assistant")
        lines.append(
            {"id": colour, "messages": [{"role": roles[n % 2], "content": w + " " * n} for n, w in enumerate(said)]}
        )
        lines[-1]["messages"][0]["content"] += f" ({number})"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def recipe(tmp_path) -> Path:
    """An empty recipe: all that matters is set on the command line."""
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 0\n")
    return path


@pytest.fixture
def words(home, chat_target, dialogues, recipe, tmp_path):
    """The words of a small run: `words("answers=target")`."""

    def build(*settings, out="run"):
        every = [*SMALL, f"corpus.sources=[{dialogues}]", *settings]
        return [
            "distill",
            recipe,
            "--target",
            chat_target,
            "--out",
            tmp_path / out,
            *(w for s in every for w in ("--set", s)),
        ]

    return build


@pytest.mark.parametrize("settings", [(), ("answers=target", "generation.max_new_tokens=12"), ("features=online",)])
def test_from_dialogues_to_a_drafter_that_is_benchmarked_exact(
    falcon, words, tmp_path, chat_target, questions, settings
):
    done = falcon(*words(*settings), "--json")
    assert done.code == 0, done.err
    summary = done.document
    assert summary["steps"] == 6
    assert summary["peak_memory_bytes"] > 1e8
    assert len(summary["held_out"]["top1"]) == 4
    run = tmp_path / "run"
    kept = {path.name for path in run.iterdir()}
    assert {
        "recipe.yaml",
        "provenance.json",
        "metrics.jsonl",
        "held_out.jsonl",
        "curves.png",
        "state",
        "drafter",
    } <= kept
    assert ("features" in kept) == ("features=online" not in settings)
    assert ("answers.jsonl" in kept) == ("answers=target" in settings)
    assert {path.name for path in (run / "drafter").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "tree.json",
    }
    assert "falcon distill recipe.yaml" in (run / "drafter" / "README.md").read_text()
    bench = falcon("bench", "--target", chat_target, "--dataset", questions, "--method", "falcon", "--drafter",
                   run / "drafter", "--max-new-tokens", 8, "--json")  # fmt: skip
    assert bench.code == 0, bench.err
    assert bench.document["methods"]["falcon"]["lossless"]["verdict"] == "exact"


def test_the_screen_tells_the_corpus_the_plan_and_what_came_of_it(falcon, words):
    done = falcon(*words())
    corpus = ("10 dialogues read: 10 used", "8 texts with", "2 held out", "plan: ", "covers", "features: ")
    training = ("held-out top-1", "tokens per cycle", "peak memory", "the drafter is in")
    for told in (*corpus, *training):
        assert told in done.err
    assert done.out == ""


def test_a_dry_run_plans_and_writes_nothing(falcon, words, tmp_path):
    done = falcon(*words("answers=target"), "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = done.document
    assert plan["texts"] == 8
    assert plan["steps"] == 6
    assert plan["disk_gb"] > 0
    assert plan["training_hours"] > 0
    assert "prompts to be answered" in done.err
    assert "k = 2; a LlamaDecoderLayer 32 wide, 4 heads of 8, 2 kv heads, MLP 48 wide" in done.err
    assert "LlamaRMSNorm undone: features divided by its weight; logits as its LM head gives them" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_family_that_cannot_be_distilled_is_refused_before_anything_is_read_or_written(
    falcon, words, tmp_path, monkeypatch, more
):
    from transformers import LlamaForCausalLM

    own = LlamaForCausalLM.forward

    def forward(self, *rest, **given):
        output = own(self, *rest, **given)
        output.logits = output.logits.roll(1, -1)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    done = falcon(*words("corpus.sources=[nowhere.jsonl]"), *more)
    assert done.code == 1
    assert "a LlamaForCausalLM cannot be distilled by method falcon: its class makes logits" in done.complaint
    assert not (tmp_path / "run").exists()


def test_a_finished_run_resumes_to_nothing_and_a_changed_one_is_refused(falcon, words):
    first = falcon(*words(), "--json")
    assert falcon(*words()).complaint.endswith("add --resume to go on with it, or name another --out")
    again = falcon(*words(), "--resume", "--json")
    assert again.document["held_out"] == first.document["held_out"]
    changed = falcon(*words("network.k=3", "noise=0.2"), "--resume")
    assert changed.code == 2
    assert "network.k, noise changed" in changed.complaint


def test_lora_adapts_the_drafter_that_came_of_it(falcon, words, tmp_path):
    assert falcon(*words()).code == 0
    drafter = tmp_path / "run" / "drafter"
    done = falcon(*words(f"init_from={drafter}", "lora={rank: 2}", out="adapted"))
    assert done.code == 0, done.err
    before, after = (load_file(path / "model.safetensors") for path in (drafter, tmp_path / "adapted" / "drafter"))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before if "proj" in name)
    assert all((before[name] == after[name]).all() for name in before if "norm" in name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("corpus.min_answer_tokens=999",),
            "nothing is left to train on (10 dialogues read: 0 used, 10 left out (10 with too short an answer))",
        ),
        (("corpus.sources=[none.jsonl]",), "no such file: none.jsonl"),
        (("network.draft_vocab_size=99999",), "network.draft_vocab_size is 99999"),
        (("cache.max_gb=0.00001",), "cache.max_gb allows 1e-05: raise it"),
        (("init_from=nowhere",), "no drafter at nowhere"),
        (("csdg=false",), "did you mean csgd"),
        (("target.adapter=nowhere",), "adapter nowhere does not fit this target"),
    ],
)
def test_bad_input_is_one_clear_line(falcon, words, settings, message):
    done = falcon(*words(*settings))
    assert done.code == 1
    assert message in done.complaint


def test_a_corpus_with_other_fields_is_named_with_its_line(falcon, words, dialogues):
    dialogues.write_text(dialogues.read_text() + '{"text": "x"}\n')
    assert 'dialogues.jsonl:11: it has the fields "text"' in falcon(*words()).complaint


def test_an_empty_corpus_is_named(falcon, words, dialogues):
    dialogues.write_text("")
    assert "its sources are empty" in falcon(*words()).complaint


def test_a_truncated_shard_is_named_and_made_anew(falcon, words, tmp_path):
    falcon(*words())
    run = tmp_path / "run"
    shard = sorted((run / "features").glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    again = falcon(*words(), "--resume")
    assert again.code == 0
    assert f"{shard.name} is damaged or cut short: it is computed again" in again.err
    assert shard.read_bytes() == whole


def test_a_truncated_drafter_is_refused(falcon, words, tmp_path, chat_target):
    falcon(*words())
    weights = tmp_path / "run" / "drafter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = falcon("generate", "--target", chat_target, "--drafter", weights.parent, "--method", "falcon", "hello")
    assert done.code == 1
    assert "cut short, damaged" in done.complaint


def launch(words, **more):
    """Start a run of two threads, with more in its environment, so that its memory lies elsewhere."""
    command = [sys.executable, "-m", "falcon_cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **more}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)


def wait_for_steps(run, process, count):
    while len(read_log(run / "metrics.jsonl")) < count:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_killed_or_stopped_by_ctrl_c_a_run_goes_on_to_the_same_losses(words, tmp_path, blow, code):
    long = ("training.steps=14", "training.save_minutes=0.0001", "training.measure_steps=14")
    process = launch(words(*long))
    wait_for_steps(tmp_path / "run", process, 5)
    process.send_signal(blow)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == code, error
    if blow == signal.SIGINT:
        assert "add --resume to go on" in error
        assert "falcon: stopped by Ctrl-C" in error
    for more, out in (["--resume"], "run"), ([], "straight"):
        process = launch([*words(*long, out=out), *more], PADDING="x" * len(out) * 999)
        assert process.wait(timeout=120) == 0, process.stderr.read().decode()
    losses = [
        [(line["step"], line["loss"]) for line in read_log(tmp_path / out / "metrics.jsonl")]
        for out in ("run", "straight")
    ]
    assert len(losses[0]) == 14
    assert losses[0] == losses[1]


def test_two_processes_train_as_one(words, tmp_path):
    """The same global batches: the same losses within rounding."""
    settings = ("training.steps=4", "answers=target", "generation.max_new_tokens=10")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29531", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = {}
    for out, before in (("two", command), ("one", [sys.executable, "-m"])):
        line = [*before, "falcon_cli", *map(str, words(*settings, out=out))]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        told[out] = done.stderr
    losses = {out: [line["loss"] for line in read_log(tmp_path / out / "metrics.jsonl")] for out in told}
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4)
    assert told["two"].count("corpus: ") == 1  # only the first process speaks
    assert (tmp_path / "two" / "answers.1.jsonl").is_file()


def test_a_target_spread_over_processes_teaches_the_same(words, tmp_path):
    """FSDP for the target's forward, as accelerate's own configuration asks for it."""
    settings = ("training.steps=3", "training.decode_prompts=0", "cache.shard_tokens=120")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29532", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for out, own in (("whole", {}), ("spread", {"ACCELERATE_USE_FSDP": "true"})):
        line = [*command, "falcon_cli", *map(str, words(*settings, out=out))]
        done = subprocess.run(line, capture_output=True, text=True, env=environment | own, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    whole, spread = (
        [line["loss"] for line in read_log(tmp_path / out / "metrics.jsonl")] for out in ("whole", "spread")
    )
    assert spread == pytest.approx(whole, rel=1e-5)
    line = [*command, "falcon_cli", *map(str, words("answers=target", out="refused"))]
    spread_too = environment | {"ACCELERATE_USE_FSDP": "true"}
    done = subprocess.run(line, capture_output=True, text=True, env=spread_too, timeout=240, check=False)
    assert "(FSDP) only reads texts: set answers: dataset, training.decode_prompts: 0" in done.stderr
