"""What a recipe may say: one frozen dataclass a command, each field with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from falcon_cli.errors import FalconError
from falcon_cli.recipe.checks import Recipe, at_least

DType = Literal["auto", "fp32", "bf16", "fp16"]
Kernels = Literal["auto", "native", "torch"]
Quantize = Literal["none", "bf16", "int8", "int4", "file"]


@dataclass(frozen=True)
class TargetRecipe(Recipe):
    """Which target, and how it is held."""

    model: str = "smollm2-135m-instruct"
    """A built-in name, a folder, a .gguf file or a hub id."""
    dtype: DType = "auto"
    device: str = "auto"
    attention: str = "auto"
    """auto, sdpa, flash or flex."""
    threads: int | None = None
    """CPU threads; None leaves the choice to PyTorch."""
    kernels: Kernels = "auto"
    """native: falcon's own (x86 CPUs, fp32 activations); torch: its operators; auto: native where it runs."""
    quantize: Quantize = "none"
    """How native kernels hold the weights, whatever they were loaded in; file: as a GGUF file does."""
    compile: bool = False
    """Score drafts by compiled graphs of fixed shapes, on torch's operators."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    adapter: str | None = None
    """Folder or hub id of a LoRA adapter (peft), merged into the target."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "threads")
        if self.quantize != "none" and self.kernels == "torch":
            raise FalconError(f"quantize {self.quantize} needs the native kernels: leave out kernels torch")
        if self.compile and (self.kernels == "native" or self.quantize != "none"):
            raise FalconError("compile is for torch's operators: leave out kernels native and quantize")
        if self.compile and self.attention not in ("auto", "sdpa"):
            raise FalconError(f"compile needs attention sdpa, not {self.attention}")


@dataclass(frozen=True)
class DraftingRecipe(Recipe):
    """What answers are drafted and decoded with."""

    target: TargetRecipe = field(default_factory=TargetRecipe)
    draft_model: str | None = None
    """The small model that drafts for speculative sampling."""
    drafter: str | None = None
    """Folder of a trained drafter, whose config says for which method; None takes those shipped for the target."""
    tree: str = "auto"
    """A file; auto: as tuned here, else the drafter's; chain: as long as that is high; dynamic: grown each cycle."""
    template: str | None = None
    """Chat template: a name or a Jinja file; None takes the tokenizer's."""
    parse_special: bool = False
    """Control tokens in a message's words are control tokens, not words."""
    keep_going: bool = False
    """Skip malformed questions or lines instead of stopping at the first."""


@dataclass(frozen=True)
class BenchRecipe(DraftingRecipe):
    """Which methods to compare, on which questions."""

    dataset: str = "mt-bench"
    """A data set's name or a .jsonl file."""
    limit: int | None = None
    """Questions to take, evenly spaced; None takes all."""
    methods: tuple[str, ...] | None = None
    """None takes ar, pld, lookahead, adaptive, and medusa, eagle, falcon, falcon:copy=auto where there is a drafter."""
    peers: tuple[str, ...] = ()
    """Other programs to measure beside ours."""
    max_new_tokens: int = 128
    repeats: int = 1
    seed: int = 0
    datasets: tuple[str, ...] = ()
    """Several data sets, one after the other, instead of dataset."""
    table: int | None = None
    """Number of the paper's table to hold the results against."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "limit", "max_new_tokens", "repeats", "table")
        at_least(self, 0, "seed")
        if self.methods == ():
            raise FalconError("methods is empty: name at least one")
        if self.datasets and self.dataset != BenchRecipe.dataset:
            raise FalconError("dataset and datasets: a recipe has one of them")
        if self.table is not None and self.table > 5:
            raise FalconError(f"table must be at most 5, the paper's last, not {self.table}")


@dataclass(frozen=True)
class GenerateRecipe(DraftingRecipe):
    """How prompts are answered."""

    method: str | None = None
    """None takes adaptive."""
    max_new_tokens: int = 256
    system: str | None = None
    """System message put before each prompt."""
    raw: bool = False
    """Continue the prompt as plain text, without a chat template."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer is cut before them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_new_tokens")
        if self.raw and (self.system is not None or self.template is not None):
            raise FalconError("raw takes the prompt as it is: leave out system and template")
        if "" in self.stop:
            raise FalconError("stop: an empty text would end every answer at once; remove it")
