"""The table of students: a recipe's method → its class."""

from collections.abc import Sequence

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.students.draft_model import DraftModelStudent
from falcon_cli.distill.students.falcon import FalconStudent
from falcon_cli.distill.students.medusa import MedusaStudent
from falcon_cli.distill.students.student import Student
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

STUDENTS: dict[str, type[FalconStudent] | type[MedusaStudent] | type[DraftModelStudent]] = {
    "falcon": FalconStudent,
    "eagle": FalconStudent,
    "medusa": MedusaStudent,
    "sps": DraftModelStudent,
}


def make_student(recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> Student:
    """Build the student of a recipe.

    Raises:
        FalconError: What the recipe starts from does not fit the target.
    """
    return STUDENTS[recipe.method].of(recipe, target, train)
