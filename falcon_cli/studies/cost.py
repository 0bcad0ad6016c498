"""What a forward costs by nodes and context: `make cost`, or `python -m falcon_cli.studies cost [KEY=VALUE ...]`.

    make cost                                   the default target
    make cost ARGS="contexts=[0,2048,8000]"     longer texts
    make cost ARGS="shape=7b"                   random weights in the shape of LLaMA-2-7B, bf16 (13.5 GB of memory)

Times are medians of interleaved rounds. The cache's contents are not computed: a forward costs the same whatever it
reads. On the kernels a second table has the parts of a forward, each beside its limit (`limits.py`). With a shape, a
few tokens are also decoded plainly and with an untrained Falcon drafter; the ids must be equal.
"""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch

from falcon_cli.bench.measuring.memory import with_peak_memory
from falcon_cli.console import progress, say, show
from falcon_cli.core import Drafter
from falcon_cli.costs.measure import chain, pretend
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stats import Completion
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.recipe.distill import NetworkRecipe
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.studies.limits import PARTS, Peaks, limits, taken
from falcon_cli.target.load import load_target
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.store import default_tree

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 320,
        "max_position_embeddings": 512,
    },
}
"""Sizes of Llama models."""


@dataclass(frozen=True)
class CostRecipe:
    """What to measure."""

    target: TargetRecipe = field(default_factory=TargetRecipe)
    shape: str | None = None
    """Random bf16 weights of this shape instead of a target."""
    contexts: tuple[int, ...] = (300,)
    """Committed tokens before the draft."""
    nodes: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16, 24, 32)
    """Nodes of the draft, the root included."""
    rounds: int = 9
    """Rounds that count; the first warms up."""
    new_tokens: int = 8
    """Tokens that a shape decodes, plainly and with a drafter."""

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape not in SHAPES:
            raise FalconError(f"shape must be one of {', '.join(SHAPES)}, not {self.shape}")


@torch.inference_mode()
def costs(target: TargetModel, recipe: CostRecipe) -> dict[tuple[int, int], float]:
    """(context, nodes) → milliseconds to score that many nodes after that many tokens."""
    drafts = {nodes: chain(target, nodes) for nodes in recipe.nodes}
    times: dict[tuple[int, int], list[float]] = {}
    with progress("measuring", len(recipe.contexts) * (recipe.rounds + 1), "rounds") as bar:
        for context in recipe.contexts:
            pretend(target, context, max(recipe.nodes))
            for number in range(recipe.rounds + 1):  # the first warms up
                for nodes, draft in drafts.items():
                    began = perf_counter()
                    target.score(draft)
                    target.synchronize()
                    if number:
                        times.setdefault((context, nodes), []).append(1e3 * (perf_counter() - began))
                bar.advance()
    target.cache.rewind(0)
    return {key: median(milliseconds) for key, milliseconds in times.items()}


@torch.inference_mode()
def parts(target: TargetModel, recipe: CostRecipe, peaks: Peaks) -> list[tuple[int, int, dict[str, str]]]:
    """Context, nodes, and part → milliseconds, and how much of the speed that its limit allows."""
    rows = []
    for context in recipe.contexts:
        pretend(target, context, max(recipe.nodes))
        for nodes in recipe.nodes:
            spent, least = taken(target, chain(target, nodes)), limits(target, context, nodes, peaks)
            cells = {part: f"{spent[part]:.2f} ms, {100 * least[part] / spent[part]:.0f} %" for part in PARTS}
            rows.append((context, nodes, cells))
    target.cache.rewind(0)
    return rows


def random_model(shape: str) -> Any:
    """A Llama of random bf16 weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]), dtype=torch.bfloat16)


def untrained_falcon(target: TargetModel) -> Falcon:
    """Falcon's drafter (k = 2, linear mixer) with random weights, and its built-in tree."""
    network = DrafterNetwork(NetworkRecipe(mixer="linear"), target.outline)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return Falcon(network.requires_grad_(False), target, default_tree(network.k))


def run(recipe: CostRecipe) -> None:
    """Measure, and print the tables."""
    from rich.table import Table

    if recipe.shape is None:
        target, name = load_target(recipe.target).model, recipe.target.model
    else:
        target, name = _random_target(recipe)
    milliseconds = costs(target, recipe)
    table = Table("nodes", *(f"after {context:,}" for context in recipe.contexts), title=f"{name}: ms a forward")
    for nodes in recipe.nodes:
        cells = (milliseconds[context, nodes] for context in recipe.contexts)
        first = (milliseconds[context, recipe.nodes[0]] for context in recipe.contexts)
        table.add_row(
            str(nodes), *(f"{cell:.1f} ({cell / least:.2f}x)" for cell, least in zip(cells, first, strict=True))
        )
    show(table)
    if target.native is not None and target.native.exact:
        _show_parts(target, recipe)


def _show_parts(target: TargetModel, recipe: CostRecipe) -> None:
    from rich.table import Table

    peaks = Peaks.measured()
    table = Table("after", "nodes", *PARTS, title="parts of a forward, and how much of their limit's speed they reach")
    for context, nodes, cells in parts(target, recipe, peaks):
        table.add_row(f"{context:,}", str(nodes), *(cells[part] for part in PARTS))
    show(table)
    say(str(peaks))


def _random_target(recipe: CostRecipe) -> tuple[TargetModel, str]:
    """A random model on the native kernels, after decoding a little plainly and with Falcon; and its name."""
    if recipe.target.threads is not None:
        torch.set_num_threads(recipe.target.threads)
    load_kernels()
    model = random_model(str(recipe.shape))
    target = TargetModel(model, native=swap_model(model, "bf16"))
    drafters: dict[str, Drafter] = {"ar": Autoregressive(target.device)}
    drafters["falcon"] = untrained_falcon(target)
    ids = {}
    for name, drafter in drafters.items():

        def answer(drafter: Drafter = drafter) -> Completion:
            return complete(target, drafter, list(range(3, 35)), Stop((), recipe.new_tokens))

        answer()
        completion, peak = with_peak_memory(answer, target.device)
        ids[name] = completion.ids
        draft = sum(cycle.draft_seconds for cycle in completion.cycles) / completion.decode_seconds
        say(
            f"{name}: {1e3 * completion.decode_seconds / len(completion.cycles):.0f} ms a cycle, "
            f"{100 * draft:.1f} % of it drafting; peak memory {(peak or 0) / 1e9:.1f} GB"
        )
    if ids["ar"] != ids["falcon"]:
        raise FalconError("falcon's ids are not plain decoding's: a bug of falcon's")
    return target, f"{recipe.shape}, random weights, bf16"
