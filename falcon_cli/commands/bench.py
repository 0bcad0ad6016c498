"""`falcon bench`."""

import sys
from typing import Any

from falcon_cli.commands import options
from falcon_cli.commands.compare import compare as compare_answers
from falcon_cli.commands.shared import SharedOptions, with_options


@with_options(options.TARGET, options.DRAFTING, options.RECIPE)
def bench(
    shared: SharedOptions,
    dataset: options.DatasetOption = None,
    method: options.MethodsOption = None,
    peer: options.PeersOption = None,
    limit: options.LimitOption = None,
    repeats: options.RepeatsOption = None,
    seed: options.SeedOption = None,
    max_new_tokens: options.MaxNewTokensOption = None,
    out: options.OutOption = None,
    resume: options.ResumeOption = False,
    compare: options.CompareOption = None,
    json: options.JsonOption = False,
    keep_going: options.KeepGoingOption = None,
) -> None:
    """Time methods against plain decoding on real prompts, and certify that their output is the target's own."""
    measured: dict[str, Any] = {"limit": limit, "repeats": repeats, "seed": seed, "max_new_tokens": max_new_tokens}
    if compare:
        unused = {"dataset": dataset, "method": method, "peer": peer, **measured, "resume": resume}
        compare_answers(compare, shared, {**unused, "keep_going": keep_going}, out, json)
        return
    from falcon_cli.bench.suite import run
    from falcon_cli.console import emit_json
    from falcon_cli.errors import LossyOutputError, UsageError
    from falcon_cli.recipe.schema import BenchRecipe

    if resume and out is None:
        raise UsageError("--resume goes on with the run in a folder: name it with --out")
    datasets = () if dataset else None
    recipe = shared.recipe(
        BenchRecipe,
        dataset=dataset,
        datasets=datasets,
        methods=method,
        peers=peer,
        keep_going=keep_going,
        **measured,
    )
    result = run(recipe, sys.argv, out, resume)
    if json:
        emit_json(result.document)
    if failed := result.failed_methods():
        raise LossyOutputError(f"not the target's own output: {', '.join(failed)}; --out keeps every divergence")
