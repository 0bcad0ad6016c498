"""What computes a drafter's passes: the network on torch's operators, or the same on the few-row CPU kernels.

Whatever is drafted, the target decides, so rounding costs nothing here: on the kernels all weights are int8.

Shapes: B batch (1), L positions, D hidden size, E features that the head reads, R rows of a pass, C uncommitted rows
of the cache.
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.view import View
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.network import DrafterNetwork, LstmState, Mixed
from falcon_cli.kv_cache import KeyValueCache, StaticCache
from falcon_cli.native.layer import NativeDecoder, linear_of
from falcon_cli.native.packed_matrix import PackedMatrix, WeightFormat
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.native.swap import suits_layer, swap_inside
from falcon_cli.native.weights import packed, packed_gate_up
from falcon_cli.target.model import TargetModel


class PassRunner(Protocol):
    """The steps of a pass."""

    def new_cache(self, limit: int) -> KeyValueCache:
        """An empty cache of at most so many positions, for `attend`."""

    def mix(self, embedded_BLD: Tensor, features_BLD: Tensor, state: LstmState | None) -> Mixed:
        """One vector of each token's embedding and feature."""

    def attend(self, mixed_BLD: Tensor, view: View, block: int, cache: KeyValueCache) -> Tensor:
        """Hidden states [B, L, D] behind blocks of so many rows; keys and values go behind what the cache holds."""

    def finish(self, hidden_ED: Tensor, before_ED: Tensor | None) -> Tensor:
        """Features [E, D]; `before_ED` embeds the tokens before the predicted ones (None: first slots)."""


def make_runner(network: DrafterNetwork, target: TargetModel) -> PassRunner:
    """Native kernels if the target uses them, otherwise torch.

    Args:
        network: The drafter; kernels take its layers away.
        target: Whose attention, or kernels, it is to share.
    """
    kernels = target.native
    if kernels and kernels.exact and network.recipe.mixer == "linear" and suits_layer(network.layer):
        return NativePassRunner(network)
    network.attend_by(implementation(target.backend))  # even where the target reads by its own attention
    if kernels:
        swap_inside(network, "int8")
    return TorchPassRunner(network)


class TorchPassRunner:
    """The network as it was trained."""

    def __init__(self, network: DrafterNetwork):
        self.network = network

    def new_cache(self, limit: int) -> StaticCache:
        """See `PassRunner`."""
        norm_D = self.network.layer.input_layernorm.weight  # kernels may have taken the matrices
        return StaticCache(1, *self.network.layer.kv_shape, limit, norm_D.dtype, norm_D.device)

    def mix(self, embedded_BLD: Tensor, features_BLD: Tensor, state: LstmState | None) -> Mixed:
        """See `PassRunner`."""
        return self.network.mix(embedded_BLD, features_BLD, state)

    def attend(self, mixed_BLD: Tensor, view: View, block: int, cache: KeyValueCache) -> Tensor:
        """See `PassRunner`."""
        assert isinstance(cache, StaticCache)
        blocks = Blocks.of_rows(view.position_T, block, self.network.k)
        return self.network.attend(mixed_BLD, blocks, cache=cache, falcon_view=view)

    def finish(self, hidden_ED: Tensor, before_ED: Tensor | None) -> Tensor:
        """See `PassRunner`."""
        return self.network.finish(hidden_ED, before_ED)


class NativePassRunner:
    """The network on the kernels, a call a step; for linear mixers."""

    def __init__(self, network: DrafterNetwork, kind: WeightFormat = "int8"):
        self.k = network.k
        self.epsilon = network.epsilon
        self.scale_D = network.scale_D.float() if network.recipe.normalise else _NONE
        self.norm_D = _NONE if network.norm_D is None else network.norm_D.detach().float()
        self.mixer = packed([network.mixer], kind)
        self.own: PackedMatrix | None = None
        if network.recipe.start == "block":
            self.own, self.slot_KD = packed([network.own], kind), network.slot_KD.detach().float()
        self.gate: PackedMatrix | None = None
        self.change: PackedMatrix | None = None
        if network.chained:
            first, _, last = cast(tuple[nn.Linear, nn.Module, nn.Linear], tuple(network.chain))
            value, gate = (linear_of(part) for part in first.weight.detach().chunk(2))
            self.gate, self.change = packed_gate_up(gate, value, kind), packed([last], kind)
        handles = (matrix and matrix.handle for matrix in (self.mixer, self.own, self.gate, self.change))
        self.steps = torch.classes.falcon.Drafter(*handles)
        self.decoder = NativeDecoder(nn.ModuleList([network.layer]), None, network.rotary[0], kind)
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def new_cache(self, limit: int) -> PanelCache:
        """See `PassRunner`."""
        return self.decoder.new_cache(limit)

    def mix(self, embedded_BLD: Tensor, features_BLD: Tensor, state: LstmState | None) -> Mixed:
        """See `PassRunner`."""
        mixed = self.steps.mix(embedded_BLD, features_BLD, self.scale_D)
        return Mixed(mixed, state)

    def attend(self, mixed_BLD: Tensor, view: View, block: int, cache: KeyValueCache) -> Tensor:
        """See `PassRunner`."""
        assert isinstance(cache, PanelCache)
        mixed_LD = mixed_BLD.flatten(0, 1)
        start_LD = mixed_LD
        if self.own is not None:
            last_L, slot_L = self._places_of(len(mixed_LD), block)
            start_LD = self.steps.start(mixed_LD, last_L, slot_L, self.slot_KD)
        return self.decoder.forward(start_LD, view, cache, mixed_LD).view_as(mixed_BLD)

    def finish(self, hidden_ED: Tensor, before_ED: Tensor | None) -> Tensor:
        """See `PassRunner`."""
        before_ED = before_ED if before_ED is not None and self.gate else _NONE
        features_ED: Tensor = self.steps.finish(hidden_ED, before_ED, self.norm_D, self.epsilon)
        return features_ED

    def _places_of(self, rows: int, block: int) -> tuple[Tensor, Tensor]:
        """For each row, its block's last one and its slot."""
        if (rows, block) not in self._places:
            blocks = Blocks.of_rows(torch.arange(rows), block, self.k)
            self._places[rows, block] = blocks.last_BL[0], blocks.slot_BL[0] - 1
        return self._places[rows, block]


_NONE = torch.empty(0)
