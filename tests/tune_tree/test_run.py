"""The whole of `falcon tune-tree` on a tiny chat model."""

import json
from dataclasses import replace

import pytest

from falcon_cli.costs.table import load_costs, save_costs
from falcon_cli.drafters.saved.checkpoint import read_config, save_drafter
from falcon_cli.drafters.saved.tuned import tuned_file
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, load_tree, save_tree
from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.report.document import document
from falcon_cli.tune_tree.run import tune_tree
from falcon_cli.tune_tree.search.search import BUILT_IN, COPIES_SO_FAR, CURRENT, DYNAMIC

ARGV = ["falcon", "tune-tree"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, chat_target, tiny_network):
    """Drafters for k = 1 and 2, twelve prompts, and a recipe that makes little work."""
    folder = tmp_path_factory.mktemp("tuning")
    target = load_target(TargetRecipe(model=str(chat_target), kernels="torch"))
    for k in (1, 2):
        network = tiny_network(target.model.decoder, seed=k, k=k, mixer="linear")
        save_drafter(folder / f"k{k}", network, None, target, {})
    lines = [json.dumps({"prompt": f"Tell me of the number {number}."}) for number in range(12)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recipe(home, place, chat_target, tmp_path, monkeypatch):
    monkeypatch.setattr("falcon_cli.tune_tree.calibration.NEEDED", 100)
    return TuneTreeRecipe(
        target=TargetRecipe(model=str(chat_target), kernels="torch"),
        drafters=(str(place / "k2"),),
        dataset=str(place / "prompts.jsonl"),
        prompts=6,
        validation_prompts=3,
        max_new_tokens=24,
        nodes=8,
        passes=2,
        contexts=(32,),
        rounds=2,
        out=str(tmp_path / "out"),
    )


def test_the_winner_is_measured_and_kept_where_auto_finds_it(recipe, place, tmp_path):
    result = tune_tree(recipe, ARGV)
    assert set(result.measured) >= {PLAIN, DYNAMIC, BUILT_IN}
    assert {one.prompts for one in result.measured.values()} == {3}
    assert document(result)["lossless"] is True
    alone = result.measured.keys() - result.search.copy_candidates.keys()
    fastest = max(alone, key=lambda name: result.measured[name].tokens_per_second)
    assert (result.winner_name or PLAIN) == fastest
    target = load_target(recipe.target)
    kept = tuned_file(read_config(place / "k2"), Setting.of(target))
    assert load_tree(kept, 2).shape == load_tree(tmp_path / "out" / "tree.json", 2).shape
    assert load_tree(kept, 2).plain == (fastest == PLAIN)
    assert load_tree(kept, 2).made_by["weights"] == "fp32"
    assert load_tree(kept, 2).copying == result.copy_policy
    assert set(result.search.copy_candidates) < set(result.measured)
    assert COPIES_SO_FAR in result.search.copy_candidates
    assert document(result)["copying"]["tokens"] == result.copy_policy.tokens


def test_what_was_measured_is_not_measured_again(recipe, monkeypatch):
    first = tune_tree(recipe, ARGV)

    def never(*_args, **_more):
        raise AssertionError("measured again")

    for name in ("verify_costs", "draft_costs", "rest_cost"):
        monkeypatch.setattr(f"falcon_cli.tune_tree.measure.cost_cache.{name}", never)
    monkeypatch.setattr("falcon_cli.tune_tree.measure.ranks.RankProbe.probe", never)
    monkeypatch.setattr("falcon_cli.tune_tree.measure.texts.complete", never)
    again = tune_tree(recipe, ARGV, resume=True)
    assert again.search.finalists == first.search.finalists
    assert {PLAIN, DYNAMIC} <= set(again.measured)


def test_after_ctrl_c_it_goes_on_where_it_was(recipe, monkeypatch, capsys):
    def stopped(*_args, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("falcon_cli.tune_tree.measure.cost_cache.verify_costs", stopped)
        with pytest.raises(KeyboardInterrupt):
            tune_tree(recipe, ARGV)
    assert "add --resume to go on" in capsys.readouterr().err
    monkeypatch.setattr("falcon_cli.tune_tree.measure.texts.complete", stopped)  # the answers are there
    assert tune_tree(recipe, ARGV, resume=True).measured


def test_k_is_chosen_among_drafters(recipe, place):
    both = replace(recipe, drafters=(str(place / "k2"), str(place / "k1")))
    result = tune_tree(both, ARGV)
    assert {one.k for one in result.search.trees} == {one.k for one in result.search.finalists} == {1, 2}
    with pytest.raises(UsageError, match="both have k = 2"):
        tune_tree(replace(recipe, drafters=(str(place / "k2"), str(place / "k2")), out=None), ARGV)


def test_a_table_of_another_machine_gives_a_tree_without_runs(recipe, place, tmp_path):
    here = tune_tree(recipe, ARGV)
    flat = {context: {1: 10.0, 9: 10.01} for context in here.search.costs.verify}
    save_costs(tmp_path / "gpu.json", replace(here.search.costs, device="another GPU", verify=flat))
    there = tune_tree(replace(recipe, cost=str(tmp_path / "gpu.json"), out=str(tmp_path / "gpu")), ARGV)
    assert there.measured == {}
    assert load_tree(tmp_path / "gpu" / "tree.json", 2).made_by["device"] == "another GPU"
    assert load_costs(tmp_path / "gpu" / "costs.json").device == "another GPU"
    most = max(one.tokens_per_cycle for one in there.search.trees)
    assert max(one.tokens_per_cycle for one in there.search.finalists) > 0.98 * most, (
        "where nodes are free, all are taken"
    )


def test_expensive_drafts_mean_plain_decoding(recipe, tmp_path):
    here = tune_tree(recipe, ARGV)
    expensive = {k: replace(one, first=1000.0) for k, one in here.search.costs.draft.items()}
    save_costs(tmp_path / "slow.json", replace(here.search.costs, device="a slow one", draft=expensive))
    there = tune_tree(replace(recipe, cost=str(tmp_path / "slow.json"), out=str(tmp_path / "slow")), ARGV)
    assert there.winner is None
    assert load_tree(tmp_path / "slow" / "tree.json", 2).plain


def test_too_little_text_says_how_much_it_takes(recipe, monkeypatch):
    monkeypatch.setattr("falcon_cli.tune_tree.calibration.NEEDED", 10_000)
    with pytest.raises(FalconError, match=r"gives \d+ drafts, and a stable tree takes 10000: raise --prompts"):
        tune_tree(recipe, ARGV)


def test_a_table_without_this_k_is_refused(recipe, tmp_path):
    here = tune_tree(recipe, ARGV)
    save_costs(tmp_path / "k4.json", replace(here.search.costs, draft={4: here.search.costs.draft[2]}))
    with pytest.raises(FalconError, match="knows drafts of k = 4, not of k = 2"):
        tune_tree(replace(recipe, cost=str(tmp_path / "k4.json"), out=None), ARGV)


def test_the_tree_so_far_runs_beside(recipe, place):
    save_tree(place / "k2" / "tree.json", StoredTree(2, TreeShape.from_paths([(3,), (4,), (5,)])))
    try:
        result = tune_tree(recipe, ARGV)
    finally:
        (place / "k2" / "tree.json").unlink()
    assert result.search.other_trees[CURRENT].shape.paths == ((3,), (4,), (5,))
    assert {CURRENT, BUILT_IN} <= set(result.measured)
