"""`falcon tune-tree` on the command line."""

import json

import pytest

from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target

LITTLE = ("--kernels", "torch", "--prompts", "6", "--max-new-tokens", "24", "--nodes", "6")
LESS = [word for key in ("validation_prompts=3", "rounds=2", "contexts=[32]", "passes=2") for word in ("--set", key)]


@pytest.fixture
def drafter(tmp_path, chat_target, tiny_network):
    target = load_target(TargetRecipe(model=str(chat_target), kernels="torch"))
    save_drafter(tmp_path / "k2", tiny_network(target.model.decoder, k=2, mixer="linear"), None, target, {})
    return tmp_path / "k2"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Tell me of the number {number}."}) + "\n" for number in range(9)))
    return path


@pytest.fixture(autouse=True)
def _little_text(monkeypatch):
    monkeypatch.setattr("falcon_cli.tune_tree.calibration.NEEDED", 50)


def test_tables_pictures_and_one_json_document(falcon, chat_target, drafter, prompts, tmp_path):
    words = ("tune-tree", "--target", chat_target, "--drafter", drafter, "--dataset", prompts, "--out", tmp_path / "o")
    outcome = falcon(*words, *LITTLE, *LESS, "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert {"winner", "finalists", "cost"} <= document.keys()
    wanted = {"nodes", "passes", "k"} | {
        f"{kind}_tokens_per_{unit}" for kind in ("predicted", "measured") for unit in ("second", "cycle")
    }
    assert all(wanted <= one.keys() for one in document["finalists"])
    assert document["lossless"] is True
    assert "run for real, interleaved, on 3 other prompts" in outcome.err
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert {"report.md", "results.json", "tree.json", "tree.svg", "tree.png", "ranks.png", "speed.png"} <= names
    assert "already holds a run: add --resume" in falcon(*words, *LITTLE, *LESS).complaint
    again = falcon(
        *(
            "generate",
            "Hello",
            "--target",
            chat_target,
            "--drafter",
            drafter,
            "--kernels",
            "torch",
            "--max-new-tokens",
            4,
        )
    )
    assert again.code == 0, "what was tuned serves generate"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--drafter", "nowhere"), "no drafter at nowhere"),
        (("--cost", "nowhere.json"), "cannot read the cost table nowhere.json"),
        (("--prompts", "1"), "prompts must be at least 2"),
        (("--seed", "1", "--resume"), "--resume goes on with the tuning in a folder: name it with --out"),
        (("--dataset", "nowhere"), 'no data set or file "nowhere"'),
    ],
)
def test_what_cannot_be_used_is_one_line(falcon, chat_target, drafter, prompts, words, complaint):
    given = {"--drafter": drafter, "--dataset": prompts, **dict([words[:2]])}
    line = [*(word for pair in given.items() for word in pair), *words[2:]]
    outcome = falcon("tune-tree", "--target", chat_target, "--kernels", "torch", *line)
    assert outcome.code in (1, 2)
    assert complaint in outcome.complaint


def test_without_any_drafter_it_says_what_is_missing(falcon, chat_target):
    outcome = falcon("tune-tree", "--target", chat_target)
    assert "needs --drafter" in outcome.complaint
    assert outcome.code == 2
