"""The table of those who can learn: a recipe's method → its pupil."""

from collections.abc import Sequence

from falcon_cli.distill.draft_model import DraftModelPupil
from falcon_cli.distill.falcon import FalconPupil
from falcon_cli.distill.medusa import MedusaPupil
from falcon_cli.distill.pupil import Pupil
from falcon_cli.distill.sample import Sample
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

PUPILS: dict[str, type[FalconPupil] | type[MedusaPupil] | type[DraftModelPupil]] = {
    "falcon": FalconPupil,
    "eagle": FalconPupil,
    "medusa": MedusaPupil,
    "sps": DraftModelPupil,
}


def pupil_of(recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> Pupil:
    """Who is to learn by a recipe.

    Raises:
        FalconError: What the recipe starts from does not fit the target.
    """
    return PUPILS[recipe.method].of(recipe, target, train)
