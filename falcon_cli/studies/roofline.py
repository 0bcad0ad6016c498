"""Cost tables computed from bytes and FLOPs over published bandwidth and peak, for machines that are not at hand.

Work that moves W bytes and computes F floating-point operations in N kernels takes (Williams, Waterman and Patterson,
"Roofline", CACM 52(4), 2009)

    max(W / (bandwidth · fraction), F / (peak · fraction)) + N · launch

A forward reads all weights once, whatever its nodes: as long as it is memory-bound, more nodes cost little.

    python -m falcon_cli.studies roofline folder=recipes/costs

Published are, per device and without sparsity: H100 SXM5 3.35 TB/s, 989 TFLOP/s bf16 (NVIDIA H100 data sheet); A100
80 GB SXM 2.039 TB/s, 312 TFLOP/s bf16 (NVIDIA A100 data sheet); GeForce RTX 4090 1.008 TB/s, 165.2 TFLOP/s fp16 with
fp32 accumulation (NVIDIA Ada GPU architecture white paper, appendix A). H800 is H100 with less NVLink and fp64. The
laptop is a typical one: two channels of DDR5-5600 (JEDEC: 2 · 8 bytes · 5.6 GT/s = 89.6 GB/s) and 8 cores of
AVX2 (8 cores · 2 units · 8 lanes · 2 FLOP · 3.5 GHz = 0.9 TFLOP/s fp32) of which about 60 GB/s and 0.5 TFLOP/s are
reached. Fractions, launches and rests are assumptions, not published figures.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from falcon_cli.costs.table import CostTable, DraftCost, save_costs

K_VALUES = (1, 2, 3, 4)
CONTEXTS = (128, 512, 1024, 2048)
NODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MADE_BY = "worked out from bytes and FLOPs over published bandwidth and peak, not measured"

LAYER_KERNELS = 10
"""Norm, q-k-v, rotary, cache, attention, output; norm, gate and up, activation, down."""
END_KERNELS = 6
"""Embedding, final norm, LM head, argmax, verdict, cache rows."""
STEP_KERNELS = 4
"""A time step of the two LSTM layers: recurrent product and gates of each."""
SLOT_KERNELS = 5
"""Later slot's gated layer (2), norm, LM head, best tokens."""
COMMITTED = 4
"""Tokens that a cycle commits, which the next draft's first pass reads: about the paper's tau + 1."""
DRAFT_CONTEXT = 1024
"""Tokens in the drafter's cache; with one layer it costs little."""


@dataclass(frozen=True)
class RooflineRecipe:
    """Where the tables go."""

    folder: str
    """Folder of the tables; each is a file MACHINE-SHAPE.json."""


