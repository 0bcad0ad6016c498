"""`falcon distill`."""

import sys

from falcon_cli.commands import options


def distill(
    recipe: options.DistillRecipe,
    out: options.DistillOut = None,
    resume: options.DistillResume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    seed: options.DistillSeed = None,
    target: options.Target = None,
    dtype: options.DType = None,
    device: options.Device = None,
    attention: options.Attention = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = None,
    set_: options.Set = None,
) -> None:
    """Train a Falcon drafter for a target, from dialogues, by Coupled Sequential Glancing Distillation."""
    apart = ("recipe", "set_", "resume", "dry_run", "json")
    given = {name: value for name, value in locals().items() if name not in apart}
    from json import dumps

    from falcon_cli.console import emit
    from falcon_cli.distill.run import distill as run
    from falcon_cli.recipe.distill import DistillRecipe
    from falcon_cli.recipe.load import load_recipe

    plan = options.override(load_recipe(DistillRecipe, recipe, set_ or []), **given)
    summary = run(plan, sys.argv, resume, dry_run)
    if json:
        emit(dumps(summary, allow_nan=False))
