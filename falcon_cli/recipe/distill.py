"""What a distillation recipe may say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from falcon_cli.errors import FalconError
from falcon_cli.recipe.checks import Recipe, at_least, within
from falcon_cli.recipe.schema import Quantize, TargetRecipe

TrainableMethod = Literal["falcon", "eagle", "medusa", "sps"]

BENCH_SETS = ("mt-bench", "humaneval", "gsm8k", "math-500")


@dataclass(frozen=True)
class CorpusRecipe(Recipe):
    """Which dialogues, and which of them are left out."""

    sources: tuple[str, ...] = ("sharegpt",)
    """Each is sharegpt, gsm8k-train, math, mbpp, a file (.json in ShareGPT's form, .jsonl, .parquet; .gz allowed) or
    a hub data set's id."""
    split: str = "train"
    """Split of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    template: str | None = None
    """Chat template: a name or a Jinja file; None takes the tokenizer's own."""
    parse_special: bool = False
    """Control tokens in a message's words are control tokens, not words."""
    match: str = ""
    """Regular expression, whatever the case, to be found in a dialogue: python|calculate."""
    skip: int = 0
    """Usable dialogues to pass over first: those that an earlier run learned from."""
    limit: int | None = None
    """Dialogues to take; None takes all."""
    max_prompt_tokens: int = 512
    """A dialogue is cut before the answer whose prompt is longer."""
    max_tokens: int = 1024
    """A dialogue is cut after so many tokens."""
    min_answer_tokens: int = 8
    """A dialogue with fewer answer tokens is left out."""
    turns: int | None = None
    """Answers to take of a dialogue; None takes all."""
    ascii_share: float = 0.0
    """Least share of ASCII letters in the prompts: 0.9 keeps English and code."""
    drop_loops: bool = True
    """Cut an answer where it begins to repeat itself."""
    held_out: int = 64
    """Dialogues kept apart from training, to measure on."""
    exclude: tuple[str, ...] = BENCH_SETS
    """Data sets none of whose prompts may be trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "limit", "max_prompt_tokens", "max_tokens", "min_answer_tokens", "turns", "held_out")
        at_least(self, 0, "skip")
        within(self, 0, 1, "ascii_share")
        try:
            re.compile(self.match)
        except re.error as error:
            raise FalconError(f"match is no regular expression: {error}") from None
        if not self.sources:
            raise FalconError("sources is empty: name at least one")


@dataclass(frozen=True)
class AnswersRecipe(Recipe):
    """How the target answers the corpus' prompts itself."""

    max_new_tokens: int = 256
    batch_size: int = 64
    quantize: Quantize = "none"
    """How native kernels hold the weights that answer; features are read in full precision all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_new_tokens", "batch_size")


@dataclass(frozen=True)
class CacheRecipe(Recipe):
    """How the target's features lie on disk."""

    dtype: Literal["fp16", "bf16"] = "fp16"
    max_gb: float = 4.0
    """Refuse to write more than this."""
    folder: str | None = None
    """Where; None is the run folder. Runs on the same texts and target may share it."""
    shard_tokens: int = 65536
    top: int = 16
    """Of the target's distribution, the most probable tokens kept with each feature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "shard_tokens", "top")
        if self.max_gb <= 0:
            raise FalconError(f"max_gb must be above 0, not {self.max_gb}")


Mixer = Literal["time", "position", "linear"]


@dataclass(frozen=True)
class NetworkRecipe(Recipe):
    """The drafter's form."""

    k: int = 2
    """Tokens a pass."""
    mixer: Mixer = "time"
    """LSTM along time, LSTM a position (the authors' code), or a linear layer."""
    normalise: bool = True
    """Normalised inputs and output with a skip over the mixer; false is the paper's network."""
    start: Literal["block", "own"] = "block"
    """What the output at a position starts from: the newest input of its block, or its own (the paper's)."""
    chained: bool = True
    """The later slots of a block also read the token drafted before theirs; false is the paper's network."""
    draft_vocab_size: int = 0
    """Most frequent tokens that may be drafted; 0 is all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "k")
        at_least(self, 0, "draft_vocab_size")

    @property
    def is_eagle(self) -> bool:
        """Whether this is EAGLE's network."""
        return (self.k, self.mixer, self.start) == (1, "linear", "own")


@dataclass(frozen=True)
class MedusaRecipe(Recipe):
    """Medusa's form."""

    k: int = 4
    """Heads: tokens drafted."""
    draft_vocab_size: int = 0
    """Most frequent tokens that may be drafted; 0 is all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "k")
        at_least(self, 0, "draft_vocab_size")


@dataclass(frozen=True)
class DraftModelRecipe(Recipe):
    """The small model that drafts for speculative sampling: some of the target's own layers, distilled."""

    layers: tuple[int, ...] = (0, 1, -2, -1)
    """Which, in this order; negative numbers count from the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise FalconError("layers is empty: name at least one of the target's")


@dataclass(frozen=True)
class LossRecipe(Recipe):
    """Weights of the loss's parts: feature·SmoothL1 + kl·KL + ce·CE."""

    feature: float = 1.0
    kl: float = 0.09
    ce: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "feature", "kl", "ce")
        if self.feature == self.kl == self.ce == 0:
            raise FalconError("feature, kl and ce are all 0: nothing would be learned")


