import pytest

from falcon_cli.errors import FalconError
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe


def test_defaults_are_sane_and_survive_a_round_trip(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text(dump(BenchRecipe()))
    assert load_recipe(BenchRecipe, path) == BenchRecipe()


@pytest.mark.parametrize(
    ("name", "value"), [("limit", 0), ("max_new_tokens", 0), ("repeats", -1), ("seed", -1), ("table", 0)]
)
def test_numbers_that_make_no_sense_are_refused(name, value):
    with pytest.raises(FalconError, match=f"{name} must be at least"):
        BenchRecipe(**{name: value})


def test_a_target_needs_a_thread_and_a_bench_a_method():
    with pytest.raises(FalconError, match="threads must be at least 1"):
        TargetRecipe(threads=0)
    with pytest.raises(FalconError, match="methods is empty"):
        BenchRecipe(methods=())


def test_a_bench_has_one_data_set_or_several_and_a_table_of_the_paper():
    assert BenchRecipe(datasets=("gsm8k", "mt-bench"), table=5).dataset == "mt-bench"
    with pytest.raises(FalconError, match="dataset and datasets: a recipe has one of them"):
        BenchRecipe(dataset="gsm8k", datasets=("mt-bench",))
    with pytest.raises(FalconError, match="table must be at most 5, the paper's last, not 6"):
        BenchRecipe(table=6)
