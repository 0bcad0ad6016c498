"""Groups of options belong to one place each, and every option of the target is a key of its recipe."""

from dataclasses import fields

from falcon_cli.commands import options
from falcon_cli.commands.shared import _RENAMED
from falcon_cli.recipe.schema import TargetRecipe


def test_every_option_of_the_target_is_a_key_of_its_recipe():
    keys = {_RENAMED.get(name, name) for name in options.TARGET}
    assert keys <= {field.name for field in fields(TargetRecipe)}
    assert options.READING.items() < options.TARGET.items()


def test_no_option_is_in_two_groups():
    groups = (options.TARGET, options.DRAFTING, options.RECIPE)
    assert len({name for group in groups for name in group}) == sum(map(len, groups))
