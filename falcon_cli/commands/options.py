"""Every command-line option, once, and the groups of them that commands share."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from typer import Argument, Exit, Option

from falcon_cli import __version__
from falcon_cli.console import emit

Text: TypeAlias = str | None
Number: TypeAlias = int | None
Switch: TypeAlias = bool | None
Texts: TypeAlias = list[str] | None

_RECIPE, _TARGET, _ANSWERS = "Recipe", "Target", "Answers"


def _option(name: str, help: str, metavar: str, panel: str | None = None) -> Any:
    return Option(name, metavar=metavar, help=help, show_default=False, rich_help_panel=panel)


def _switch(name: str, help: str, panel: str | None) -> Any:
    return _option(name, help, "", panel)


def _built_in_names(incomplete: str) -> list[str]:
    """What a shell may complete `--target` to; files are completed by the shell itself."""
    from falcon_cli.sources import built_in_targets

    return [name for name in built_in_targets() if name.startswith(incomplete)]


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"falcon {__version__}")
        raise Exit


DebugOption = Annotated[bool, Option("--debug", metavar="", help="Show the traceback of an error.")]
VersionOption = Annotated[
    bool, Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit.")
]

RecipeFileOption = Annotated[
    Path | None, _option("--recipe", "YAML recipe to start from; other options override it.", "FILE", _RECIPE)
]
SetOption = Annotated[Texts, _option("--set", "Override one key of the recipe (repeatable).", "KEY=VALUE", _RECIPE)]

TargetOption = Annotated[
    Text,
    Option(
        "--target",
        metavar="MODEL",
        help="Built-in name, folder, .gguf file or hub id (default: smollm2-135m-instruct).",
        show_default=False,
        rich_help_panel=_TARGET,
        autocompletion=_built_in_names,
    ),
]
DTypeOption = Annotated[
    Text, _option("--dtype", "auto, fp32, bf16, fp16 (default: auto: fp32 on a CPU, bf16 on a GPU).", "TYPE", _TARGET)
]
DeviceOption = Annotated[
    Text, _option("--device", "auto, cpu, cuda, cuda:N (default: auto: a GPU if there is one).", "NAME", _TARGET)
]
AttentionOption = Annotated[
    Text,
    _option("--attention", "auto, sdpa, flash, flex (default: auto: flash where flash-attn runs).", "NAME", _TARGET),
]
KernelsOption = Annotated[
    Text, _option("--kernels", "auto, native, torch (default: auto: native on AVX2 CPUs).", "NAME", _TARGET)
]
QuantizeOption = Annotated[
    Text,
    _option(
        "--quantize",
        "none, bf16, int8, int4, file (a .gguf's own) weights of native kernels (default: none).",
        "TYPE",
        _TARGET,
    ),
]
CompileOption = Annotated[
    Switch, _switch("--compile", "Score drafts by compiled graphs of fixed shapes (GPUs; slow to start).", _TARGET)
]
ThreadsOption = Annotated[
    Number, _option("--threads", "CPU threads (default: PyTorch's choice, within the CPU quota).", "N", _TARGET)
]
RevisionOption = Annotated[Text, _option("--revision", "Branch, tag or commit of a hub model.", "REF", _TARGET)]
TrustRemoteCodeOption = Annotated[
    Switch, _switch("--trust-remote-code", "Let a hub model run its own Python code.", _TARGET)
]
DraftModelOption = Annotated[
    Text, _option("--draft-model", "Small model of the same vocabulary, for sps.", "MODEL", _TARGET)
]
DrafterFolderOption = Annotated[
    Text,
    _option(
        "--drafter",
        "Folder of a trained drafter; its own config says for which method (default: the target's).",
        "DIR",
        _TARGET,
    ),
]
TreeOption = Annotated[
    Text,
    _option(
        "--tree",
        "The tree: auto, chain, dynamic, FILE.json or FILE.py[:NAME] (default: auto: as tuned here).",
        "NAME",
        _TARGET,
    ),
]
TemplateOption = Annotated[
    Text,
    _option(
        "--template", "Chat template: vicuna, llama-2 or a Jinja file (default: the tokenizer's own).", "NAME", _TARGET
    ),
]

ParseSpecialOption = Annotated[
    Switch, _switch("--parse-special", "Control tokens in a message's words are control tokens, not words.", _TARGET)
]

MaxNewTokensOption = Annotated[
    Number, _option("--max-new-tokens", "Longest answer in tokens (default: generate 256, bench 128).", "N", _ANSWERS)
]
KeepGoingOption = Annotated[Switch, _switch("--keep-going", "Skip malformed lines and count them.", _ANSWERS)]
JsonOption = Annotated[bool, _switch("--json", "Print one JSON document as the last line of stdout.", _ANSWERS)]

PromptOption = Annotated[
    Text,
    Argument(
        metavar="PROMPT",
        help="Text to answer (default: stdin); with --jsonl, a file of JSON lines.",
        show_default=False,
    ),
]
MethodOption = Annotated[
    Text,
    _option(
        "--method",
        "adaptive, falcon, eagle, medusa, ar, pld, lookahead, sps (default: adaptive).",
        "NAME[:OPTION=VALUE,...]",
    ),
]
SystemOption = Annotated[Text, _option("--system", "System message before the prompt.", "TEXT", _ANSWERS)]
RawOption = Annotated[Switch, _switch("--raw", "Continue plain text, without a chat template.", _ANSWERS)]
StopOption = Annotated[Texts, _option("--stop", "End the answer before this text (repeatable).", "TEXT", _ANSWERS)]
StreamOption = Annotated[
    Switch, _switch("--stream/--no-stream", "Write text as it comes (default: on a terminal).", _ANSWERS)
]
ShowDraftOption = Annotated[bool, _switch("--show-draft", "Colour the text that was drafted and accepted.", _ANSWERS)]
CheckOption = Annotated[
    bool, _switch("--check", "Compare the first answer with transformers.generate's, by the model itself.", _ANSWERS)
]
JsonlOption = Annotated[
    bool, _switch("--jsonl", "Read a JSON object a line (prompt or messages), write one a line.", _ANSWERS)
]

DatasetOption = Annotated[
    Text,
    _option(
        "--dataset",
        "mt-bench, humaneval, gsm8k, math-500, spec-bench, sharegpt or FILE.jsonl (default: mt-bench).",
        "NAME",
    ),
]
MethodsOption = Annotated[
    Texts,
    _option(
        "--method",
        "ar, pld, lookahead, sps, medusa, eagle, falcon (repeatable; ar always runs) "
        "(default: every method whose drafter is available, except sps).",
        "NAME[:OPTION=VALUE,...][ as LABEL]",
    ),
]
PeersOption = Annotated[
    Texts, _option("--peer", "Other engines in the same run: hf, hf-pld, llama-cpp (repeatable).", "NAME")
]
LimitOption = Annotated[Number, _option("--limit", "Take N questions, evenly spaced over the data set.", "N")]
RepeatsOption = Annotated[Number, _option("--repeats", "Ask every question N times (default: 1).", "N")]
SeedOption = Annotated[Number, _option("--seed", "For the order of the methods and the bootstrap (default: 0).", "N")]
OutOption = Annotated[
    Path | None, _option("--out", "Folder for results, answers, report and picture.", "DIR", _ANSWERS)
]
ResumeOption = Annotated[bool, _switch("--resume", "Go on with the run that --out holds.", _ANSWERS)]
CompareOption = Annotated[
    Texts,
    _option(
        "--compare",
        "Run nothing: compare answer files, falcon's or Spec-Bench's, with the first one (repeatable).",
        "FILE.jsonl",
        _ANSWERS,
    ),
]

DistillRecipeOption = Annotated[
    Path, Argument(metavar="RECIPE", help="YAML recipe, such as recipes/distill/smoke.yaml.", show_default=False)
]
DistillOutOption = Annotated[Text, _option("--out", "Run folder (default: the recipe's, runs/distill).", "DIR")]
DistillResumeOption = Annotated[bool, _switch("--resume", "Go on with the run that the folder holds.", None)]
DryRunOption = Annotated[
    bool, _switch("--dry-run", "Print the plan (tokens, disk, memory, steps, hours) and stop.", None)
]
DistillSeedOption = Annotated[Number, _option("--seed", "For weights, batches, noise and glances (default: 0).", "N")]

DraftersOption = Annotated[
    Texts,
    _option("--drafter", "Drafter's folder (repeatable, one for each k; default: the target's own).", "DIR", _TARGET),
]
TuneDatasetOption = Annotated[
    Text, _option("--dataset", "Prompts to fit to: sharegpt, another name or FILE.jsonl (default: sharegpt).", "NAME")
]
PromptsOption = Annotated[Number, _option("--prompts", "Prompts to calibrate on (default: 48).", "N")]
TuneTokensOption = Annotated[Number, _option("--max-new-tokens", "Longest answer in tokens (default: 96).", "N")]
NodesOption = Annotated[Number, _option("--nodes", "Most drafted nodes of a tree (default: 64).", "N")]
CostOption = Annotated[
    Text,
    _option("--cost", "Cost table of another machine, or measure: measure again (default: as measured here).", "FILE"),
]
QuickOption = Annotated[bool, _switch("--quick", "Fewer prompts and tree sizes (about three minutes).", None)]
TuneResumeOption = Annotated[bool, _switch("--resume", "Go on with the tuning that --out holds.", _ANSWERS)]
TuneOutOption = Annotated[Text, _option("--out", "Folder for tree, report and pictures.", "DIR", _ANSWERS)]
TuneSeedOption = Annotated[Number, _option("--seed", "For the order in which trees are run (default: 0).", "N")]

TARGET: dict[str, Any] = {
    "target": TargetOption,
    "dtype": DTypeOption,
    "device": DeviceOption,
    "attention": AttentionOption,
    "kernels": KernelsOption,
    "quantize": QuantizeOption,
    "compile_": CompileOption,
    "threads": ThreadsOption,
    "revision": RevisionOption,
    "trust_remote_code": TrustRemoteCodeOption,
}
"""Which target, and how it is held: every command's. They go into the recipe's part `target`."""
READING = {name: TARGET[name] for name in TARGET if name not in ("kernels", "quantize", "compile_")}
"""The same for a command that reads whole texts, on torch's operators."""
DRAFTING: dict[str, Any] = {
    "draft_model": DraftModelOption,
    "drafter": DrafterFolderOption,
    "tree": TreeOption,
    "template": TemplateOption,
    "parse_special": ParseSpecialOption,
}
"""What a command drafts with."""
TEMPLATE = {"template": TemplateOption, "parse_special": ParseSpecialOption}
RECIPE: dict[str, Any] = {"recipe": RecipeFileOption, "set_": SetOption}
"""The recipe that the other options override."""
