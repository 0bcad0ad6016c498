import json

import pytest

from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import load_target
from falcon_cli.tune_tree import calibration as module
from falcon_cli.tune_tree.calibration import calibrate, profile_drafters
from falcon_cli.tune_tree.entries import load_entries
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.search.probabilities import WEIGHTS


@pytest.fixture
def stage(tmp_path, chat_target, tiny_network):
    """A target, a recipe, a drafter and a folder."""
    target = load_target(TargetRecipe(model=str(chat_target), kernels="torch"))
    save_drafter(tmp_path / "k2", tiny_network(target.model.decoder, k=2, mixer="linear"), None, target, {})
    lines = [json.dumps({"prompt": f"Tell me of the number {number}."}) for number in range(9)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    dataset = str(tmp_path / "prompts.jsonl")
    recipe = TuneTreeRecipe(dataset=dataset, prompts=4, validation_prompts=2, max_new_tokens=12, passes=2, width=5)
    folder = TuningFolder(tmp_path / "run")
    folder.enter(recipe, ["falcon"], resume=False)
    return recipe, target, load_entries([tmp_path / "k2"], target), folder


def test_texts_and_profiles_follow_the_recipe(stage, monkeypatch):
    monkeypatch.setattr(module, "NEEDED", 10)
    recipe, target, entries, folder = stage
    calibration = calibrate(recipe, target, Autoregressive(target.model.device), folder)
    assert (len(calibration.texts), len(calibration.validation_prompts)) == (4, 2)
    assert not {text.prompt for text in calibration.texts} & set(calibration.validation_prompts)
    assert len(folder.answers.read_text().splitlines()) == 4
    (profile,) = profile_drafters(recipe, target, entries, calibration.texts, folder).values()
    assert (profile.k, profile.passes, profile.width) == (2, 2, 5)
    assert profile.weight in WEIGHTS
    assert [len(text.paths) for text in profile.texts] == [len(text.answer) - 1 for text in calibration.texts]
    assert max(len(path.ranks) for text in profile.texts for path in text.paths) <= 4


def test_too_few_drafts_are_refused_in_one_line(stage):
    recipe, target, entries, folder = stage
    calibration = calibrate(recipe, target, Autoregressive(target.model.device), folder)
    with pytest.raises(FalconError, match=r"gives \d+ drafts, and a stable tree takes 500: raise --prompts"):
        profile_drafters(recipe, target, entries, calibration.texts, folder)
