"""`falcon bench`."""

import sys

from falcon_cli.commands import options


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
    given = {name: value for name, value in locals().items() if name not in ("recipe", "set_", "out", "resume", "json")}
    from falcon_cli.bench import run
    from falcon_cli.bench.table import table
    from falcon_cli.console import emit, say, show
    from falcon_cli.errors import LossyOutputError, UsageError
    from falcon_cli.recipe.load import load_recipe
    from falcon_cli.recipe.schema import BenchRecipe

    if resume and out is None:
        raise UsageError("--resume goes on with the run in a folder: name it with --out")
    given |= {"methods": given.pop("method"), "peers": given.pop("peer")}
    plan = options.override(load_recipe(BenchRecipe, recipe, set_ or []), **given)
    results = run.bench(plan, sys.argv, out, resume)
    show(table(results))
    if out:
        say(f"wrote {out}/report.md, results.json, speedup.png and answers/")
    if json:
        emit(run.to_json_line(results))
    if failed := run.failed_methods(results):
        raise LossyOutputError(f"not the target's own output: {', '.join(failed)}; --out keeps every divergence")