@dataclass(frozen=True)
class Machine:
    """What a device can do."""

    name: str
    memory: float
    """Bytes of memory."""
    bandwidth: float
    """Bytes a second, as published."""
    flops: float
    """Dense FLOP/s on these weights, as published."""
    bandwidth_fraction: float
    """Fraction of the published bandwidth that reading weights once reaches."""
    flops_fraction: float
    """Fraction of the published peak that products with few rows reach."""
    launch: float
    """Seconds between two kernels, in addition to their work; on GPUs those of a replayed CUDA graph."""
    rest: float
    """Seconds of a cycle outside kernels: Python, and waiting for the verdict."""
    weights: str = "bf16"
    weight_bytes: int = 2


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def kv_width(self) -> int:
        """Elements of a layer's keys, or values, of one token."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer(self) -> int:
        """Weights of a decoder layer (norms left out)."""
        return 2 * self.hidden * (self.hidden + self.kv_width) + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.hidden * self.vocabulary

    @property
    def read(self) -> int:
        """Weights that a forward reads: all but the embedding, of which it reads only a few rows."""
        return self.layers * self.layer + self.head


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("h100", 80e9, 3.35e12, 989e12, 0.8, 0.6, 2e-6, 0.3e-3),
        Machine("a100", 80e9, 2.039e12, 312e12, 0.8, 0.7, 2e-6, 0.3e-3),
        Machine("rtx-4090", 24e9, 1.008e12, 165.2e12, 0.85, 0.7, 2e-6, 0.3e-3, "fp16"),
        Machine("laptop-cpu", 32e9, 89.6e9, 0.9e12, 0.67, 0.56, 5e-6, 1e-3),
    )
}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("vicuna-7b", 32, 4096, 11008, 32, 32, 32000),
        Shape("vicuna-13b", 40, 5120, 13824, 40, 40, 32000),
    )
}


@dataclass(frozen=True)
class Work:
    """Bytes moved, floating-point operations done, and kernels that do it."""

    bytes: float
    flops: float
    kernels: float

    def ms(self, machine: Machine) -> float:
        """Milliseconds on a machine: the slower of memory and arithmetic, and the launches."""
        memory = self.bytes / (machine.bandwidth * machine.bandwidth_fraction)
        arithmetic = self.flops / (machine.flops * machine.flops_fraction)
        return 1e3 * (max(memory, arithmetic) + self.kernels * machine.launch)


def verify_work(shape: Shape, nodes: int, context: int, size: int) -> Work:
    """A forward of the target over a draft after committed tokens.

    Each node also writes and reads again its activations: in a layer about 10 vectors of the hidden size and 5 of the
    intermediate one, and its fp32 logits.

    Args:
        shape: The target.
        nodes: Of the draft, the root included.
        context: Tokens in its cache.
        size: Bytes of a weight; cache and activations are as wide.
    """
    cache = 2 * shape.layers * shape.kv_width * (context + 2 * nodes)
    activations = nodes * shape.layers * (10 * shape.hidden + 5 * shape.intermediate)
    attention = 4 * shape.layers * shape.hidden * nodes * (context + nodes)
    return Work(
        bytes=size * (shape.read + cache + activations) + 8 * nodes * shape.vocabulary,
        flops=2 * nodes * shape.read + attention,
        kernels=LAYER_KERNELS * shape.layers + END_KERNELS,
    )


def draft_cost(machine: Machine, shape: Shape, k: int, mixer: str = "time") -> DraftCost:
    """What the passes of Falcon's drafter cost (Falcon, section 3.1; slots chained, the whole LM head).

    With H the hidden size: the two LSTM layers have 12 H² weights on their inputs, read once a pass, and 8 H² on their
    own last step. With the mixer `time` those are read again for each token, since one step waits for the other; with
    `position`, as in the authors' code, all tokens are one step. Then comes a decoder layer as the target's.
    Later slots have a gated layer of 5 H², counted in every slot by its mean. A pass is taken to be bound by memory,
    and its rows' arithmetic to come on top: a little too expensive where neither dominates.
    """
    square, size = shape.hidden**2, machine.weight_bytes
    chain = 5 * square * (k - 1) / k
    cache = 2 * shape.kv_width * DRAFT_CONTEXT
    position = 2 * (20 * square + shape.layer)  # FLOPs

    def network(tokens: int, positions: int) -> Work:
        steps = tokens if mixer == "time" else 1
        weights = (12 + 8 * steps) * square + shape.layer
        return Work(size * (weights + cache), positions * position, LAYER_KERNELS + STEP_KERNELS * steps + 2)

    return DraftCost(
        first=network(COMMITTED, max(COMMITTED, k)).ms(machine),
        further=network(k, 0).ms(machine),
        row=Work(0, k * position, 0).ms(machine),
        slot=Work(size * (shape.head + chain), 0, SLOT_KERNELS).ms(machine),
        feature=Work(0, 2 * (shape.head + chain), 0).ms(machine),
    )


def cost_table(machine: Machine, shape: Shape) -> CostTable:
    """The costs of a target, and of Falcon's drafters for it, on one machine."""
    size = machine.weight_bytes
    return CostTable(
        device=machine.name,
        target=shape.name,
        weights=machine.weights,
        verify={
            context: {nodes: verify_work(shape, nodes, context, size).ms(machine) for nodes in NODES}
            for context in CONTEXTS
        },
        draft={k: draft_cost(machine, shape, k) for k in K_VALUES},
        rest=1e3 * machine.rest,
        made_by={
            "how": MADE_BY,
            "by": "python -m falcon_cli.studies roofline",
            "units": "bytes, bytes/s, FLOP/s, seconds",
            "machine": asdict(machine),
            "shape": asdict(shape),
            "drafter": {"mixer": "time", "chained": True, "committed": COMMITTED, "context": DRAFT_CONTEXT},
            "kernels": {"layer": LAYER_KERNELS, "ends": END_KERNELS, "lstm_step": STEP_KERNELS, "slot": SLOT_KERNELS},
            "fits": fits(machine, shape),
        },
    )


def fits(machine: Machine, shape: Shape) -> bool:
    """Whether target, its embedding, the drafter and 2 GB of cache and workspace fit the memory."""
    drafter = 25 * shape.hidden**2 + shape.layer
    return machine.weight_bytes * (shape.read + shape.head + drafter) + 2e9 <= machine.memory


def run(recipe: RooflineRecipe) -> None:
    """Write all tables to the folder.

    Raises:
        FalconError: The folder cannot be written.
    """
    for machine in MACHINES.values():
        for shape in SHAPES.values():
            save_costs(Path(recipe.folder) / f"{machine.name}-{shape.name}.json", cost_table(machine, shape))
