"""`falcon generate`."""

from falcon_cli.commands import options


def generate(
    prompt: options.Prompt = None,
    method: options.Method = None,
    max_new_tokens: options.MaxNewTokens = None,
    system: options.System = None,
    raw: options.Raw = None,
    stop: options.Stop = None,
    stream: options.Stream = None,
    show_draft: options.ShowDraft = False,
    jsonl: options.Jsonl = False,
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
    """Answer a prompt with the target's own greedy text, several tokens at a time."""
    apart = ("recipe", "set_", "prompt", "stream", "show_draft", "json", "jsonl")
    given = {name: value for name, value in locals().items() if name not in apart}
    from falcon_cli.errors import UsageError
    from falcon_cli.generate.output import pick_output
    from falcon_cli.generate.requests import requests_from
    from falcon_cli.generate.run import Generator
    from falcon_cli.methods.defaults import default_method
    from falcon_cli.recipe.load import load_recipe
    from falcon_cli.recipe.schema import GenerateRecipe

    if show_draft and (json or jsonl):
        raise UsageError("--show-draft is for people, --json and --jsonl are for programs: choose one")
    plan = options.override(load_recipe(GenerateRecipe, recipe, set_ or []), **given)
    requests = requests_from(prompt, jsonl, plan.keep_going)
    output = pick_output(
        plan.method or default_method(plan), as_json=json or jsonl, stream=stream, show_draft=show_draft
    )
    for answer in Generator(plan).answers(requests, output.hear):
        output.answer(answer)
