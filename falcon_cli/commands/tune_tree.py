"""`falcon tune-tree`."""

import sys

from falcon_cli.commands import options
from falcon_cli.commands.shared import SharedOptions, with_options


@with_options(options.TARGET, options.TEMPLATE, options.RECIPE)
def tune_tree(
    shared: SharedOptions,
    drafter: options.DraftersOption = None,
    dataset: options.TuneDatasetOption = None,
    prompts: options.PromptsOption = None,
    max_new_tokens: options.TuneTokensOption = None,
    nodes: options.NodesOption = None,
    cost: options.CostOption = None,
    quick: options.QuickOption = False,
    out: options.TuneOutOption = None,
    resume: options.TuneResumeOption = False,
    json: options.JsonOption = False,
    seed: options.TuneSeedOption = None,
) -> None:
    """Find the tree, and the k, that give most tokens a second with this drafter on this machine, and validate it."""
    from falcon_cli.console import emit_json, say, show
    from falcon_cli.errors import UsageError
    from falcon_cli.recipe.tune import QUICK, TuneTreeRecipe
    from falcon_cli.tune_tree.report.document import document
    from falcon_cli.tune_tree.report.report import tables, verdict, write
    from falcon_cli.tune_tree.run import tune_tree as run

    recipe = shared.recipe(
        TuneTreeRecipe,
        settings=QUICK if quick else (),
        drafters=drafter,
        dataset=dataset,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        nodes=nodes,
        cost=cost,
        out=out,
        seed=seed,
    )
    if resume and recipe.out is None:
        raise UsageError("--resume goes on with the tuning in a folder: name it with --out")
    tuning = run(recipe, sys.argv, resume)
    for table in tables(tuning):
        show(table)
    say(verdict(tuning))
    write(tuning)
    if json:
        emit_json(document(tuning))
