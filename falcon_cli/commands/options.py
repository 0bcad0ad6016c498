"""Every command-line option, once, and how options override a recipe."""

from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from typer import Argument, Exit, Option

from falcon_cli import __version__
from falcon_cli.console import emit
from falcon_cli.errors import FalconError, UsageError

R = TypeVar("R")
Text: TypeAlias = str | None
Number: TypeAlias = int | None
Switch: TypeAlias = bool | None
Texts: TypeAlias = list[str] | None

_RECIPE, _TARGET, _ANSWERS = "Recipe", "Target", "Answers"


def _option(name: str, help: str, metavar: str, panel: str | None = None) -> Any:
    return Option(name, metavar=metavar, help=help, show_default=False, rich_help_panel=panel)


def _switch(name: str, help: str, panel: str | None) -> Any:
    return _option(name, help, "", panel)


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"falcon {__version__}")
        raise Exit


Debug = Annotated[bool, Option("--debug", metavar="", help="Show the traceback of an error.")]
Version = Annotated[
    bool, Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit.")
]

RecipeFile = Annotated[
    Path | None, _option("--recipe", "YAML recipe to start from; other options override it.", "FILE", _RECIPE)
]
Set = Annotated[Texts, _option("--set", "Override one key of the recipe (repeatable).", "KEY=VALUE", _RECIPE)]

Target = Annotated[
    Text,
    _option(
        "--target", "Built-in name, folder, .gguf file or hub id (default: smollm2-135m-instruct).", "MODEL", _TARGET
    ),
]
DType = Annotated[
    Text, _option("--dtype", "auto, fp32, bf16, fp16 (default: auto: fp32 on a CPU, bf16 on a GPU).", "TYPE", _TARGET)
]
Device = Annotated[
    Text, _option("--device", "auto, cpu, cuda, cuda:N (default: auto: a GPU if there is one).", "NAME", _TARGET)
]
Attention = Annotated[
    Text,
    _option("--attention", "auto, sdpa, flash, flex (default: auto: flash where flash-attn runs).", "NAME", _TARGET),
]
Kernels = Annotated[
    Text, _option("--kernels", "auto, native, torch (default: auto: native on AVX2 CPUs).", "NAME", _TARGET)
]
Quantize = Annotated[
    Text, _option("--quantize", "none, bf16, int8, int4 weights of native kernels (default: none).", "TYPE", _TARGET)
]
Compile = Annotated[
    Switch, _switch("--compile", "Score drafts by compiled graphs of fixed shapes (GPUs; slow to start).", _TARGET)
]
Threads = Annotated[Number, _option("--threads", "CPU threads (default: PyTorch's choice).", "N", _TARGET)]
Revision = Annotated[Text, _option("--revision", "Branch, tag or commit of a hub model.", "REF", _TARGET)]
TrustRemoteCode = Annotated[Switch, _switch("--trust-remote-code", "Let a hub model run its own Python code.", _TARGET)]
DraftModel = Annotated[Text, _option("--draft-model", "Small model of the same vocabulary, for sps.", "MODEL", _TARGET)]
DrafterFolder = Annotated[
    Text,
    _option(
        "--drafter", "Drafter's folder, for the method that it is for (default: the target's own).", "DIR", _TARGET
    ),
]
Tree = Annotated[
    Text,
    _option(
        "--tree",
        "The tree: auto, chain, dynamic, FILE.json or FILE.py[:NAME] (default: auto: as tuned here).",
        "NAME",
        _TARGET,
    ),
]
Template = Annotated[
    Text,
    _option(
        "--template", "Chat template: vicuna, llama-2 or a Jinja file (default: the tokenizer's own).", "NAME", _TARGET
    ),
]

MaxNewTokens = Annotated[
    Number, _option("--max-new-tokens", "Longest answer in tokens (default: generate 256, bench 128).", "N", _ANSWERS)
]
KeepGoing = Annotated[Switch, _switch("--keep-going", "Skip malformed lines and count them.", _ANSWERS)]
Json = Annotated[bool, _switch("--json", "Print one JSON document as the last line of stdout.", _ANSWERS)]

Prompt = Annotated[
    Text,
    Argument(
        metavar="PROMPT",
        help="Text to answer (default: stdin); with --jsonl, a file of JSON lines.",
        show_default=False,
    ),
]
Method = Annotated[
    Text,
    _option(
        "--method",
        "falcon, eagle, medusa, ar, pld, lookahead, sps (default: falcon:copy=auto with a drafter, else pld).",
        "NAME[:OPTION=VALUE,...]",
    ),
]
System = Annotated[Text, _option("--system", "System message before the prompt.", "TEXT", _ANSWERS)]
Raw = Annotated[Switch, _switch("--raw", "Continue plain text, without a chat template.", _ANSWERS)]
Stop = Annotated[Texts, _option("--stop", "End the answer before this text (repeatable).", "TEXT", _ANSWERS)]
Stream = Annotated[
    Switch, _switch("--stream/--no-stream", "Write text as it comes (default: on a terminal).", _ANSWERS)
]
ShowDraft = Annotated[bool, _switch("--show-draft", "Colour the text that was drafted and accepted.", _ANSWERS)]
Jsonl = Annotated[
    bool, _switch("--jsonl", "Read a JSON object a line (prompt or messages), write one a line.", _ANSWERS)
]

