"""`falcon tune-tree`."""

import sys

from falcon_cli.commands import options


def tune_tree(
    drafter: options.Drafters = None,
    dataset: options.TuneDataset = None,
    prompts: options.Prompts = None,
    max_new_tokens: options.TuneTokens = None,
    nodes: options.Nodes = None,
    cost: options.Cost = None,
    quick: options.Quick = False,
    out: options.TuneOut = None,
    json: options.Json = False,
    seed: options.TuneSeed = None,
    target: options.Target = None,
    dtype: options.DType = None,
    device: options.Device = None,
    attention: options.Attention = None,
    kernels: options.Kernels = None,
    quantize: options.Quantize = None,
    compile_: options.Compile = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = None,
    template: options.Template = None,
    recipe: options.RecipeFile = None,
    set_: options.Set = None,
) -> None:
    """Find the tree, and the k, that give most tokens a second with this drafter on this machine, and prove it."""
    given = {name: value for name, value in locals().items() if name not in ("recipe", "set_", "quick", "json")}
    from falcon_cli.console import emit, say, show
    from falcon_cli.recipe.load import load_recipe
    from falcon_cli.recipe.tune import QUICK, TuneTreeRecipe
    from falcon_cli.tune_tree.report.document import to_json_line
    from falcon_cli.tune_tree.report.report import tables, verdict, write
    from falcon_cli.tune_tree.run import tune_tree as run

    given |= {"drafters": given.pop("drafter")}
    said = [*(QUICK if quick else ()), *(set_ or [])]
    plan = options.override(load_recipe(TuneTreeRecipe, recipe, said), **given)
    tuning = run(plan, sys.argv)
    for table in tables(tuning):
        show(table)
    say(verdict(tuning))
    write(tuning)
    if json:
        emit(to_json_line(tuning))
