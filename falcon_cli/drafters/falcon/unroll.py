"""All passes of a draft at once, on whole known texts: what pass p would predict from every block of a text.

The first pass reads true features; each later one reads, in a block, the features that the pass before predicted for
it, with the text's own tokens. Every block of the text is the start of a draft. Stream q holds the inputs of pass
q + 1; row (q, block b) comes from the draft that started q blocks before and sees

    stream 0    blocks ..., b − q          true, committed
    stream r    block b − q + r            for r = 1 .. q: the draft's own blocks on the way, itself the last

k = 2, two streams, three blocks; columns are blocks of stream 0, then of stream 1:

    stream 0    1 . . | . . .
                1 1 . | . . .
                1 1 1 | . . .
    stream 1    . . . | 1 . .     (no draft started before the first block: not meant to be read)
                1 . . | . 1 .
                1 1 . | . . 1

Shapes: B batch, L positions (a multiple of k), D hidden size, Q streams, C mixer layers.
"""

import torch
from torch import Tensor

from falcon_cli.drafters.falcon.blocks import block_L, last_seen_BL
from falcon_cli.drafters.falcon.network import DrafterNetwork, LstmState


def unrolled(
    network: DrafterNetwork,
    embedded_BLD: Tensor,
    features_BLD: Tensor,
    before_BLD: Tensor,
    length_B: Tensor,
    passes: int,
) -> list[Tensor]:
    """Predicted features of each pass, [B, L, D] each: position i predicts feature i + k.

    Blocks begin at position 0. Pass p says something sensible from block p − 1 on.
    """
    k, length = network.k, features_BLD.shape[1]
    positions = torch.arange(length, device=features_BLD.device)
    mixed, states = _first_stream(network, embedded_BLD, features_BLD)
    streams, predicted = [mixed], []
    for stream in range(passes):
        mask = streams_mask(length_B, length, k, stream + 1)
        place = positions.repeat(stream + 1)[None]
        hidden = network.attend(torch.cat(streams, 1), place, last_seen_BL(mask), attention_mask=mask)[:, -length:]
        out_BLD = network.finish(hidden, before_BLD, positions % k > 0)
        predicted.append(out_BLD)
        if stream + 1 < passes:
            features_BLD = torch.cat([features_BLD[:, :k], out_BLD[:, :-k]], 1)
            mixed, states = _later_stream(network, embedded_BLD, features_BLD, states)
            streams.append(mixed)
    return predicted


def streams_mask(length_B: Tensor, length: int, k: int, streams: int, phase: int = 0) -> Tensor:
    """Boolean [B, 1, Q·L, Q·L]: which position of which stream each sees; the first block holds k − phase positions."""
    device = length_B.device
    block = block_L(length, k, phase, device).repeat(streams)
    stream = torch.arange(streams, device=device).repeat_interleave(length)
    start = (block - stream)[:, None]  # last block that was true when the row's draft began
    seen = torch.where(stream == 0, block <= start, (block == start + stream) & (stream <= stream[:, None]))
    real_BL = (torch.arange(length, device=device) < length_B[:, None]).repeat(1, streams)
    itself = torch.eye(streams * length, dtype=torch.bool, device=device)
    return ((seen & real_BL[:, None, :]) | itself)[:, None]


def _first_stream(
    network: DrafterNetwork, embedded_BLD: Tensor, features_BLD: Tensor
) -> tuple[Tensor, list[LstmState] | None]:
    """Mixed inputs, and for an LSTM along time its state after every block."""
    if network.recipe.mixer != "time":
        return network.mix(embedded_BLD, features_BLD).hidden_BLD, None
    parts, states, state = [], [], None
    for begin in range(0, features_BLD.shape[1], network.k):
        block = slice(begin, begin + network.k)
        mixed = network.mix(embedded_BLD[:, block], features_BLD[:, block], state)
        state = mixed.state
        assert state is not None, "an LSTM has a state"
        parts.append(mixed.hidden_BLD)
        states.append(state)
    return torch.cat(parts, 1), states


def _later_stream(
    network: DrafterNetwork, embedded_BLD: Tensor, features_BLD: Tensor, states: list[LstmState] | None
) -> tuple[Tensor, list[LstmState] | None]:
    """Every block by itself, its LSTM going on from the block before in the stream before."""
    if states is None:
        return network.mix(embedded_BLD, features_BLD).hidden_BLD, None
    parts, after = [], []
    for number, before in enumerate([None, *states[:-1]]):
        block = slice(number * network.k, (number + 1) * network.k)
        mixed = network.mix(embedded_BLD[:, block], features_BLD[:, block], before)
        assert mixed.state is not None, "an LSTM has a state"
        parts.append(mixed.hidden_BLD)
        after.append(mixed.state)
    return torch.cat(parts, 1), after
