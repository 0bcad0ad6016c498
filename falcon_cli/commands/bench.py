"""`falcon bench`."""

import sys

from falcon_cli.commands import options
from falcon_cli.commands.compare import compare as compare_answers

_NOT_OF_RECIPES = ("recipe", "set_", "out", "resume", "compare", "json")


def bench(
    dataset: options.Dataset = None,
    method: options.Methods = None,
    peer: options.Peers = None,
    limit: options.Limit = None,
    repeats: options.Repeats = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = None,
    out: options.Out = None,
    resume: options.Resume = False,
    compare: options.Compare = None,
    json: options.Json = False,
    keep_going: options.KeepGoing = None,
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
    draft_model: options.DraftModel = None,
    drafter: options.DrafterFolder = None,
    tree: options.Tree = None,
    template: options.Template = None,
    recipe: options.RecipeFile = None,
    set_: options.Set = None,
) -> None:
    """Time methods against plain decoding on real prompts, and certify that their output is the target's own."""
    given = {name: value for name, value in locals().items() if name not in _NOT_OF_RECIPES}
    if compare:
        compare_answers(compare, {**given, "resume": resume}, recipe, set_, out, json)
        return
    from falcon_cli.bench.suite import run
    from falcon_cli.console import emit
    from falcon_cli.errors import LossyOutputError, UsageError
    from falcon_cli.recipe.load import load_recipe
    from falcon_cli.recipe.schema import BenchRecipe

    if resume and out is None:
        raise UsageError("--resume goes on with the run in a folder: name it with --out")
    given |= {"methods": given.pop("method"), "peers": given.pop("peer"), "datasets": () if dataset else None}
    plan = options.override(load_recipe(BenchRecipe, recipe, set_ or []), **given)
    outcome = run(plan, sys.argv, out, resume)
    if json:
        emit(outcome.to_json_line())
    if failed := outcome.failed_methods():
        raise LossyOutputError(f"not the target's own output: {', '.join(failed)}; --out keeps every divergence")