Dataset = Annotated[
    Text,
    _option("--dataset", "mt-bench, humaneval, gsm8k, spec-bench, sharegpt or FILE.jsonl (default: mt-bench).", "NAME"),
]
Methods = Annotated[
    Texts,
    _option(
        "--method",
        "ar, pld, lookahead, sps, medusa, eagle, falcon (repeatable; ar always runs) "
        "(default: all that have what they need, but not sps).",
        "NAME[:OPTION=VALUE,...][ as LABEL]",
    ),
]
Peers = Annotated[
    Texts, _option("--peer", "Other engines in the same run: hf, hf-pld, llama-cpp (repeatable).", "NAME")
]
Limit = Annotated[Number, _option("--limit", "Take N questions, evenly spaced over the data set.", "N")]
Repeats = Annotated[Number, _option("--repeats", "Ask every question N times (default: 1).", "N")]
Seed = Annotated[Number, _option("--seed", "For the order of the methods and the bootstrap (default: 0).", "N")]
Out = Annotated[Path | None, _option("--out", "Folder for results, answers, report and picture.", "DIR", _ANSWERS)]
Resume = Annotated[bool, _switch("--resume", "Go on with the run that --out holds.", _ANSWERS)]
Compare = Annotated[
    Texts,
    _option(
        "--compare",
        "Run nothing: hold answer files, ours or Spec-Bench's, against the first one (repeatable).",
        "FILE.jsonl",
        _ANSWERS,
    ),
]

DistillRecipe = Annotated[
    Path, Argument(metavar="RECIPE", help="YAML recipe, such as recipes/distill/smoke.yaml.", show_default=False)
]
DistillOut = Annotated[Text, _option("--out", "Run folder (default: the recipe's, runs/distill).", "DIR")]
DistillResume = Annotated[bool, _switch("--resume", "Go on with the run that the folder holds.", None)]
DryRun = Annotated[bool, _switch("--dry-run", "Print the plan (tokens, disk, memory, steps, hours) and stop.", None)]
DistillSeed = Annotated[Number, _option("--seed", "For weights, batches, noise and glances (default: 0).", "N")]

Drafters = Annotated[
    Texts,
    _option("--drafter", "Drafter's folder (repeatable, one for each k; default: the target's own).", "DIR", _TARGET),
]
TuneDataset = Annotated[
    Text, _option("--dataset", "Prompts to fit to: sharegpt, another name or FILE.jsonl (default: sharegpt).", "NAME")
]
Prompts = Annotated[Number, _option("--prompts", "Prompts whose answers are looked at (default: 48).", "N")]
TuneTokens = Annotated[Number, _option("--max-new-tokens", "Longest answer in tokens (default: 96).", "N")]
Nodes = Annotated[Number, _option("--nodes", "Most drafted nodes of a tree (default: 64).", "N")]
Cost = Annotated[
    Text, _option("--cost", "Cost table of another machine, or measure: anew (default: as measured here).", "FILE")
]
Quick = Annotated[bool, _switch("--quick", "Fewer prompts and sizes: some three minutes.", None)]
TuneOut = Annotated[Text, _option("--out", "Folder for tree, report and pictures.", "DIR", _ANSWERS)]
TuneSeed = Annotated[Number, _option("--seed", "For the order in which trees are run (default: 0).", "N")]

_TARGET_NAMES = ("dtype", "device", "attention", "kernels", "quantize", "threads", "revision", "trust_remote_code")
_OF_TARGET = {
    "target": "model",
    "compile_": "compile",
    **{name: name for name in _TARGET_NAMES},
}


def refuse(given: dict[str, Any], kept: Collection[str], why: str) -> None:
    """Refuse options that were given (not None, not empty, not off) and are not among those kept.

    Raises:
        UsageError: Names them, after `why`.
    """
    extra = [name for name, value in given.items() if name not in kept and not _is_absent(value)]
    if extra:
        words = ", ".join("--" + name.strip("_").replace("_", "-") for name in extra)
        raise UsageError(f"{why}: leave out {words}")


def _is_absent(value: Any) -> bool:
    return value is None or value is False or value == []


def override(recipe: R, **given: Any) -> R:
    """The recipe with every option that was given (not None, not empty) put in; the target's go into `recipe.target`.

    Raises:
        UsageError: A value does not suit its key.
    """
    given = {key: value for key, value in given.items() if value is not None and value != []}
    target = {_OF_TARGET[key]: given.pop(key) for key in list(given) if key in _OF_TARGET}
    own: Any = recipe  # a dataclass
    known = {field.name for field in fields(own)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key in known}
    try:
        return replace(own, target=replace(own.target, **target), **values)
    except FalconError as error:
        raise UsageError(str(error)) from error
