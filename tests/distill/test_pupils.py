"""The table of those who can learn."""

from typing import get_args

import pytest

from falcon_cli.baselines.medusa import Medusa
from falcon_cli.baselines.sps import SpeculativeSampling
from falcon_cli.distill.examiner import Examiner
from falcon_cli.distill.pupils import PUPILS
from falcon_cli.drafter.propose import Falcon
from falcon_cli.recipe.distill import DistillRecipe, DraftModelRecipe, MedusaRecipe, Method, NetworkRecipe
from falcon_cli.tree.shape import TreeShape

OWN = {
    "falcon": {},
    "eagle": {"network": NetworkRecipe(k=1, mixer="linear", start="own")},
    "medusa": {"medusa": MedusaRecipe(k=3)},
    "sps": {"draft_model": DraftModelRecipe(layers=(0,))},
}
DRAFTERS = {"falcon": Falcon, "eagle": Falcon, "medusa": Medusa, "sps": SpeculativeSampling}


def test_every_method_of_a_recipe_has_its_pupil():
    assert PUPILS.keys() == set(get_args(Method)) == OWN.keys()


@pytest.fixture(params=OWN)
def room(request, classroom, monkeypatch):
    own = dict(OWN[request.param])
    if request.param != "eagle":
        return classroom(method=request.param, **own)
    network = own.pop("network")
    built = classroom()
    recipe = DistillRecipe(method="eagle", network=network, loss=built.recipe.loss, training=built.recipe.training)
    built.recipe, built.pupil = recipe, PUPILS["eagle"].of(recipe, built.target, built.samples)
    return built


def test_all_learn_are_looked_at_and_draft(room):
    pupil = room.pupil
    losses = room.trained(8)
    assert losses[-1] < losses[0]
    look = Examiner(room.target, pupil, room.lessons.lessons, room.samples, 1).look()
    assert len(look.line["top1"][0]) == pupil.k
    assert look.line["tau"] >= 0
    assert type(pupil.drafting(room.target, TreeShape.chain(pupil.k))) is DRAFTERS[room.recipe.method]


def test_the_loss_bears_on_as_many_positions_as_are_counted(room):
    """The loss is a mean: texts that say nothing of an answer would else make it small."""
    for step in range(2):
        report = room.trainer().step(step)
        numbers = room.trainer().schedule.step(step)
        bearing = sum(room.pupil.bearing(room.samples[number].answer) for number in numbers)
        assert bearing > 0
        assert 0 < report.loss < 20
