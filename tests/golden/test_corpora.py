"""Dialogues in the forms that people keep them in: a dry run counts each of a file's ten."""

from pathlib import Path

import pytest

from falcon_cli.distill.run import distill
from falcon_cli.recipe.distill import CorpusRecipe, DistillRecipe, NetworkRecipe, TrainingRecipe
from falcon_cli.recipe.schema import TargetRecipe

CORPORA = Path(__file__).with_name("corpora")
UNKNOWN = "which the template does not know"
FORMS = {
    ("sharegpt.json", "chatml"): (
        {f"at a function call, {UNKNOWN}": 1, "without a user's word": 1, "doubled": 1, "at a turn without words": 1},
        {"before its first question": 1, "at a question without an answer": 1, f"at the role critic, {UNKNOWN}": 1},
    ),
    ("sharegpt.json", "tools"): (
        {"without a user's word": 1, "doubled": 1, "at a turn without words": 1},
        {"before its first question": 1, "at a question without an answer": 1, f"at the role critic, {UNKNOWN}": 1},
    ),
    ("openai_chat.jsonl", "chatml"): (
        {
            "at a part of the type image_url": 1,
            "doubled": 1,
            "at a message without words": 1,
            "without a user's word": 1,
        },
        {"at a part of the type input_audio": 1, "at a turn without words": 1},
    ),
    ("tool_calls.jsonl", "chatml"): (
        {f"at a function call, {UNKNOWN}": 6, "at tools that are no list of functions": 1},
        {f"without its tools, {UNKNOWN}": 2, f"at the role environment, {UNKNOWN}": 1},
    ),
    ("tool_calls.jsonl", "tools"): (
        {"at tools that are no list of functions": 1},
        {f"at the role environment, {UNKNOWN}": 1},
    ),
    ("hub_rows.parquet", "chatml"): (
        {"doubled": 1, "at a turn without words": 1, "without a user's word": 1},
        {"before its first question": 1, f"at the role tool, {UNKNOWN}": 1},
    ),
}
"""A file and a template → the dialogues left out, and those cut, by reason."""


@pytest.mark.parametrize(("name", "template"), FORMS, ids=" ".join)
def test_a_dry_run_counts_every_dialogue(chat_target, template_file, tmp_path, capsys, name, template):
    path = CORPORA / name
    if path.suffix == ".parquet":
        from datasets import load_dataset

        path = tmp_path / name
        rows = load_dataset("json", data_files=str(CORPORA / "hub_rows.jsonl"), split="train", cache_dir=str(tmp_path))
        rows.to_parquet(str(path))
    corpus = CorpusRecipe(
        sources=(str(path),),
        template=str(template_file(template)),
        held_out=1,
        min_answer_tokens=4,
        max_prompt_tokens=2000,
        drop_loops=False,
        exclude=(),
    )
    recipe = DistillRecipe(
        target=TargetRecipe(str(chat_target), kernels="torch"),
        corpus=corpus,
        network=NetworkRecipe(draft_vocab_size=64),
        training=TrainingRecipe(steps=2, batch_tokens=256),
    )
    tally = distill(recipe, ["falcon"], dry_run=True)["corpus"]
    left_out, cut = FORMS[name, template]
    assert (tally["left_out"], tally["cut"]) == (left_out, cut)
    assert tally["read"] == 10 == tally["used"] + sum(left_out.values())
    told = capsys.readouterr().err
    assert f"10 dialogues read: {tally['used']} used, {sum(left_out.values())} left out (" in told
    assert all(f"{number} {reason}" in told for reason, number in (left_out | cut).items())
