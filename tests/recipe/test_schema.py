import pytest

from falcon_cli.errors import FalconError
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe


def test_defaults_are_sane_and_survive_a_round_trip(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text(dump(BenchRecipe()))
    assert load_recipe(BenchRecipe, path) == BenchRecipe()


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("max_new_tokens", 0), ("repeats", -1), ("seed", -1)])
def test_numbers_that_make_no_sense_are_refused(name, value):
    with pytest.raises(FalconError, match=f"{name} must be at least"):
        BenchRecipe(**{name: value})


def test_a_target_needs_a_thread_and_a_bench_a_method():
    with pytest.raises(FalconError, match="threads must be at least 1"):
        TargetRecipe(threads=0)
    with pytest.raises(FalconError, match="methods is empty"):
        BenchRecipe(methods=())
