import json
from dataclasses import replace

import pytest

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.ranks import RankProbe
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt, GreedyText

ARGV = ("falcon", "tune-tree", "--quick")


@pytest.fixture(autouse=True)
def _own_home(home):
    """Tuning folders lie in a home of the test's own."""


def opened(recipe, drafters=("abc",), setting="a machine", resume=False):
    return TuningFolder.open(recipe, ARGV, drafters, setting, resume)


def test_the_same_tuning_goes_on(tmp_path):
    recipe = TuneTreeRecipe(out=str(tmp_path / "here"), nodes=5)
    folder = opened(recipe)
    assert folder.path == tmp_path / "here"
    assert load_recipe(TuneTreeRecipe, folder.path / "recipe.yaml") == recipe
    provenance = (folder.path / "provenance.json").read_text()
    assert json.loads(provenance)["command"] == list(ARGV)
    folder.answers.write_text("an answer\n")
    with pytest.raises(UsageError, match=r"here already holds a run: add --resume to go on with it"):
        opened(recipe)
    assert TuningFolder.open(recipe, ["falcon", "again"], ["abc"], "a machine", resume=True) == folder
    assert folder.answers.read_text() == "an answer\n"
    assert (folder.path / "provenance.json").read_text() == provenance


@pytest.mark.parametrize(
    "change",
    [{"nodes": 6}, {"cost": "measure"}, {"seed": 1}, {"drafters": ["abd"]}, {"setting": "another machine"}],
    ids=lambda change: next(iter(change)),
)
def test_another_tuning_is_refused_in_the_same_folder_and_has_its_own_in_the_cache(tmp_path, home, change):
    recipe, words = TuneTreeRecipe(out=str(tmp_path / "here")), {"drafters": ["abc"], "setting": "a machine"}
    changed = replace(recipe, **{name: value for name, value in change.items() if name not in words})
    other = {name: change.get(name, value) for name, value in words.items()}
    opened(recipe)
    complaint = r"here holds (another tuning: name another --out, or remove it|a run with other settings \(\w+ changed)"
    with pytest.raises(UsageError, match=complaint):
        opened(changed, **other, resume=True)
    mine, theirs = opened(replace(recipe, out=None)), opened(replace(changed, out=None), **other)
    assert mine.path.parent == theirs.path.parent == home / "tuning"
    assert mine != theirs
    assert opened(replace(recipe, out=None)) == mine


def test_a_folder_that_was_begun_and_killed_is_begun_again(tmp_path):
    recipe = TuneTreeRecipe(out=str(tmp_path / "here"))
    opened(recipe)
    (tmp_path / "here" / "key").unlink()
    assert opened(recipe).path.joinpath("key").is_file()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FalconError, match="file"):
        opened(TuneTreeRecipe(out=str(tmp_path / "file")))


class NotingProbe(RankProbe):
    """Notes the texts that it probes."""

    def probe(self, target, prompt, answer):
        self.seen = [*getattr(self, "seen", []), tuple(answer)]
        return super().probe(target, prompt, answer)


@pytest.fixture
def probing(tiny_model, tiny_network, tmp_path):
    """A target, a maker of probes and three greedy texts."""
    target = TargetModel(tiny_model("llama-gqa", seed=1))
    drafter = Falcon(tiny_network(target.decoder, seed=5, k=2, mixer="linear"), target, TreeShape.chain(2))
    prompts = [CalibrationPrompt(name, (3, 14, place)) for place, name in enumerate("abc")]
    texts = [GreedyText(one, tuple(complete(target, drafter, list(one.ids), Stop((), 20)).ids)) for one in prompts]
    return target, (lambda depth=4, width=48: NotingProbe(drafter, depth, width)), texts


def test_no_text_is_probed_twice_and_what_is_read_is_what_was_seen(probing, tmp_path):
    target, probe, texts = probing
    folder, first, second = TuningFolder(tmp_path), probe(), probe()
    ticks = []
    early = folder.ranked("abc", first, texts[:2], target, lambda: ticks.append(1))
    with (tmp_path / "ranks-abc.jsonl").open("a") as file:
        file.write('{"text": "')  # a kill in mid-write
    found = folder.ranked("abc", second, texts, target, lambda: ticks.append(1))
    assert first.seen == [text.answer for text in texts[:2]]
    assert second.seen == [texts[2].answer]
    assert found[:2] == early
    assert found == tuple(probe().probe(target, text.prompt.ids, text.answer) for text in texts)
    assert not all(path.complete for text in found for path in text.paths)
    assert any(path.ranks for text in found for path in text.paths)
    assert len(ticks) == 5


def test_another_depth_width_or_drafter_is_probed_again(probing, tmp_path):
    target, probe, texts = probing
    folder = TuningFolder(tmp_path)
    folder.ranked("abc", probe(), texts, target, lambda: None)
    for name, other in (("abc", probe(depth=2)), ("abc", probe(width=5)), ("abd", probe())):
        folder.ranked(name, other, texts, target, lambda: None)
        assert len(other.seen) == 3


def test_other_contenders_have_another_log(tmp_path):
    folder, tree, other = TuningFolder(tmp_path), TreeShape.chain(2), TreeShape.chain(3)
    log = folder.validation({"a": tree, "b": other})
    assert log == folder.validation({"b": other, "a": tree})
    assert log.name.startswith("validation-")
    assert log != folder.validation({"a": other, "b": tree})
