"""The table of those who can learn."""

from typing import get_args

import pytest

from falcon_cli.distill.students.table import STUDENTS
from falcon_cli.distill.training.evaluator import HeldOutEvaluator
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.medusa import Medusa
from falcon_cli.drafters.rivals.sps import SpeculativeSampling
from falcon_cli.recipe.distill import DistillRecipe, DraftModelRecipe, MedusaRecipe, NetworkRecipe, TrainableMethod
from falcon_cli.tree.shape import TreeShape

OWN = {
    "falcon": {},
    "eagle": {"network": NetworkRecipe(k=1, mixer="linear", start="own")},
    "medusa": {"medusa": MedusaRecipe(k=3)},
    "sps": {"draft_model": DraftModelRecipe(layers=(0,))},
}
DRAFTERS = {"falcon": Falcon, "eagle": Falcon, "medusa": Medusa, "sps": SpeculativeSampling}


def test_every_method_of_a_recipe_has_its_pupil():
    assert STUDENTS.keys() == set(get_args(TrainableMethod)) == OWN.keys()


@pytest.fixture(params=OWN)
def room(request, training_setup, monkeypatch):
    own = dict(OWN[request.param])
    if request.param != "eagle":
        return training_setup(method=request.param, **own)
    network = own.pop("network")
    built = training_setup()
    recipe = DistillRecipe(method="eagle", network=network, loss=built.recipe.loss, training=built.recipe.training)
    built.recipe, built.student = recipe, STUDENTS["eagle"].of(recipe, built.target, built.samples)
    return built


def test_all_learn_are_looked_at_and_draft(room):
    student = room.student
    losses = room.trained(8)
    assert losses[-1] < losses[0]
    evaluate = HeldOutEvaluator(room.target, student, room.features.texts, room.samples, 1).evaluate()
    assert len(evaluate.line["top1"][0]) == student.k
    assert evaluate.line["tau"] >= 0
    assert type(student.as_drafter(room.target, TreeShape.chain(student.k))) is DRAFTERS[room.recipe.method]


def test_the_loss_bears_on_as_many_positions_as_are_counted(room):
    """The loss is a mean: texts that say nothing of an answer would else make it small."""
    for step in range(2):
        report = room.trainer().step(step)
        numbers = room.trainer().schedule.step(step)
        loss_positions = sum(room.student.loss_positions(room.samples[number].answer) for number in numbers)
        assert loss_positions > 0
        assert 0 < report.loss < 20
