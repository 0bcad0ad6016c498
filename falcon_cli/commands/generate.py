"""`falcon generate`."""

from falcon_cli.commands import options
from falcon_cli.commands.shared import SharedOptions, with_options


@with_options(options.TARGET, options.DRAFTING, options.RECIPE)
def generate(
    shared: SharedOptions,
    prompt: options.PromptOption = None,
    method: options.MethodOption = None,
    max_new_tokens: options.MaxNewTokensOption = None,
    system: options.SystemOption = None,
    raw: options.RawOption = None,
    stop: options.StopOption = None,
    stream: options.StreamOption = None,
    show_draft: options.ShowDraftOption = False,
    check: options.CheckOption = False,
    jsonl: options.JsonlOption = False,
    json: options.JsonOption = False,
    keep_going: options.KeepGoingOption = None,
) -> None:
    """Answer a prompt with the target's own greedy text, several tokens at a time."""
    from falcon_cli.console import say
    from falcon_cli.errors import LossyOutputError, UsageError
    from falcon_cli.generate.output import pick_output
    from falcon_cli.generate.requests import requests_from, with_first
    from falcon_cli.generate.run import Generator
    from falcon_cli.methods.defaults import DEFAULT_METHOD
    from falcon_cli.recipe.schema import GenerateRecipe
    from falcon_cli.target.reference.hold import told

    if show_draft and (json or jsonl):
        raise UsageError("--show-draft is for people, --json and --jsonl are for programs: choose one")
    recipe = shared.recipe(
        GenerateRecipe,
        method=method,
        max_new_tokens=max_new_tokens,
        system=system,
        raw=raw,
        stop=stop,
        keep_going=keep_going,
    )
    requests = requests_from(prompt, jsonl, recipe.keep_going)
    output = pick_output(recipe.method or DEFAULT_METHOD, as_json=json or jsonl, stream=stream, show_draft=show_draft)
    first, requests = with_first(requests) if check else (None, requests)
    failed = False
    for answer in Generator(recipe, first).answers(requests, output.piece):
        output.answer(answer)
        if answer.reference is not None:
            say(told(answer.reference))
            failed = answer.reference["verdict"] == "FAILED"
    if failed:
        raise LossyOutputError("not the target's own output: transformers.generate says otherwise")