@dataclass(frozen=True)
class LoraRecipe(Recipe):
    """Adapt few weights of an existing drafter; merged into it at the end."""

    rank: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank", "alpha")


@dataclass(frozen=True)
class TrainingRecipe(Recipe):
    """How long, how fast, in what portions."""

    steps: int | None = None
    """Optimizer steps; None counts epochs."""
    epochs: float = 20.0
    batch_tokens: int = 8192
    """Tokens of one optimizer step, over all processes, padding included."""
    micro_tokens: int = 8192
    """Tokens of one forward: bounds the memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for the matrices; the rest learns by AdamW."""
    learning_rate: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 0.5
    """Largest norm of the gradient."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises."""
    final: float = 0.1
    """Share of the learning rate that is left at the end (cosine)."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: mixed precision, on hardware that has it."""
    save_minutes: float = 5.0
    measure_steps: int = 200
    """Steps between two looks at the held-out text."""
    decode_prompts: int = 4
    """Held-out prompts decoded at each look, for the real τ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps", "batch_tokens", "micro_tokens", "measure_steps")
        at_least(self, 0, "epochs", "learning_rate", "weight_decay", "clip", "decode_prompts")
        within(self, 0, 1, "warmup", "final")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise FalconError(f"betas must lie between 0 and 1, not {self.betas[0]} and {self.betas[1]}")


@dataclass(frozen=True)
class DistillRecipe(Recipe):
    """A drafter for a target."""

    method: TrainableMethod = "falcon"
    """What learns: falcon or eagle (network), medusa (medusa), or a draft model for sps (draft_model)."""
    target: TargetRecipe = field(default_factory=TargetRecipe)
    corpus: CorpusRecipe = field(default_factory=CorpusRecipe)
    answers: Literal["target", "dataset"] = "dataset"
    """Whose answers are learned: the target's own greedy ones, or the corpus'."""
    generation: AnswersRecipe = field(default_factory=AnswersRecipe)
    features: Literal["disk", "online"] = "disk"
    """Computed once into a cache, or in the training loop with nothing on disk."""
    cache: CacheRecipe = field(default_factory=CacheRecipe)
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    medusa: MedusaRecipe = field(default_factory=MedusaRecipe)
    draft_model: DraftModelRecipe = field(default_factory=DraftModelRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    csgd: bool = True
    """Coupled Sequential Glancing Distillation; false trains without glancing."""
    glance: float = 0.4
    """λ at the first step: share of the wrong positions that are shown the answer; it falls linearly to 0."""
    noise: float = 0.1
    """Noise on the input features: half width of the uniform, or standard deviation; 0 is none."""
    noise_kind: Literal["uniform", "gaussian"] = "uniform"
    passes: int = 1
    """Passes of a draft that are learned, the later ones on the drafter's own features; 1 is the paper's."""
    phases: Literal["drawn", "all"] = "drawn"
    """Where blocks begin in a step: anywhere, drawn for each batch, or everywhere at once, at k times the work."""
    pass_weight: float = 0.5
    """Weight of each pass's loss against the one before."""
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    init_from: str | None = None
    """Drafter folder to go on from."""
    lora: LoraRecipe | None = None
    """With init_from: learn a low-rank change of that drafter only."""
    out: str = "runs/distill"
    """Run folder."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "seed", "noise")
        at_least(self, 1, "passes")
        within(self, 0, 1, "glance", "pass_weight")
        if self.method == "eagle" and not self.network.is_eagle:
            raise FalconError("method eagle needs network: {k: 1, mixer: linear, start: own}")
        if self.method in ("medusa", "sps") and (self.passes > 1 or self.init_from or self.lora):
            raise FalconError(f"method {self.method} knows no passes above 1, no init_from and no lora: leave them out")
        if self.passes > 1 and self.network.mixer == "time":
            raise FalconError("passes above 1 need network.mixer linear or position: an LSTM along time has one past")
        if self.lora is not None and self.init_from is None:
            raise FalconError("lora adapts an existing drafter: name it with init_from")
