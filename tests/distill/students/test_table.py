"""The table of students."""

from typing import get_args

import pytest

from falcon_cli.distill.students.table import STUDENTS
from falcon_cli.distill.training.evaluator import HeldOutEvaluator
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.medusa import Medusa
from falcon_cli.drafters.rivals.sps import SpeculativeSampling
from falcon_cli.recipe.distill import DistillRecipe, DraftModelRecipe, MedusaRecipe, NetworkRecipe, TrainableMethod
from falcon_cli.tree.shape import TreeShape

RECIPES = {
    "falcon": {},
    "eagle": {"network": NetworkRecipe(k=1, mixer="linear", start="own")},
    "medusa": {"medusa": MedusaRecipe(k=3)},
    "sps": {"draft_model": DraftModelRecipe(layers=(0,))},
}
DRAFTERS = {"falcon": Falcon, "eagle": Falcon, "medusa": Medusa, "sps": SpeculativeSampling}


def test_every_method_of_a_recipe_has_its_student():
    assert STUDENTS.keys() == set(get_args(TrainableMethod)) == RECIPES.keys()


@pytest.fixture(params=RECIPES)
def setup(request, training_setup, monkeypatch):
    changes = dict(RECIPES[request.param])
    if request.param != "eagle":
        return training_setup(method=request.param, **changes)
    network = changes.pop("network")
    built = training_setup()
    recipe = DistillRecipe(method="eagle", network=network, loss=built.recipe.loss, training=built.recipe.training)
    built.recipe, built.student = recipe, STUDENTS["eagle"].of(recipe, built.target, built.samples)
    return built


def test_all_learn_are_evaluated_and_draft(setup):
    student = setup.student
    losses = setup.trained(8)
    assert losses[-1] < losses[0]
    result = HeldOutEvaluator(setup.target, student, setup.features.texts, setup.samples, 1).evaluate()
    assert len(result.line["top1"][0]) == student.k
    assert result.line["tau"] >= 0
    assert type(student.as_drafter(setup.target, TreeShape.chain(student.k))) is DRAFTERS[setup.recipe.method]


def test_the_loss_bears_on_as_many_positions_as_are_counted(setup):
    """The loss is a mean: texts that say nothing of an answer would else make it small."""
    for step in range(2):
        report = setup.trainer().step(step)
        numbers = setup.trainer().schedule.step(step)
        loss_positions = sum(setup.student.loss_positions(setup.samples[number].answer) for number in numbers)
        assert loss_positions > 0
        assert 0 < report.loss < 20
