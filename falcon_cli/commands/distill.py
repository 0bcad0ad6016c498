"""`falcon distill`."""

import sys

from falcon_cli.commands import options
from falcon_cli.commands.shared import SharedOptions, with_options


@with_options(options.READING, {"set_": options.SetOption})
def distill(
    shared: SharedOptions,
    recipe: options.DistillRecipeOption,
    out: options.DistillOutOption = None,
    resume: options.DistillResumeOption = False,
    dry_run: options.DryRunOption = False,
    json: options.JsonOption = False,
    seed: options.DistillSeedOption = None,
) -> None:
    """Train a Falcon drafter for a target, from dialogues, by Coupled Sequential Glancing Distillation."""
    from falcon_cli.console import emit_json
    from falcon_cli.distill.run import distill as run
    from falcon_cli.recipe.distill import DistillRecipe

    summary = run(shared.recipe(DistillRecipe, path=recipe, out=out, seed=seed), sys.argv, resume, dry_run)
    if json:
        emit_json(summary)
