"""All passes of a draft at once, on whole known texts: what pass p would predict from every block of a text.

The first pass reads true features; each later one reads, in a block, the features that the pass before predicted for
it, with the text's own tokens. Every block of the text is the start of a draft. The passes' inputs stand one behind the
other as streams; `blocks.py` draws which row sees which.

Shapes: B batch, L positions (a multiple of k), D hidden size, Q streams, C mixer layers.
"""

import torch
from torch import Tensor

from falcon_cli.drafters.falcon.blocks import Blocks
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
    mixed, states = _first_stream(network, embedded_BLD, features_BLD)
    streams, predicted = [mixed], []
    for stream in range(passes):
        blocks = Blocks.of_texts(length_B, length, k, streams=stream + 1)
        hidden = network.attend(torch.cat(streams, 1), blocks, attention_mask=blocks.mask_BLL)[:, -length:]
        out_BLD = network.finish(hidden, before_BLD, blocks.later_BL[:, -length:])
        predicted.append(out_BLD)
        if stream + 1 < passes:
            features_BLD = torch.cat([features_BLD[:, :k], out_BLD[:, :-k]], 1)
            mixed, states = _later_stream(network, embedded_BLD, features_BLD, states)
            streams.append(mixed)
    return predicted


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
